//! How many events a rate allows by now. Late is made up for: on average it is what was asked for.

use std::num::NonZeroU32;
use std::time::Duration;

/// Events come in lots this far apart, so that high rates don't make a commit for each.
const TICK: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Pace {
    /// `None` is no limit.
    rate: Option<NonZeroU32>,
    started: Duration,
    given: u64,
}

impl Pace {
    pub(super) fn new(rate: Option<NonZeroU32>, now: Duration) -> Self {
        Self {
            rate,
            started: now,
            given: 0,
        }
    }

    /// How many more events may come now.
    pub(super) fn due(&self, now: Duration) -> u64 {
        let Some(rate) = self.rate else { return u64::MAX };
        let passed = now.saturating_sub(self.started).as_micros();
        let all = passed * u128::from(rate.get()) / 1_000_000;
        u64::try_from(all).unwrap_or(u64::MAX).saturating_sub(self.given)
    }

    pub(super) fn gave(&mut self, events: u64) {
        self.given = self.given.saturating_add(events);
    }

    /// How long to wait until the next event is due.
    pub(super) fn wait(&self, now: Duration) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        let micros = (u128::from(self.given) + 1) * 1_000_000;
        let micros = micros.div_ceil(u128::from(rate.get()));
        let at = self.started + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        at.saturating_sub(now).max(TICK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_allows_what_the_rate_says() {
        for rate in [1, 3, 7, 1000, 1_000_000] {
            let start = Duration::from_millis(123);
            let mut pace = Pace::new(NonZeroU32::new(rate), start);
            let mut now = start;
            let mut given = 0;
            while now <= start + Duration::from_secs(10) {
                let due = pace.due(now);
                pace.gave(due);
                given += due;
                let wait = pace.wait(now);
                assert!(wait >= TICK && pace.due(now + wait) > 0, "{rate}");
                now += wait;
            }
            let expected = 10 * u64::from(rate);
            assert!(
                given <= expected && given + u64::from(rate) / 50 + 1 >= expected,
                "{rate}: {given}"
            );
        }
        assert_eq!(Pace::new(None, Duration::ZERO).due(Duration::ZERO), u64::MAX);
    }
}
