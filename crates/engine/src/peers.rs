//! What the tasks of one stage in this process know of each other's event time.
//!
//! A partition without input would hold its windows open for ever. While it is idle it follows
//! the others.

use headwater_event::clock::Micros;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::time::common_watermark;

/// The tasks of one stage, by partition.
#[derive(Debug)]
pub struct Peers {
    slots: Mutex<Vec<Slot>>,
    changed: watch::Sender<()>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slot {
    watermark: Option<Micros>,
    idle: bool,
}

impl Peers {
    pub fn new(partitions: u32) -> Self {
        Self {
            slots: Mutex::new(vec![Slot::default(); partitions as usize]),
            changed: watch::Sender::new(()),
        }
    }

    /// Says where a task stands. Wakes the idle ones, who may follow.
    pub fn report(&self, partition: u32, watermark: Option<Micros>, idle: bool) {
        let mut slots = self.slots.lock();
        let Some(slot) = slots.get_mut(partition as usize) else {
            return;
        };
        let now = Slot { watermark, idle };
        if *slot == now {
            return;
        }
        *slot = now;
        if slots.iter().any(|slot| slot.idle) {
            self.changed.send_replace(());
        }
    }

    /// The watermark that an idle task may take over.
    pub fn watermark(&self) -> Option<Micros> {
        let slots = self.slots.lock();
        common_watermark(slots.iter().map(|slot| (slot.watermark, slot.idle)))
    }

    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}
