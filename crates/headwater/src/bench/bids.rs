//! NEXMark's bids, made as the benchmark's generator makes them: the same proportions, hot keys and
//! sizes. Deterministic: event `n` is the same in every run with the same seed.
//!
//! Source: Apache Beam's `sdk/nexmark` (`GeneratorConfig`, `BidGenerator`, `AuctionGenerator`,
//! `PersonGenerator`), the one that all published figures use. Of 50 events 1 is a person, 3 are
//! auctions and 46 are bids; the bids here have the ids and times they have in that sequence.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringBuilder, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// The stream that the benchmarks read.
pub const STREAM_SQL: &str = "CREATE STREAM bid (
  auction   BIGINT NOT NULL,
  bidder    BIGINT NOT NULL,
  price     BIGINT NOT NULL,
  channel   TEXT NOT NULL,
  url       TEXT NOT NULL,
  date_time TIMESTAMP NOT NULL,
  extra     TEXT NOT NULL,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
) WITH (partitions = 2)";

const PROPORTION: u64 = 50;
const PERSONS: u64 = 1;
const AUCTIONS: u64 = 3;
const FIRST_ID: u64 = 1000;
/// One in so many bids is not for a hot auction, or not by a hot bidder.
const HOT_AUCTION_RATIO: u64 = 2;
const HOT_BIDDER_RATIO: u64 = 4;
/// Hot ids change whenever so many more have been made.
const HOT_STEP: u64 = 100;
const AUCTIONS_IN_FLIGHT: u64 = 100;
const PERSONS_ACTIVE: u64 = 1000;
const CHANNELS: u64 = 10_000;
const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
/// Bids have about 100 bytes: what the other fields leave of it is `extra`.
const EXTRA_BYTES: usize = 32;
/// 10,000 events a second, from 2015-07-15T00:00:00Z on.
const MICROS_PER_EVENT: u64 = 100;
const BASE_TIME: u64 = 1_436_918_400_000_000;

/// An endless sequence of bids.
#[derive(Debug)]
pub struct Bids {
    random: SmallRng,
    next: u64,
}

impl Bids {
    pub fn new(seed: u64) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            next: 0,
        }
    }

    /// The next `rows` bids.
    pub fn batch(&mut self, rows: usize) -> Result<RecordBatch, ArrowError> {
        let mut auctions = Vec::with_capacity(rows);
        let mut bidders = Vec::with_capacity(rows);
        let mut prices = Vec::with_capacity(rows);
        let mut times = Vec::with_capacity(rows);
        let mut channels = StringBuilder::with_capacity(rows, rows * 8);
        let mut urls = StringBuilder::with_capacity(rows, rows * 48);
        let mut extras = StringBuilder::with_capacity(rows, rows * EXTRA_BYTES);
        let mut extra = String::with_capacity(EXTRA_BYTES);
        for _ in 0..rows {
            let event = self.next_bid();
            auctions.push(self.auction(event) as i64);
            bidders.push(self.bidder(event) as i64);
            prices.push((10_f64.powf(self.random.random::<f64>() * 6.0) * 100.0).round() as i64);
            times.push((BASE_TIME + event * MICROS_PER_EVENT) as i64);
            self.channel(&mut channels, &mut urls)?;
            extra.clear();
            extra.extend((0..EXTRA_BYTES).map(|_| char::from(b'a' + self.random.random_range(0..26))));
            extras.append_value(&extra);
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(auctions)),
            Arc::new(Int64Array::from(bidders)),
            Arc::new(Int64Array::from(prices)),
            Arc::new(channels.finish()),
            Arc::new(urls.finish()),
            Arc::new(TimestampMicrosecondArray::from(times)),
            Arc::new(extras.finish()),
        ];
        RecordBatch::try_new(schema(), columns)
    }

    /// The number of the next event that is a bid.
    fn next_bid(&mut self) -> u64 {
        if self.next % PROPORTION < PERSONS + AUCTIONS {
            self.next += PERSONS + AUCTIONS - self.next % PROPORTION;
        }
        self.next += 1;
        self.next - 1
    }

    fn auction(&mut self, event: u64) -> u64 {
        // A bid comes after all the auctions of its group of events.
        let last = event / PROPORTION * AUCTIONS + AUCTIONS - 1;
        let id = if self.random.random_range(0..HOT_AUCTION_RATIO) > 0 {
            last / HOT_STEP * HOT_STEP
        } else {
            self.random.random_range(last.saturating_sub(AUCTIONS_IN_FLIGHT)..=last)
        };
        FIRST_ID + id
    }

    fn bidder(&mut self, event: u64) -> u64 {
        let last = event / PROPORTION;
        let id = if self.random.random_range(0..HOT_BIDDER_RATIO) > 0 {
            last / HOT_STEP * HOT_STEP + 1
        } else {
            self.random.random_range(last.saturating_sub(PERSONS_ACTIVE)..=last)
        };
        FIRST_ID + id
    }

    fn channel(&mut self, channels: &mut StringBuilder, urls: &mut StringBuilder) -> Result<(), ArrowError> {
        let written = if self.random.random_bool(0.5) {
            let hot = self.random.random_range(0..HOT_CHANNELS.len());
            channels.append_value(HOT_CHANNELS[hot]);
            write!(urls, "https://www.nexmark.com/shop/{hot}/item.htm?query=1")
        } else {
            let channel = self.random.random_range(0..CHANNELS);
            let written = write!(channels, "channel-{channel}");
            channels.append_value("");
            let path = channel.wrapping_mul(0x9E37_79B9) % 100_000;
            written.and(write!(
                urls,
                "https://www.nexmark.com/{path:05}/item.htm?query=1&channel_id={channel}"
            ))
        };
        urls.append_value("");
        written.map_err(|error| ArrowError::ComputeError(error.to_string()))
    }
}

pub fn schema() -> SchemaRef {
    let text = |name| Field::new(name, DataType::Utf8, false);
    let number = |name| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![
        number("auction"),
        number("bidder"),
        number("price"),
        text("channel"),
        text("url"),
        Field::new("date_time", DataType::Timestamp(TimeUnit::Microsecond, None), false),
        text("extra"),
    ]))
}
