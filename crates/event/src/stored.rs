//! How far streams had come when somebody stored events: what ingest answers, and what a reader hands in to see them.
//!
//! As text it is a token that clients keep and hand on, without looking into it. It stands in headers and addresses as it is:
//!
//! ```text
//! token  = stream *( "." stream )
//! stream = id 1*( "~" partition "-" offset )      ; all of them decimal
//! ```
//!
//! `2~0-18~1-4` is the stream with the id 2, up to offset 18 of partition 0 and offset 4 of partition 1. Ids are never used again, so a
//! token of a stream that was made anew is not taken for one of its successor. Several tokens with commas between are one: of
//! each partition the furthest offset counts.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::offset::Offset;

/// The offset after the last event that counts, of partitions of streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored(BTreeMap<(u64, u32), Offset>);

/// The text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoToken;

impl Stored {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in that a partition of a stream goes up to `offset` at least.
    pub fn note(&mut self, stream: u64, partition: u32, offset: Offset) {
        let known = self.0.entry((stream, partition)).or_default();
        *known = offset.max(*known);
    }

    pub fn merge(&mut self, other: &Self) {
        for (stream, partition, offset) in other.iter() {
            self.note(stream, partition, offset);
        }
    }

    /// Whether each partition of the other is as far here.
    pub fn covers(&self, other: &Self) -> bool {
        let is_here = |(place, offset): (&(u64, u32), &Offset)| self.0.get(place).is_some_and(|here| here >= offset);
        other.0.iter().all(is_here)
    }

    /// Streams by their ids, partitions and offsets, in this order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u32, Offset)> {
        self.0
            .iter()
            .map(|(&(stream, partition), &offset)| (stream, partition, offset))
    }

    /// The ids of the streams.
    pub fn streams(&self) -> impl Iterator<Item = u64> {
        let mut last = None;
        let ids = self.0.keys().map(|&(stream, _)| stream);
        ids.filter(move |&stream| last.replace(stream) != Some(stream))
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = None;
        for (stream, partition, offset) in self.iter() {
            match last.replace(stream) {
                Some(last) if last == stream => {}
                Some(_) => write!(f, ".{stream}")?,
                None => write!(f, "{stream}")?,
            }
            write!(f, "~{partition}-{offset}")?;
        }
        Ok(())
    }
}

impl FromStr for Stored {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let mut stored = Self::default();
        for stream in text.split([',', '.']) {
            let mut parts = stream.trim().split('~');
            let id = parts.next().and_then(number).ok_or(NoToken)?;
            let mut has_some = false;
            for part in parts {
                let (partition, offset) = part.split_once('-').ok_or(NoToken)?;
                let partition = number(partition).and_then(|partition| u32::try_from(partition).ok());
                stored.note(id, partition.ok_or(NoToken)?, number(offset).ok_or(NoToken)?);
                has_some = true;
            }
            if !has_some {
                return Err(NoToken);
            }
        }
        Ok(stored)
    }
}

/// Digits alone: no sign, as `parse` would take it.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_as_what_it_was_written_as() {
        let mut stored = Stored::default();
        for (stream, partition, offset) in [(2, 0, 18), (7, 3, u64::MAX), (2, 1, 4), (2, 0, 5)] {
            stored.note(stream, partition, offset);
        }
        let text = "2~0-18~1-4.7~3-18446744073709551615";
        assert_eq!(stored.to_string(), text);
        assert_eq!(text.parse(), Ok(stored.clone()));
        assert_eq!(stored.streams().collect::<Vec<_>>(), [2, 7]);
    }

    #[test]
    fn of_several_the_furthest_counts() {
        let merged: Stored = "2~0-18~1-4, 2~0-3~1-9.5~0-1".parse().unwrap();
        assert_eq!(merged.to_string(), "2~0-18~1-9.5~0-1");
        let mut one: Stored = "2~0-18~1-4".parse().unwrap();
        one.merge(&"2~0-3~1-9.5~0-1".parse().unwrap());
        assert_eq!(one, merged);
        assert!(one.covers(&"2~0-18~1-4".parse().unwrap()));
        assert!(!one.covers(&"2~0-19".parse().unwrap()) && !one.covers(&"2~2-1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for wrong in [
            "",
            ",",
            "2",
            "2~",
            "2~0",
            "2~0-",
            "~0-1",
            "2~0-1.",
            "2~0-1,",
            "2~-0-1",
            "2~0-+1",
            "2~4294967296-1",
            "2~0-18446744073709551616",
            "0:18,1:4",
            "latest",
            "2~0-1;3~0-1",
            "-2~0-1",
        ] {
            assert_eq!(wrong.parse::<Stored>(), Err(NoToken), "{wrong}");
        }
    }
}
