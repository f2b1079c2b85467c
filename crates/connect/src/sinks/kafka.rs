//! `connector = 'kafka'`: rows as records of a topic, JSON objects under a key. A view's row that goes leaves its key without a
//! value, which takes it out of a compacted topic too.
//!
//! Rows are kept until they are to become visible; then they are written together with the position behind them, in one transaction of Kafka's
//! ([`position`]). Its id belongs to the sink, so that Kafka refuses what another process still writes for it.

mod position;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use async_trait::async_trait;
use bytes::Bytes;
use headwater_catalog::snapshot::nearest;
use headwater_log::kafka::connection::{ANSWER_TIME_MAX, Connection};
use headwater_log::kafka::transactions::{Failure, Record, Transactions};
use headwater_schema::encode::JsonRows;
use rdkafka::consumer::Consumer as _;

use crate::cluster::Cluster;
use crate::options::{About, Options, Refusal};
use crate::sink::{Offsets, Opened, Promise, Rows, Sink, Start, Undeliverable};
use crate::sinks::kafka::position::{Position, TOPIC};
use crate::sinks::{Reads, last_changes};
use crate::source::Error;
use crate::texts::Texts;
use crate::within::Within;

const EXAMPLE: &str = "WITH (connector = 'kafka', brokers = 'localhost:9092', topic = 'orders')";

/// Rows wait so long at most: a transaction costs the same whatever is in it.
const INTERVAL: Duration = Duration::from_millis(100);

/// What is kept until it is written.
const RECORDS_MAX: usize = 32 << 10;
const BYTES_MAX: usize = 16 << 20;

struct Kafka {
    cluster: Cluster,
    topic: Arc<str>,
    /// The places of the columns that make the key of a record; none without a key.
    key: Vec<usize>,
    /// Records are the rows of a view, and not its changes.
    shows_rows: bool,
    open: Option<Open>,
}

/// As long as the connection lasts.
struct Open {
    transactions: Transactions,
    position: Position,
    records: Vec<Record>,
    bytes: usize,
    /// The next offsets behind all rows that came.
    next: Offsets,
}

pub(super) fn open(reads: &Reads<'_>, options: &mut Options<'_>) -> Result<Opened, Refusal> {
    let cluster = Cluster::read(options, EXAMPLE)?;
    let missing = || Refusal::new(About::Statement, "a sink with the connector kafka needs a topic").hint(EXAMPLE);
    let topic = options.text("topic").ok_or_else(missing)?.into();
    let key = match options.text("key") {
        Some(names) => columns(names, reads)?,
        None => reads.key(),
    };
    let sink = Kafka {
        cluster,
        topic,
        shows_rows: reads.is_view() && !key.is_empty() && key == reads.key(),
        key,
        open: None,
    };
    Ok(Opened {
        sink: Box::new(sink),
        interval: INTERVAL,
    })
}

/// The columns of the option `key`, which are separated by commas.
fn columns(names: &str, reads: &Reads<'_>) -> Result<Vec<usize>, Refusal> {
    let column = |name: &str| {
        let name = name.trim();
        reads.rows.index_of(name).map_err(|_| {
            let known = reads.rows.fields().iter().map(|field| field.name().as_str());
            let message = format!("there is no column '{name}' for the key");
            Refusal::new(About::Option("key".to_owned()), message).near(nearest(name, known))
        })
    };
    names.split(',').map(column).collect()
}

