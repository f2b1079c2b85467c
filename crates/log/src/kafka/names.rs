//! What things are called on the cluster.
//!
//! | on the cluster | what |
//! |---|---|
//! | `{prefix}._topics` | every topic and state table that was ever made or deleted, in order |
//! | `{prefix}._owners` | who has claimed what, and what each owner has consumed, compacted |
//! | `{prefix}.{topic}` | the batches of a topic, or its events |
//! | `{prefix}._state.{table}` | the entries of a state table, compacted |
//!
//! Kafka allows `a-z A-Z 0-9 . _ -` and 249 characters. Any other byte of a name becomes `_` and two hexadecimal digits (`$catalog` is
//! `_24catalog`), so that no two names meet, and none meets ours, whose `_` no such digits follow. A name that is too long ends in its hash.

use std::fmt::Write as _;

use xxhash_rust::xxh3::xxh3_128;

const KAFKA_NAME_BYTES_MAX: usize = 249;
const PREFIX_BYTES_MAX: usize = 60;

use crate::error::{Error, Result};
use crate::topic::TopicSpec;

/// Those of one writer, which takes them by turns.
pub(super) type TransactionalIds = [String; 2];

/// The names that begin with a prefix.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub fn new(prefix: &str) -> Result<Self> {
        let fits = (1..=PREFIX_BYTES_MAX).contains(&prefix.len())
            && prefix
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
        if !fits {
            return Err(Error::Invalid(format!(
                "the prefix of Kafka's topics has 1 to {PREFIX_BYTES_MAX} of a-z A-Z 0-9 . -, '{prefix}' doesn't fit"
            )));
        }
        Ok(Self {
            prefix: prefix.to_owned(),
        })
    }

    pub fn registry(&self) -> String {
        format!("{}._topics", self.prefix)
    }

    pub fn owners(&self) -> String {
        format!("{}._owners", self.prefix)
    }

    pub fn topic(&self, name: &str) -> String {
        fitting(format!("{}.", self.prefix), name)
    }

    /// Of a topic that is bound, the name is not ours.
    pub fn of(&self, spec: &TopicSpec) -> String {
        let bound = spec.events.as_ref().and_then(|events| events.bound.clone());
        bound.unwrap_or_else(|| self.topic(&spec.name))
    }

    /// Fails where a stream can't be bound to a topic of this name.
    pub fn check_bound(&self, name: &str) -> Result<()> {
        let fits = (1..=KAFKA_NAME_BYTES_MAX).contains(&name.len())
            && !matches!(name, "." | "..")
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
        if !fits {
            return Err(Error::Invalid(format!(
                "a topic of Kafka has 1 to {KAFKA_NAME_BYTES_MAX} of a-z A-Z 0-9 . _ -, '{name}' doesn't fit"
            )));
        }
        if name.starts_with(&format!("{}.", self.prefix)) || name.starts_with("__") {
            return Err(Error::Invalid(format!(
                "'{name}' is the name of an internal topic: those that begin with '{}.' are Headwater's own, with '__' Kafka's",
                self.prefix
            )));
        }
        Ok(())
    }

    pub fn table(&self, name: &str) -> String {
        fitting(format!("{}._state.", self.prefix), name)
    }

    /// The transactional ids of a session, in which a process commits.
    pub fn session(&self, session: &str) -> TransactionalIds {
        [0, 1].map(|turn| format!("{}/{session}/{turn}", self.prefix))
    }

    /// The transactional ids of a process's appends.
    pub fn appends(&self, process: &str) -> TransactionalIds {
        [0, 1].map(|turn| format!("{}//{process}/{turn}", self.prefix))
    }
}

fn fitting(mut kafka: String, name: &str) -> String {
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-') {
            kafka.push(char::from(byte));
        } else {
            // Writing to a String can't fail.
            let _ = write!(kafka, "_{byte:02x}");
        }
    }
    if kafka.len() > KAFKA_NAME_BYTES_MAX {
        let hash = format!("_h{:032x}", xxh3_128(name.as_bytes()));
        kafka.truncate(KAFKA_NAME_BYTES_MAX - hash.len());
        kafka.push_str(&hash);
    }
    kafka
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_kafka_and_never_meet() {
        let names = Names::new("headwater").unwrap();
        assert_eq!(names.topic("clicks-3.changes"), "headwater.clicks-3.changes");
        assert_eq!(names.topic("$catalog"), "headwater._24catalog");
        assert_eq!(names.table("a_b"), "headwater._state.a_5fb");
        assert_ne!(names.topic("_topics"), names.registry());
        assert_ne!(names.topic("_state.a"), names.table("a"));
        let long = |last: &str| names.topic(&("ü".repeat(300) + last));
        assert!(long("a").len() <= KAFKA_NAME_BYTES_MAX && long("a") != long("b"));
        assert!(names.check_bound("shop_orders.v1").is_ok());
        for bad in ["", "a b", "headwater.clicks-3", "__consumer_offsets", ".."] {
            assert!(names.check_bound(bad).is_err(), "{bad}");
        }
        for bad in ["", "a b", "_x", &"x".repeat(61)] {
            assert!(Names::new(bad).is_err(), "{bad}");
        }
    }
}
