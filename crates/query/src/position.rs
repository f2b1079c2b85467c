//! Where a reader of a topic stands: the next offset to read of every partition.
//!
//! As text it is a token that clients keep and hand back to go on: `0:18,1:4`, partition and
//! offset. SSE carries it as the message's id, so that a browser resumes by itself.

use std::fmt;
use std::str::FromStr;

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use headwater_event::clock::Micros;
use headwater_event::offset::{Offset, TopicPartition};
use headwater_log::Log;
use headwater_log::error::Result;

/// The partitions that are read, by number, and the next offset of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position(pub Vec<(u32, Offset)>);

/// Where to begin, as a request says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    Earliest,
    Latest,
    /// The same offset in every partition that is read.
    Offset(Offset),
    /// What was appended at this time or later.
    Time(Micros),
    /// Partitions that it doesn't name are read from the earliest on.
    Token(Vec<(u32, Offset)>),
}

impl From {
    /// The first offset to read of one partition.
    pub async fn resolve(&self, log: &dyn Log, partition: &TopicPartition) -> Result<Offset> {
        match self {
            Self::Earliest => Ok(log.offsets(partition).await?.start),
            Self::Latest => Ok(log.offsets(partition).await?.end),
            Self::Offset(offset) => Ok(*offset),
            Self::Time(time) => log.offset_at(partition, *time).await,
            Self::Token(token) => {
                let known = token.iter().find(|(number, _)| *number == partition.partition);
                Ok(known.map_or(0, |&(_, offset)| offset))
            }
        }
    }
}

/// What a text that isn't a beginning should have been.
pub const FROM_EXPECTED: &str =
    "'earliest', 'latest', an offset, a time such as 2026-01-31T12:00:00Z, or a position such as 0:18,1:4";

impl FromStr for From {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Ok(offset) = text.parse() {
            return Ok(Self::Offset(offset));
        }
        if let Some(token) = token(text) {
            return Ok(Self::Token(token));
        }
        let nanos = string_to_timestamp_nanos(text).map_err(|_| ())?;
        Ok(Self::Time(nanos.div_euclid(1000)))
    }
}

impl Position {
    /// Goes on in one partition.
    pub fn advance(&mut self, partition: u32, next: Offset) {
        if let Some(place) = self.0.iter_mut().find(|(number, _)| *number == partition) {
            place.1 = next;
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (partition, offset)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{partition}:{offset}")?;
        }
        Ok(())
    }
}

fn token(text: &str) -> Option<Vec<(u32, Offset)>> {
    let pair = |pair: &str| {
        let (partition, offset) = pair.split_once(':')?;
        Some((partition.parse().ok()?, offset.parse().ok()?))
    };
    text.split(',').map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_as_the_token_that_it_was_written_as() {
        let mut position = Position(vec![(0, 18), (1, 3)]);
        position.advance(1, 4);
        assert_eq!(position.to_string(), "0:18,1:4");
        assert_eq!("0:18,1:4".parse(), Ok(From::Token(vec![(0, 18), (1, 4)])));
    }

    #[test]
    fn every_way_to_say_where_to_begin() {
        assert_eq!("earliest".parse(), Ok(From::Earliest));
        assert_eq!("latest".parse(), Ok(From::Latest));
        assert_eq!("42".parse(), Ok(From::Offset(42)));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(From::Time(1_000_000)));
        for wrong in ["", "soon", "-1", "0:", "1:2,", "0:1;1:2"] {
            assert_eq!(wrong.parse::<From>(), Err(()), "{wrong}");
        }
    }
}