#[async_trait]
impl Sink for Kafka {
    fn guarantee(&self) -> &'static str {
        "exactly once, for those who read what is committed: rows and the position behind them are in one transaction of Kafka"
    }

    async fn look(&mut self, within: &Within) -> Result<(), Error> {
        let connection = self.cluster.connection(within)?;
        // A cluster that can't be reached may be there later.
        if connection.reach().is_err() {
            return Ok(());
        }
        self.check_topic(&connection)
    }

    async fn open(&mut self, start: Start<'_>) -> Result<Option<Offsets>, Error> {
        let connection = self.cluster.connection(start.within)?;
        connection.reach().map_err(said)?;
        self.check_topic(&connection)?;
        let position = Position::new(start.identity);
        position.make(&connection).await?;
        // What another process has begun for this sink ends here, so the position is final.
        let transactions = Transactions::open(&connection, &transactional(start.identity), TOPIC);
        let transactions = transactions.map_err(said)?;
        let next = position.read(&connection)?;
        self.open = Some(Open {
            transactions,
            position,
            records: Vec::new(),
            bytes: 0,
            next: next.clone(),
        });
        Ok(Some(next))
    }

    async fn write(&mut self, rows: Rows<'_>) -> Result<Vec<Undeliverable>, Error> {
        let mut records = self.records(rows.rows).map_err(of_rows)?;
        let open = self.opened()?;
        open.bytes += records.iter().map(bytes_of).sum::<usize>();
        open.records.append(&mut records);
        open.next
            .insert(rows.partition, rows.first + rows.rows.num_rows() as u64);
        Ok(Vec::new())
    }

    fn is_full(&self) -> bool {
        let is_full = |open: &Open| open.records.len() >= RECORDS_MAX || open.bytes >= BYTES_MAX;
        self.open.as_ref().is_some_and(is_full)
    }

    async fn prepare(&mut self) -> Result<Promise, Error> {
        Ok(BTreeMap::new())
    }

    async fn publish(&mut self) -> Result<(), Error> {
        let open = self.opened()?;
        let mut records = std::mem::take(&mut open.records);
        records.push(open.position.record(&open.next)?);
        open.bytes = 0;
        let written = open.transactions.write(&records).map_err(Failure::into_error);
        written.map(drop).map_err(said)
    }

    async fn forget(&mut self, start: Start<'_>) -> Result<(), Error> {
        let connection = self.cluster.connection(start.within)?;
        let position = Position::new(start.identity);
        let transactions = Transactions::open(&connection, &transactional(start.identity), TOPIC);
        let written = transactions.map_err(said)?.write(&[position.gone()]);
        written.map(drop).map_err(|failure| said(failure.into_error()))
    }
}

/// A sink's transactional id.
fn transactional(identity: &str) -> String {
    format!("headwater-sink/{identity}")
}

impl Kafka {
    fn opened(&mut self) -> Result<&mut Open, Error> {
        self.open.as_mut().ok_or_else(|| Error::outside("the sink is not open"))
    }

    fn check_topic(&self, connection: &Connection) -> Result<(), Error> {
        let consumer = connection.consumer().map_err(said)?;
        let metadata = consumer.fetch_metadata(Some(&self.topic), ANSWER_TIME_MAX);
        let metadata = metadata.map_err(|error| Error::outside(error.to_string()))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == &*self.topic);
        match topic.is_some_and(|topic| !topic.partitions().is_empty()) {
            true => Ok(()),
            false => Err(Error::outside(format!(
                "there is no topic '{}' on the cluster; make it, with the partitions that it is to have",
                self.topic
            ))),
        }
    }

    fn records(&self, rows: &RecordBatch) -> Result<Vec<Record>, ArrowError> {
        // The op of a change is its last column.
        let content = match self.shows_rows {
            true => rows.project(&(0..rows.num_columns() - 1).collect::<Vec<_>>())?,
            false => rows.clone(),
        };
        let picked = match self.shows_rows {
            true => last_changes(rows, &self.key)?,
            false => (0..rows.num_rows() as u32).map(|row| (row, false)).collect(),
        };
        let texts = Texts::new(&content)?;
        let keys = match self.key.len() {
            0 | 1 => None,
            _ => Some(JsonRows::new(&content.project(&self.key)?)?),
        };
        let record = |(row, is_gone): (u32, bool)| {
            let row = row as usize;
            let key = match (&keys, self.key.first()) {
                (_, None) => None,
                // One column as it is; several as an object.
                (None, Some(column)) => texts.get(row, *column).map(|text| Bytes::from(text.into_owned())),
                (Some(keys), Some(_)) => {
                    let mut key = Vec::new();
                    keys.write(row, &mut key);
                    Some(Bytes::from(key))
                }
            };
            Record {
                topic: Arc::clone(&self.topic),
                partition: None,
                key,
                value: (!is_gone).then(|| texts.object(row).into()),
                time: None,
            }
        };
        Ok(picked.into_iter().map(record).collect())
    }
}

fn bytes_of(record: &Record) -> usize {
    record.value.as_ref().map_or(0, Bytes::len) + record.key.as_ref().map_or(0, Bytes::len)
}

fn said(error: headwater_log::error::Error) -> Error {
    Error::outside(error.to_string())
}

fn of_rows(error: ArrowError) -> Error {
    Error::Rows(error.to_string())
}
