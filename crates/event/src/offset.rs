//! Where an event stands in the log.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The place of one event within a partition. Offsets increase; they need not be dense.
pub type Offset = u64;

/// Who has come as far has read all of a partition that keeps these offsets. Where it keeps nothing, wherever it ends, everybody has.
pub fn to_reach(kept: &Range<Offset>) -> Offset {
    if kept.is_empty() { 0 } else { kept.end }
}

/// How many of the offsets that are kept lie before who reads on at `next`: at least as many as rows.
pub fn behind(kept: &Range<Offset>, next: Offset) -> u64 {
    kept.end.saturating_sub(next.max(kept.start))
}

/// One partition of one topic, counted from 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: u32,
}

impl TopicPartition {
    pub fn new(topic: impl Into<Arc<str>>, partition: u32) -> Self {
        Self {
            topic: topic.into(),
            partition,
        }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_has_not_to_be_read() {
        // An emptied partition may begin far behind what was read of it.
        assert_eq!((behind(&(100..100), 7), to_reach(&(100..100))), (0, 0));
        assert_eq!((behind(&(100..107), 7), to_reach(&(100..107))), (7, 107));
        assert_eq!(behind(&(0..10), 4), 6);
        assert_eq!(behind(&(0..10), 12), 0);
    }
}
