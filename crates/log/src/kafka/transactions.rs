//! Writing: everything that is written, is written in a transaction of somebody with an id.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use headwater_event::clock::Micros;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::client::{Client, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use crate::error::{Error, Result};
use crate::kafka::connection::{ANSWER_TIME_MAX, Connection};
use crate::kafka::context::Context;
use crate::kafka::rights;

/// How often to look for answers. The client itself doesn't sleep for less than a millisecond, and looks again and again instead.
const POLL_TIME: Duration = Duration::from_micros(200);

/// How often to ask for a topic until a client is settled.
const SETTLE_TRIES_MAX: usize = 5;

/// What is to be written.
#[derive(Clone, Debug)]
pub struct Record {
    pub topic: Arc<str>,
    /// `None` is the one that the key has, as with Kafka's own producers.
    pub partition: Option<u32>,
    pub key: Option<Bytes>,
    /// `None` removes the key from a compacted topic.
    pub value: Option<Bytes>,
    /// Kept to the millisecond; `None` is the machine's time.
    pub time: Option<Micros>,
}

/// The right to write under a transactional id, until somebody else takes it over.
pub struct Transactions {
    id: String,
    /// Transactions of one id come one after another.
    producer: Mutex<BaseProducer<Deliveries>>,
}

/// Where the records of the present transaction have come to stand, by their number in it.
struct Deliveries {
    context: Context,
    placed: Mutex<Vec<(usize, Result<i64, RDKafkaErrorCode>)>>,
}

impl ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, file: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.context.generate_oauth_token(file)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, delivered: &DeliveryResult<'_>, number: usize) {
        let placed = match delivered {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)),
        };
        self.placed.lock().push((number, placed));
    }
}

/// What became of a transaction.
pub enum Failure {
    /// Nothing of it is visible, and the next one may succeed.
    Aborted(Error),
    /// Nothing of it is visible, and this producer is of no more use.
    Broken(Error),
}

impl Failure {
    pub fn into_error(self) -> Error {
        match self {
            Self::Aborted(error) | Self::Broken(error) => error,
        }
    }
}

impl Transactions {
    /// Takes the id over: what its former holder had not committed is gone, and it can write nothing more. `topic` is any one that is there.
    pub fn open(connection: &Connection, id: &str, topic: &str) -> Result<Self> {
        let config = connection.transactional(id);
        let deliveries = Deliveries {
            context: connection.context(),
            placed: Mutex::default(),
        };
        let producer: BaseProducer<Deliveries> = config.create_with_context(deliveries)?;
        connection.admit(producer.client())?;
        settle(producer.client(), topic);
        producer
            .init_transactions(ANSWER_TIME_MAX * 3)
            .map_err(|error| rights::on_transactional_id(id, &error))?;
        Ok(Self {
            id: id.to_owned(),
            producer: Mutex::new(producer),
        })
    }

    /// Takes several over.
    pub fn open_all(connection: &Connection, ids: &[String], topic: &str) -> Result<Vec<Self>> {
        std::thread::scope(|scope| {
            let opening = ids
                .iter()
                .map(|id| scope.spawn(move || Self::open(connection, id, topic)));
            let opening: Vec<_> = opening.collect();
            let opened = opening.into_iter().map(|opening| {
                let opened = opening.join();
                opened.map_err(|_| Error::Kafka("opening transactions panicked".to_owned()))?
            });
            opened.collect()
        })
    }

    /// Writes all records or none, and answers where each stands. Blocks until the cluster has decided.
    pub fn write(&self, records: &[Record]) -> Result<Vec<i64>, Failure> {
        let producer = self.producer.lock();
        producer.context().placed.lock().clear();
        producer.begin_transaction().map_err(|error| self.broken(&error))?;
        match self.produce(&producer, records) {
            Ok(offsets) => {
                self.commit(&producer, records)?;
                Ok(offsets)
            }
            Err(error) => Err(self.abort(&producer, records, why(&producer, error))),
        }
    }

