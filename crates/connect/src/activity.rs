//! How a source or a sink does, and its rests.

use std::time::Duration;

use futures::poll;
use headwater_event::clock::Clock;
use headwater_log::work::Work;

/// The pause after a failure; twice as long after the next one, and so on.
pub const RETRY_FIRST: Duration = Duration::from_millis(100);
pub const RETRY_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Default)]
pub enum Activity {
    #[default]
    Working,
    /// In another process.
    Elsewhere,
    /// Until the clock has come so far.
    Waiting(Duration),
    Finished,
    Failing {
        why: String,
        until: Duration,
    },
    /// Not tried again.
    Failed(String),
}

impl Activity {
    /// Whether nothing will happen before the clock moves on.
    pub fn rests(&self, now: Duration) -> bool {
        match self {
            Self::Working => false,
            Self::Waiting(until) | Self::Failing { until, .. } => *until > now,
            Self::Elsewhere | Self::Finished | Self::Failed(_) => true,
        }
    }

    /// Whether nothing will happen here any more.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Elsewhere | Self::Finished | Self::Failed(_))
    }

    /// For people, with the reason where there is one.
    pub fn describe(&self) -> (&'static str, Option<String>) {
        match self {
            Self::Working | Self::Waiting(_) => ("running", None),
            Self::Elsewhere => ("elsewhere", None),
            Self::Finished => ("finished", None),
            Self::Failing { why, .. } => ("failing", Some(why.clone())),
            Self::Failed(why) => ("failed", Some(why.clone())),
        }
    }
}

/// Does an owner's work whenever it is this process's to do, until it is over. It is dropped where it is when it becomes another's.
pub async fn here<F>(work: &Work, owner: &str, say: impl Fn(Activity), run: impl Fn() -> F)
where
    F: Future<Output = ()>,
{
    loop {
        if !work.has(owner) {
            say(Activity::Elsewhere);
            work.granted(owner).await;
            say(Activity::Working);
        }
        tokio::select! {
            () = run() => return,
            () = work.withdrawn(owner) => {}
        }
    }
}

/// Waits, and says until when.
pub async fn rest(clock: &dyn Clock, duration: Duration, say: impl FnOnce(Duration)) {
    let mut sleep = clock.sleep(duration);
    // Who moves a clock by hand does so as soon as everything rests: by then the sleep has begun.
    if poll!(&mut sleep).is_pending() {
        say(clock.elapsed() + duration);
        sleep.await;
    }
}
