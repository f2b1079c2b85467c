//! What the tasks of one stage in this process know of each other's event time.
//!
//! A partition without input would hold its windows open for ever. While it is idle it follows
//! the others.
//!
//! # When an idle partition has rows again
//! The readers of its output don't wait for it: they may be as far as the others have brought them. What is older
//! than that would be lost there, so it has to be found late here:
//! 1. The task says to the readers that it is not idle any more, and commits that.
//! 2. It takes over the greatest watermark that the readers can have reached before that ([`Peers::reached`]). What
//!    they read after it brings them no further than this task.
//! 3. Only then are the rows looked at. That it is idle no longer is in its state from their commit on, so that a task that ends
//!    before that begins at 1 again.
//!
//! A task says here where it will stand, and that it will be idle, *before* it commits that, and that it is not idle
//! any more *after*. So what the readers know is never ahead of what was known here at some time. After a restart
//! it is recalled from what was committed.

use headwater_event::clock::Micros;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::time::common_watermark;

/// The tasks of one stage, by partition.
#[derive(Debug)]
pub struct Peers {
    known: Mutex<Known>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Known {
    /// By partition; `None` where a task has said nothing yet.
    slots: Vec<Option<Slot>>,
    reached: Option<Micros>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    watermark: Option<Micros>,
    idle: bool,
}

impl Peers {
    pub fn new(partitions: u32) -> Self {
        Self {
            known: Mutex::new(Known {
                slots: vec![None; partitions as usize],
                reached: None,
            }),
            changed: watch::Sender::new(()),
        }
    }

    /// Says where a task stands. Wakes the idle ones, who may follow.
    pub fn report(&self, partition: u32, watermark: Option<Micros>, idle: bool) {
        let mut known = self.known.lock();
        if known.put(partition, Slot { watermark, idle }) && known.slots.iter().flatten().any(|slot| slot.idle) {
            self.changed.send_replace(());
        }
    }

    /// Says where a task stood when it last committed, unless it has said more itself.
    pub fn recall(&self, partition: u32, watermark: Option<Micros>, idle: bool) {
        let mut known = self.known.lock();
        if let Some(None) = known.slots.get(partition as usize) {
            known.put(partition, Slot { watermark, idle });
        }
    }

    /// The watermark that an idle task may take over.
    pub fn watermark(&self) -> Option<Micros> {
        self.known.lock().watermark()
    }

    /// The greatest watermark that the tasks have had in common.
    pub fn reached(&self) -> Option<Micros> {
        self.known.lock().reached
    }

    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl Known {
    /// Whether anything is new.
    fn put(&mut self, partition: u32, new: Slot) -> bool {
        let Some(slot) = self.slots.get_mut(partition as usize) else {
            return false;
        };
        if *slot == Some(new) {
            return false;
        }
        *slot = Some(new);
        self.reached = self.reached.max(self.watermark());
        true
    }

    fn watermark(&self) -> Option<Micros> {
        // Who has said nothing may have read anything.
        let slots = self.slots.iter().map(|slot| match slot {
            Some(slot) => (slot.watermark, slot.idle),
            None => (None, false),
        });
        common_watermark(slots)
    }
}
