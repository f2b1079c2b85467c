//! The streams that simulated queries read, and what comes to them.
//!
//! Two streams, `a` and `b`, with the same columns and one course of time. Values are few, so that rows meet, repeat
//! one another and are NULL. After all events each partition gets a *closing row*, far in the future, which
//! closes what is open; its `id` is 0, and queries leave such rows out.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::SchemaRef;
use headwater_event::clock::Micros;
use headwater_event::partition::partitions_of;
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

const SECOND: Micros = 1_000_000;
/// What the watermark allows for.
pub const DELAY: Micros = 20 * SECOND;
/// From one event to the next, at most.
const STEP: Micros = 3 * SECOND;
const CLOSING: Micros = 4_000_000_000 * SECOND;
pub const STREAMS: [&str; 2] = ["a", "b"];

/// How the streams lie.
#[derive(Clone, Debug)]
pub struct Layout {
    pub partitions: [u32; 2],
    /// Of the columns, by which rows are partitioned; none for wherever they fall.
    pub by: [Option<&'static str>; 2],
    pub idle_timeout: &'static str,
}

#[derive(Clone, Debug, Default)]
pub struct Event {
    /// 0 for `a`, 1 for `b`.
    pub stream: usize,
    pub partition: u32,
    pub id: i32,
    pub k: Option<&'static str>,
    pub j: Option<&'static str>,
    pub n: Option<i64>,
    pub x: Option<f64>,
    pub f: Option<bool>,
    pub at: Micros,
    /// Below the watermark of its partition.
    pub late: bool,
}

impl Layout {
    pub fn random(random: &mut ChaCha8Rng, idle_timeout: &'static str) -> Self {
        let mut by = || {
            *[Some("k"), Some("k"), Some("id"), Some("j"), None]
                .choose(random)
                .expect("some")
        };
        let by = [by(), by()];
        // Mostly the same number, so that what lies alike meets where it is.
        let first = random.random_range(1..=3);
        let second = if random.random_bool(0.7) {
            first
        } else {
            random.random_range(1..=3)
        };
        Self {
            partitions: [first, second],
            by,
            idle_timeout,
        }
    }

    /// The statements that make the streams.
    pub fn statements(&self) -> Vec<String> {
        let streams = STREAMS.iter().enumerate().map(|(at, name)| {
            let by = self.by[at].map_or(String::new(), |by| format!("PARTITION BY ({by})"));
            format!(
                "CREATE STREAM {name} (id INT NOT NULL, k TEXT, j TEXT, n BIGINT, x DOUBLE, f BOOLEAN, at TIMESTAMP NOT NULL, \
                 WATERMARK FOR at AS at - INTERVAL '{} seconds') {by} WITH (partitions = {}, idle_timeout = '{}')",
                DELAY / SECOND,
                self.partitions[at],
                self.idle_timeout
            )
        });
        streams.collect()
    }

    fn place(&self, event: &Event, random: &mut ChaCha8Rng) -> u32 {
        let partitions = self.partitions[event.stream];
        let key: ArrayRef = match self.by[event.stream] {
            Some("k") => Arc::new(StringArray::from(vec![event.k])),
            Some("j") => Arc::new(StringArray::from(vec![event.j])),
            Some(_) => Arc::new(Int32Array::from(vec![event.id])),
            None => return random.random_range(0..partitions),
        };
        partitions_of(&[key], 1, partitions).expect("keys of these types")[0]
    }
}

/// Events of both streams in the order of their coming. Without `lateness` none is late.
pub fn events(random: &mut ChaCha8Rng, layout: &Layout, count: usize, lateness: bool) -> Vec<Event> {
    let mut time = -90 * SECOND;
    let mut greatest = [[Micros::MIN / 2; 3]; 2];
    let mut made = Vec::with_capacity(count);
    for id in 1..=count as i32 {
        time += random.random_range(0..=STEP / SECOND) * SECOND;
        let lag = match random.random_range(0..10) {
            0..5 => 0,
            5..9 => random.random_range(0..=DELAY / SECOND) * SECOND,
            _ if lateness => random.random_range(0..3 * DELAY),
            _ => DELAY,
        };
        let mut event = Event {
            stream: random.random_range(0..STREAMS.len()),
            partition: 0,
            id,
            k: text(random, &["a", "b", "c"]),
            j: text(random, &["a", "b", "", "longer than others"]),
            n: random.random_bool(0.8).then(|| random.random_range(-3..=3)),
            // Sums of quarters are exact, in any order.
            x: random
                .random_bool(0.8)
                .then(|| f64::from(random.random_range(-8..=8)) / 4.0),
            f: random.random_bool(0.8).then(|| random.random_bool(0.5)),
            at: time - lag,
            late: false,
        };
        event.partition = layout.place(&event, random);
        let greatest = &mut greatest[event.stream][event.partition as usize];
        event.late = event.at < *greatest - DELAY;
        *greatest = (*greatest).max(event.at);
        made.push(event);
    }
    made
}

/// The row that closes a partition.
pub fn closing(stream: usize, partition: u32) -> Event {
    Event {
        stream,
        partition,
        at: CLOSING,
        ..Event::default()
    }
}

pub fn batch<'a>(schema: &SchemaRef, events: impl Iterator<Item = &'a Event>) -> RecordBatch {
    let events: Vec<&Event> = events.collect();
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        let each = || events.iter();
        match field.name().as_str() {
            "id" => Arc::new(each().map(|event| Some(event.id)).collect::<Int32Array>()),
            "k" => Arc::new(each().map(|event| event.k).collect::<StringArray>()),
            "j" => Arc::new(each().map(|event| event.j).collect::<StringArray>()),
            "n" => Arc::new(each().map(|event| event.n).collect::<Int64Array>()),
            "x" => Arc::new(each().map(|event| event.x).collect::<Float64Array>()),
            "f" => Arc::new(each().map(|event| event.f).collect::<BooleanArray>()),
            _ => Arc::new(
                each()
                    .map(|event| Some(event.at))
                    .collect::<TimestampMicrosecondArray>(),
            ),
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).expect("columns as the stream has them")
}

fn text(random: &mut ChaCha8Rng, texts: &[&'static str]) -> Option<&'static str> {
    random.random_bool(0.85).then(|| *texts.choose(random).expect("some"))
}
