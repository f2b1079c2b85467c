//! Rights that brokers ask an authorizer for: which one is missing, on what, and how to give it. The words for them are Kafka's own.

use std::collections::BTreeSet;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::Error;
use crate::kafka::transactions::Record;

/// What the cluster says to who has no right to something on the topic, or anything else.
pub(super) fn on_topic(topic: &str, right: &str, code: RDKafkaErrorCode) -> Error {
    match is_no_right(code) {
        true => missing(right, &format!("topic '{topic}'"), &format!("--topic '{topic}'")),
        false => Error::Kafka(format!("topic '{topic}' ({right}): {code}")),
    }
}

/// Why nobody can write under the transactional id.
pub(super) fn on_transactional_id(id: &str, error: &KafkaError) -> Error {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::TransactionalIdAuthorizationFailed) => missing(
            "Write",
            &format!("transactional id '{id}'"),
            &format!("--transactional-id '{id}'"),
        ),
        _ => Error::Kafka(format!("no transactions for '{id}': {error}")),
    }
}

/// Why none of the records was written. Of which topic it is about, the cluster doesn't say.
pub(super) fn on_written(records: &[Record], error: KafkaError) -> Error {
    if !error.rdkafka_error_code().is_some_and(is_no_right) {
        return error.into();
    }
    let topics: BTreeSet<&str> = records.iter().map(|record| &*record.topic).collect();
    let each = |before: &str, between: &str| {
        let named: Vec<_> = topics.iter().map(|topic| format!("{before}'{topic}'")).collect();
        named.join(between)
    };
    missing("Write", &format!("topic {}", each("", " or ")), &each("--topic ", " "))
}

/// Whether it is about the group that consumers have to name, and never join: nothing that they do needs a right to it.
pub(super) fn is_about_group(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
}

fn is_no_right(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed
    )
}

fn missing(right: &str, on: &str, option: &str) -> Error {
    Error::NoRight {
        right: right.to_owned(),
        on: on.to_owned(),
        grant: format!("kafka-acls --bootstrap-server … --add --allow-principal User:… --operation {right} {option}"),
    }
}