    fn produce(&self, producer: &BaseProducer<Deliveries>, records: &[Record]) -> Result<Vec<i64>, KafkaError> {
        for (number, record) in records.iter().enumerate() {
            let mut message = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&record.topic, number);
            message.timestamp = record.time.map(|time| time.div_euclid(1000));
            message.partition = record
                .partition
                .map(|partition| i32::try_from(partition).unwrap_or(i32::MAX));
            message.key = record.key.as_deref();
            message.payload = record.value.as_deref();
            while let Err((error, returned)) = producer.send(message) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(error);
                }
                message = returned;
                wait_for_answers(producer);
            }
        }
        while producer.in_flight_count() > 0 {
            wait_for_answers(producer);
        }
        producer.poll(Duration::ZERO);
        let mut offsets = vec![-1; records.len()];
        for (number, placed) in producer.context().placed.lock().drain(..) {
            offsets[number] = placed.map_err(KafkaError::MessageProduction)?;
        }
        Ok(offsets)
    }

    /// Asks again until there is an answer: whether it is committed is known only then.
    fn commit(&self, producer: &BaseProducer<Deliveries>, records: &[Record]) -> Result<(), Failure> {
        loop {
            match producer.commit_transaction(ANSWER_TIME_MAX) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() => {
                    tracing::warn!(id = self.id, %error, "Kafka hasn't answered a commit, asking again");
                }
                Err(error) => return Err(self.abort(producer, records, error)),
            }
        }
    }

    fn abort(&self, producer: &BaseProducer<Deliveries>, records: &[Record], cause: KafkaError) -> Failure {
        let fatal = matches!(&cause, KafkaError::Transaction(error) if error.is_fatal());
        if fatal {
            return self.broken(&cause);
        }
        match abort_transaction(producer) {
            Ok(()) => Failure::Aborted(rights::on_written(records, cause)),
            // A transaction that the cluster has refused to begin it can't end either.
            Err(error) => match rights::on_written(records, cause) {
                missing @ Error::NoRight { .. } => Failure::Broken(missing),
                _ => self.broken(&error),
            },
        }
    }

    fn broken(&self, error: &KafkaError) -> Failure {
        let taken = matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch)
        );
        let owner = self.id.clone();
        Failure::Broken(match taken {
            true => Error::Fenced { owner },
            false => Error::Kafka(format!("transactions of '{owner}': {error}")),
        })
    }
}

/// Ends the transaction when all its records are answered for. Nobody else looks for the answers meanwhile. To purge what is on its way, which
/// is quicker, would leave a gap in the sequence of what this producer writes, and the next transaction would fail for it.
fn abort_transaction(producer: &BaseProducer<Deliveries>) -> KafkaResult<()> {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                wait_for_answers(producer);
            }
        });
        let aborted = producer.abort_transaction(ANSWER_TIME_MAX);
        ended.store(true, Ordering::Relaxed);
        aborted
    })
}

/// Takes in what answers there are; for a moment, if there are none.
fn wait_for_answers(producer: &BaseProducer<Deliveries>) {
    let before = producer.in_flight_count();
    producer.poll(Duration::ZERO);
    if producer.in_flight_count() == before {
        std::thread::sleep(POLL_TIME);
    }
}

/// What records were thrown away for: that is told by the commit of their transaction. It can't succeed: as librdkafka documents of
/// `rd_kafka_commit_transaction`, one record that failed for good leaves a transaction that can only be aborted.
fn why(producer: &BaseProducer<Deliveries>, error: KafkaError) -> KafkaError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::PurgeQueue) => producer.commit_transaction(ANSWER_TIME_MAX).err().unwrap_or(error),
        _ => error,
    }
}

/// Returns when the client is connected to a broker that the cluster has named, or can't be. It leaves the one that it was given for
/// that, and if it looks for its coordinator too early, it looks again only half a second later.
fn settle(client: &Client<Deliveries>, topic: &str) {
    let mut answers = 0;
    for _ in 0..SETTLE_TRIES_MAX {
        answers += usize::from(client.fetch_metadata(Some(topic), ANSWER_TIME_MAX).is_ok());
        if answers == 2 {
            return;
        }
    }
}
