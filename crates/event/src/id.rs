//! Identifiers, from a source that is passed in: random in production, seeded in tests.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use crate::clock::{Clock, Micros};

/// Makes UUIDs of version 7: ordered by the clock, random behind it.
pub struct Ids {
    time: Time,
    random: Mutex<ChaCha8Rng>,
}

enum Time {
    Clock(Arc<dyn Clock>),
    Told(AtomicI64),
}

impl Ids {
    /// Seeded by the operating system.
    pub fn random(clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::seeded(clock, rand::rng().next_u64())
    }

    /// The same seed and clock give the same identifiers.
    pub fn seeded(clock: Arc<dyn Clock>, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            time: Time::Clock(clock),
            random: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
        })
    }

    /// Without a clock: they depend on what [`Ids::begin`] was told last, and on nothing else.
    pub fn told() -> Arc<Self> {
        Arc::new(Self {
            time: Time::Told(AtomicI64::new(0)),
            random: Mutex::new(ChaCha8Rng::seed_from_u64(0)),
        })
    }

    /// From now on they are those of this seed and, without a clock, this time: the same ones give the same identifiers.
    pub fn begin(&self, time: Micros, seed: u64) {
        if let Time::Told(told) = &self.time {
            told.store(time, Ordering::Relaxed);
        }
        *self.random.lock() = ChaCha8Rng::seed_from_u64(seed);
    }

    pub fn uuid(&self) -> Uuid {
        let now = match &self.time {
            Time::Clock(clock) => clock.now(),
            Time::Told(told) => told.load(Ordering::Relaxed),
        };
        let millis = u64::try_from(now / 1000).unwrap_or(0);
        let random: [u8; 10] = self.random.lock().random();
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ids")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_that_are_told_what_to_be_are_the_same_again() {
        let ids = Ids::told();
        let two = |time, seed| {
            ids.begin(time, seed);
            [ids.uuid(), ids.uuid()]
        };
        let first = two(5_000_000, 7);
        assert_ne!(first[0], first[1]);
        assert_ne!(two(5_000_000, 8), first);
        assert_ne!(two(6_000_000, 7), first);
        assert_eq!(two(5_000_000, 7), first);
    }
}
