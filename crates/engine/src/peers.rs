//! What the tasks of one stage in this process know of each other's event time.
//!
//! A partition without input would hold its windows open for ever. While it is idle it follows
//! the others.
//!
//! # When an idle partition has rows again
//! The readers of its output don't wait for it: they may be as far as the others have brought them. What is older
//! than that would be lost there, so it has to be found late here. And it shall not be that late merely because the others were
//! quicker: what is there to be read holds them back.
//! * Before a task brings the readers further, it looks at the partitions of those that are idle ([`Peers::idle`]). If one has rows
//!   that its task has not read, the readers stay where they are until that task has woken. What is known of a task elsewhere is
//!   some time old; so it is taken for idle halfway to that, which holds nobody up that it doesn't hold up itself.
//! * A task that wakes
//!   1. says to the readers that it is not idle any more, and commits that,
//!   2. takes over the greatest watermark that the readers can have reached before that ([`Peers::reached`]; of tasks elsewhere, all that
//!      they were told of). What they read after it brings them no further than this task,
//!   3. only then looks at the rows. That it is idle no longer is in its state, and known here, from their commit on: a task that
//!      ends before that begins at 1 again, and the others hold the readers back until it is through.
//! * A task that becomes idle says so here, and then looks whether it has rows to read after all. Others look at its partition before they
//!   go on, or it finds what they have gone on with.
//!
//! A task says here how far it will bring the readers, and that it will be idle, *before* it commits that, and that it is not idle
//! any more *after*. So what the readers know is never ahead of what was known here at some time. After a restart
//! it is recalled from what was committed.

use std::time::Duration;

use headwater_event::clock::Micros;
use headwater_event::offset::Offset;
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

#[derive(Clone, Copy, Debug)]
struct Slot {
    stand: Stand,
    /// When that came to be known here, where the task doesn't say it itself.
    heard: Option<Duration>,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    /// How far it has brought the readers.
    pub told: Option<Micros>,
    pub idle: bool,
    /// The offset after what it has read of its partition.
    pub read: Offset,
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

    /// Says where a task of this process stands. Wakes the idle ones, who may follow, and those who wait for idle ones.
    pub fn report(&self, partition: u32, stand: Stand) {
        self.put(partition, Slot { stand, heard: None });
    }

    /// Says where a task elsewhere stood when it last committed, as it is known here by now.
    pub fn hear(&self, partition: u32, stand: Stand, now: Duration) {
        let heard = Some(now);
        self.put(partition, Slot { stand, heard });
    }

    /// Says where a task stood when it last committed, unless more is known.
    pub fn recall(&self, partition: u32, stand: Stand) {
        let mut known = self.known.lock();
        if let Some(None) = known.slots.get(partition as usize) {
            let heard = Some(Duration::ZERO);
            known.put(partition, Slot { stand, heard });
        }
    }

    fn put(&self, partition: u32, slot: Slot) {
        let is_new = self.known.lock().put(partition, slot);
        if is_new {
            self.changed.send_replace(());
        }
    }

    /// The partitions that the readers may not be waiting for, this one aside, and the offset after what was read of each. Among them
    /// are those elsewhere of which nothing new was heard since `silent_since`: they may be idle by now.
    pub fn idle(&self, partition: u32, silent_since: Duration) -> Vec<(u32, Offset)> {
        let known = self.known.lock();
        let slots = (0..).zip(&known.slots).filter(|(other, _)| *other != partition);
        let may_be_idle = |slot: &Slot| slot.stand.idle || slot.heard.is_some_and(|heard| heard <= silent_since);
        slots
            .filter_map(|(other, slot)| slot.filter(may_be_idle).map(|slot| (other, slot.stand.read)))
            .collect()
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
        if slot.is_some_and(|slot| slot.stand == new.stand && slot.heard.is_some() == new.heard.is_some()) {
            return false;
        }
        *slot = Some(new);
        self.reached = self.reached.max(self.watermark());
        true
    }

    fn watermark(&self) -> Option<Micros> {
        // Who has said nothing may have read anything.
        let slots = self.slots.iter().map(|slot| match slot {
            Some(Slot { stand, .. }) => (stand.told, stand.idle),
            None => (None, false),
        });
        common_watermark(slots)
    }
}
