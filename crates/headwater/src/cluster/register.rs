//! A topic in which processes say something of somebody: two text columns, a name and what is said of it as JSON, or NULL
//! where nothing holds any more.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use headwater_event::clock::Micros;
use headwater_event::offset::{Offset, TopicPartition};
use headwater_log::error::Result;
use headwater_log::topic::{Cleanup, TopicSpec};
use headwater_log::{Log, Produced};
use serde::Serialize;
use serde::de::DeserializeOwned;

const READ_BYTES_MAX: usize = 4 << 20;

/// Reads what is said, from a place on.
#[derive(Debug)]
pub struct Register {
    log: Arc<dyn Log>,
    partition: TopicPartition,
    next: Offset,
}

/// What was said.
#[derive(Debug)]
pub struct Said<T> {
    pub name: String,
    /// `None` where nothing holds any more.
    pub what: Option<T>,
}

impl Register {
    /// Makes the topic where there is none; reads from `since` on, or from the beginning.
    pub async fn open(log: &Arc<dyn Log>, topic: &str, cleanup: Cleanup, since: Option<Micros>) -> Result<Self> {
        let spec = TopicSpec {
            name: topic.to_owned(),
            schema: Arc::new(schema()),
            partitions: 1,
            cleanup,
            events: None,
        };
        log.create_topic(spec).await?;
        let partition = TopicPartition::new(topic, 0);
        let next = match since {
            Some(time) => log.offset_at(&partition, time).await?,
            None => 0,
        };
        Ok(Self {
            log: Arc::clone(log),
            partition,
            next,
        })
    }

    /// All that was said since the last time. What can't be understood is left out: it is from another version.
    pub async fn news<T: DeserializeOwned>(&mut self) -> Result<Vec<Said<T>>> {
        let mut news = Vec::new();
        loop {
            let batches = self.log.read(&self.partition, self.next, READ_BYTES_MAX, None).await?;
            let Some(last) = batches.last() else { return Ok(news) };
            self.next = last.next();
            for batch in &batches {
                let (names, said) = (
                    batch.rows.column(0).as_string::<i32>(),
                    batch.rows.column(1).as_string::<i32>(),
                );
                for row in 0..batch.rows.num_rows() {
                    let what = said.is_valid(row).then(|| serde_json::from_str(said.value(row)));
                    match what.transpose() {
                        Ok(what) => news.push(Said {
                            name: names.value(row).to_owned(),
                            what,
                        }),
                        Err(error) => tracing::warn!(topic = &*self.partition.topic, %error, "left out"),
                    }
                }
            }
        }
    }

    /// Returns when there is news.
    pub async fn wait(&self) -> Result<()> {
        self.log.wait(&self.partition, self.next).await
    }

    /// What has to be appended to say something.
    pub fn saying<T: Serialize>(&self, name: &str, what: Option<&T>) -> Result<Produced> {
        // Maps with text as keys, numbers and text: JSON can say all of it.
        let text = what.and_then(|what| serde_json::to_string(what).ok());
        let columns: Vec<Arc<dyn Array>> = vec![
            Arc::new(StringArray::from_iter_values([name])),
            Arc::new(StringArray::from(vec![text])),
        ];
        Ok(Produced {
            partition: self.partition.clone(),
            rows: RecordBatch::try_new(Arc::new(schema()), columns)?,
            progress: None,
        })
    }
}

fn schema() -> Schema {
    Schema::new(vec![
        Field::new("name", DataType::Utf8, false),
        Field::new("said", DataType::Utf8, true),
    ])
}
