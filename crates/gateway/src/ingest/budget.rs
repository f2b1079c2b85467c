//! The bound on what waits at the doors: bytes of bodies, from the first byte that is read to the
//! answer.
//!
//! A door reserves while it reads, so that a flood is refused before it takes memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use headwater_telemetry::metrics::INGEST_QUEUE_BYTES;
use metrics::{Gauge, gauge};

use crate::ingest::error::IngestError;

/// What every request costs beside its body.
const REQUEST_BYTES: usize = 512;

/// Shared by all streams and doors.
pub(super) struct Budget {
    bytes_max: usize,
    used: AtomicUsize,
    gauge: Gauge,
}

/// A part of the budget; given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            used: AtomicUsize::new(0),
            gauge: gauge!(INGEST_QUEUE_BYTES),
        })
    }

    pub(super) fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation, IngestError> {
        let mut reservation = Reservation {
            budget: Arc::clone(self),
            bytes: 0,
        };
        reservation.grow(bytes.saturating_add(REQUEST_BYTES))?;
        Ok(reservation)
    }

    fn take(&self, bytes: usize) -> bool {
        let taken = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            used.checked_add(bytes).filter(|&used| used <= self.bytes_max)
        });
        if taken.is_ok() {
            self.gauge.increment(bytes as f64);
        }
        taken.is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        self.gauge.decrement(bytes as f64);
    }
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let used = self.used.load(Ordering::Acquire);
        write!(f, "Budget({used} of {})", self.bytes_max)
    }
}

impl Reservation {
    /// Reserves more.
    ///
    /// # Errors
    /// [`IngestError::TooBusy`] if others hold what is needed, [`IngestError::TooLarge`] if it will never
    /// be there.
    pub fn grow(&mut self, bytes: usize) -> Result<(), IngestError> {
        if self.bytes.saturating_add(bytes) > self.budget.bytes_max {
            return Err(IngestError::TooLarge {
                bytes_max: self.budget.bytes_max,
            });
        }
        if !self.budget.take(bytes) {
            return Err(IngestError::busy());
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Gives a part back.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.budget.give_back(bytes);
        self.bytes -= bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_budget_refuses_until_something_is_given_back() {
        let budget = Budget::new(2000);
        let mut first = budget.reserve(400).unwrap();
        let second = budget.reserve(400).unwrap();
        assert!(matches!(budget.reserve(0), Err(IngestError::TooBusy { .. })));
        assert!(matches!(first.grow(500), Err(IngestError::TooBusy { .. })));
        drop(second);
        first.grow(500).unwrap();
        first.shrink(500);
        assert!(budget.reserve(400).is_ok());
    }

    #[test]
    fn what_never_fits_is_not_told_to_come_back() {
        let budget = Budget::new(2000);
        assert!(matches!(
            budget.reserve(4000),
            Err(IngestError::TooLarge { bytes_max: 2000 })
        ));
    }
}
