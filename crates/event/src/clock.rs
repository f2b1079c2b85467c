//! The only door to the machine's clock. Everything else is handed a [`Clock`], so that tests
//! and the simulator decide what time it is.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use tokio::sync::watch;

/// Microseconds since 1970-01-01T00:00:00Z: wall-clock time and event time alike.
pub type Micros = i64;

/// Wall-clock time, and waiting for it.
#[async_trait]
pub trait Clock: Debug + Send + Sync + 'static {
    /// The wall clock. It may jump, in either direction.
    fn now(&self) -> Micros;

    /// Time since an arbitrary start; it never goes back. For measuring and for deadlines.
    fn elapsed(&self) -> Duration;

    /// Waits until [`Clock::elapsed`] has grown by `duration`.
    async fn sleep(&self, duration: Duration);
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

/// A clock that stands still until it is moved by hand.
#[derive(Debug)]
pub struct ManualClock {
    started: Micros,
    now: watch::Sender<Micros>,
}

#[allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
impl SystemClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
        })
    }
}

#[async_trait]
#[allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
impl Clock for SystemClock {
    fn now(&self) -> Micros {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        // A machine whose clock stands before 1970 gets 1970: no event can be older.
        since_epoch.map_or(0, |since| Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX))
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

impl ManualClock {
    pub fn new(now: Micros) -> Arc<Self> {
        Arc::new(Self {
            started: now,
            now: watch::Sender::new(now),
        })
    }

    /// Moves the clock on and wakes the sleepers whose time has come.
    pub fn advance(&self, duration: Duration) {
        let micros = Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX);
        self.now.send_modify(|now| *now = now.saturating_add(micros));
    }

    /// Moves the clock to `now`; a clock that is later already stays where it is.
    pub fn advance_to(&self, now: Micros) {
        self.now.send_modify(|at| *at = (*at).max(now));
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Micros {
        *self.now.borrow()
    }

    fn elapsed(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.now() - self.started).unwrap_or(0))
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.elapsed() + duration;
        let mut now = self.now.subscribe();
        while self.elapsed() < until {
            // The sender lives in `self`, so it can't be gone while we wait.
            if now.changed().await.is_err() {
                return;
            }
        }
    }
}
