//! Where a partition begins and ends, and waiting for it to grow. Shared by the back ends.

use headwater_event::offset::{Offset, TopicPartition};
use tokio::sync::watch;

use crate::error::{Error, Result};

/// What readers of a partition may know: everything below `next` is durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub start: Offset,
    pub next: Offset,
    pub gone: Option<Gone>,
}

/// Why nothing more will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    Deleted,
    Closed,
}

impl Ends {
    pub fn new(start: Offset, next: Offset) -> watch::Sender<Self> {
        watch::Sender::new(Self {
            start,
            next,
            gone: None,
        })
    }

    /// Fails where the partition is there no longer.
    pub fn check(&self, partition: &TopicPartition) -> Result<()> {
        match self.gone {
            None => Ok(()),
            Some(Gone::Deleted) => Err(Error::UnknownTopic(partition.topic.to_string())),
            Some(Gone::Closed) => Err(Error::Closed),
        }
    }
}

/// Returns when there is a batch at `from` or after it. A wake-up can't be lost: the receiver
/// exists before the first look. Safe to cancel: nothing is kept between calls.
pub(crate) async fn wait(mut ends: watch::Receiver<Ends>, partition: &TopicPartition, from: Offset) -> Result<()> {
    loop {
        let now = *ends.borrow_and_update();
        now.check(partition)?;
        if now.next > from.max(now.start) {
            return Ok(());
        }
        if ends.changed().await.is_err() {
            return Err(Error::Closed);
        }
    }
}
