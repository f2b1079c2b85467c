//! What the loops around sources and sinks work with.

use std::sync::Arc;

use headwater_event::clock::Clock;
use headwater_event::id::Ids;
use headwater_log::Log;
use headwater_log::work::Work;

use crate::within::Within;

/// What all sources and sinks of a process work with.
#[derive(Clone, Debug)]
pub struct Shared {
    pub log: Arc<dyn Log>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<Ids>,
    /// The topic of what can't be read or delivered.
    pub dead_letters: Arc<str>,
    pub within: Within,
    /// Which of them are to run in this process.
    pub work: Work,
}
