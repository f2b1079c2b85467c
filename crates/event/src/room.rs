//! Memory that several caches share, equally.
//!
//! Shares get smaller as caches are opened. A cache follows when it next takes something in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Memory for caches.
#[derive(Clone, Debug)]
pub struct Room(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes_max: usize,
    caches: AtomicUsize,
}

/// One cache's share of a [`Room`], until it is dropped.
#[derive(Debug)]
pub struct Share(Room);

impl Room {
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Shared {
            bytes_max,
            caches: AtomicUsize::new(0),
        }))
    }

    /// Makes the other shares smaller.
    pub fn share(&self) -> Share {
        self.0.caches.fetch_add(1, Ordering::Relaxed);
        Share(self.clone())
    }
}

impl Share {
    /// What the cache may take now.
    pub fn bytes_max(&self) -> usize {
        let Room(shared) = &self.0;
        shared.bytes_max / shared.caches.load(Ordering::Relaxed).max(1)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.0.caches.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_equal() {
        let room = Room::new(600);
        let first = room.share();
        assert_eq!(first.bytes_max(), 600);
        let (second, third) = (room.share(), room.share());
        assert_eq!((first.bytes_max(), second.bytes_max()), (200, 200));
        drop((second, third));
        assert_eq!(first.bytes_max(), 600);
    }
}
