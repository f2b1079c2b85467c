//! NEXMark's events, made as the benchmark's generator makes them: the same proportions, hot keys and
//! sizes. Deterministic: event `n` of a seed is the same in every run, and can be made alone.
//!
//! Source: <https://github.com/nexmark/nexmark> (`GeneratorConfig`, `PersonGenerator`,
//! `AuctionGenerator`, `BidGenerator`) with its default configuration, which all published figures
//! use; it comes from Apache Beam's. Of 50 events the first is a person, the next 3 are auctions,
//! and 46 are bids.

use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringBuilder, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use headwater_event::clock::Micros;
use rand::Rng;

use crate::random::Random;
use crate::sources::TIME;
use crate::sources::nexmark::text::{channel, extra, one_of, price, write_text};

/// The time of the first event: 2015-07-15T00:00:00Z.
pub const START: Micros = 1_436_918_400_000_000;
/// Events in a second of event time.
pub const RATE: NonZeroU32 = NonZeroU32::new(10_000).unwrap();

const PERSONS: u64 = 1;
const AUCTIONS: u64 = 3;
const BIDS: u64 = 46;
const GROUP: u64 = PERSONS + AUCTIONS + BIDS;
const FIRST_ID: u64 = 1000;
const FIRST_CATEGORY: i64 = 10;
const CATEGORIES: i64 = 5;
/// One in so many is not for a hot auction, by a hot bidder, by a hot seller.
const HOT_AUCTION_RATIO: u32 = 2;
const HOT_BIDDER_RATIO: u32 = 4;
const HOT_SELLER_RATIO: u32 = 4;
/// Hot ids change whenever so many more have been made.
const HOT_STEP: u64 = 100;
const AUCTIONS_IN_FLIGHT: u64 = 100;
const PERSONS_ACTIVE: u64 = 1000;
/// Ids may be used so much before they are made.
const LEAD: u64 = 10;
/// What an event takes on average, in the benchmark's way of counting.
const PERSON_BYTES: usize = 200;
const AUCTION_BYTES: usize = 500;
const BID_BYTES: usize = 100;

const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CITIES: [&str; 10] = [
    "Phoenix",
    "Los Angeles",
    "San Francisco",
    "Boise",
    "Portland",
    "Bend",
    "Redmond",
    "Seattle",
    "Kent",
    "Cheyenne",
];
const FIRST_NAMES: [&str; 11] = [
    "Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter",
];
const LAST_NAMES: [&str; 9] = [
    "Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Person,
    Auction,
    Bid,
}

/// One table of the sequence of events.
#[derive(Clone, Debug)]
pub struct Generator {
    pub table: Table,
    pub seed: u64,
    /// The time of the first event.
    pub start: Micros,
    /// Events of all tables in a second of event time.
    pub rate: NonZeroU32,
}

impl Table {
    pub fn name(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Auction => "auction",
            Self::Bid => "bid",
        }
    }

    /// The table's columns.
    pub fn schema(self) -> SchemaRef {
        static PERSON: LazyLock<SchemaRef> = LazyLock::new(|| {
            let texts = ["name", "email_address", "credit_card", "city", "state"].map(text);
            let head = std::iter::once(number("id")).chain(texts);
            schema(head.chain([time("date_time"), text("extra")]))
        });
        static AUCTION: LazyLock<SchemaRef> = LazyLock::new(|| {
            schema([
                number("id"),
                text("item_name"),
                text("description"),
                number("initial_bid"),
                number("reserve"),
                time("date_time"),
                time("expires"),
                number("seller"),
                number("category"),
                text("extra"),
            ])
        });
        static BID: LazyLock<SchemaRef> = LazyLock::new(|| {
            let numbers = ["auction", "bidder", "price"].map(number).into_iter();
            schema(numbers.chain([text("channel"), text("url"), time("date_time"), text("extra")]))
        });
        match self {
            Self::Person => Arc::clone(&PERSON),
            Self::Auction => Arc::clone(&AUCTION),
            Self::Bid => Arc::clone(&BID),
        }
    }

    /// How many events of the sequence hold about so many of the table.
    pub fn events_of(self, rows: u64) -> u64 {
        rows.saturating_mul(GROUP) / self.places().count() as u64
    }

    /// The table's places in a group of events.
    fn places(self) -> Range<u64> {
        match self {
            Self::Person => 0..PERSONS,
            Self::Auction => PERSONS..PERSONS + AUCTIONS,
            Self::Bid => PERSONS + AUCTIONS..GROUP,
        }
    }
}

impl Generator {
    /// As the benchmark has it.
    pub fn standard(table: Table, seed: u64) -> Self {
        Self {
            table,
            seed,
            start: START,
            rate: RATE,
        }
    }

    /// The table's part of these events of the sequence.
    pub fn batch(&self, events: Range<u64>) -> Result<RecordBatch, ArrowError> {
        let places = self.table.places();
        let own: Vec<u64> = events.filter(|event| places.contains(&(event % GROUP))).collect();
        let columns = match self.table {
            Table::Person => self.persons(&own),
            Table::Auction => self.auctions(&own),
            Table::Bid => self.bids(&own),
        };
        RecordBatch::try_new(self.table.schema(), columns)
    }

    fn persons(&self, events: &[u64]) -> Vec<ArrayRef> {
        let mut ids = Vec::with_capacity(events.len());
        let mut texts: [StringBuilder; 5] = std::array::from_fn(|_| StringBuilder::new());
        let mut extras = StringBuilder::new();
        for &event in events {
            let random = &mut self.random(event);
            ids.push((FIRST_ID + last_person(event)) as i64);
            let [name, email, card, city, state] = &mut texts;
            let (first, last) = (one_of(random, &FIRST_NAMES), one_of(random, &LAST_NAMES));
            let before = email.values_slice().len() + card.values_slice().len();
            // A column of texts takes whatever is written into it.
            let _ = write!(name, "{first} {last}");
            write_text(email, random, 7, ' ');
            let _ = email.write_char('@');
            write_text(email, random, 5, ' ');
            let _ = email.write_str(".com");
            let digits: [u32; 4] = std::array::from_fn(|_| random.random_range(0..10_000));
            let _ = write!(
                card,
                "{:04} {:04} {:04} {:04}",
                digits[0], digits[1], digits[2], digits[3]
            );
            let written = email.values_slice().len() + card.values_slice().len() - before;
            let (in_city, in_state) = (one_of(random, &CITIES), one_of(random, &STATES));
            let bytes = 8 + first.len() + 1 + last.len() + written + in_city.len() + in_state.len();
            [name, email, card].into_iter().for_each(|text| text.append_value(""));
            city.append_value(in_city);
            state.append_value(in_state);
            extras.append_value(extra(random, bytes, PERSON_BYTES));
        }
        let [name, email, card, city, state] = texts.map(|mut text| -> ArrayRef { Arc::new(text.finish()) });
        let (ids, times) = (numbers(ids), self.times(events));
        vec![ids, name, email, card, city, state, times, Arc::new(extras.finish())]
    }

    fn auctions(&self, events: &[u64]) -> Vec<ArrayRef> {
        let numbers_of = || Vec::with_capacity(events.len());
        let (mut ids, mut initial, mut reserves) = (numbers_of(), numbers_of(), numbers_of());
        let (mut expires, mut sellers, mut categories) = (numbers_of(), numbers_of(), numbers_of());
        let mut names = StringBuilder::with_capacity(events.len(), events.len() * 12);
        let mut descriptions = StringBuilder::with_capacity(events.len(), events.len() * 52);
        let mut extras = StringBuilder::with_capacity(events.len(), events.len() * AUCTION_BYTES);
        for &event in events {
            let random = &mut self.random(event);
            ids.push((FIRST_ID + last_auction(event)) as i64);
            let seller = if random.random_range(0..HOT_SELLER_RATIO) > 0 {
                last_person(event) / HOT_STEP * HOT_STEP
            } else {
                any_person(random, event)
            };
            sellers.push((FIRST_ID + seller) as i64);
            categories.push(FIRST_CATEGORY + random.random_range(0..CATEGORIES));
            let first_bid = price(random);
            initial.push(first_bid);
            reserves.push(first_bid + price(random));
            expires.push(self.expiry(random, event));
            let before = names.values_slice().len() + descriptions.values_slice().len();
            write_text(&mut names, random, 20, ' ');
            names.append_value("");
            write_text(&mut descriptions, random, 100, ' ');
            descriptions.append_value("");
            let written = names.values_slice().len() + descriptions.values_slice().len() - before;
            extras.append_value(extra(random, 6 * 8 + written, AUCTION_BYTES));
        }
        vec![
            numbers(ids),
            Arc::new(names.finish()),
            Arc::new(descriptions.finish()),
            numbers(initial),
            numbers(reserves),
            self.times(events),
            Arc::new(TimestampMicrosecondArray::from(expires)),
            numbers(sellers),
            numbers(categories),
            Arc::new(extras.finish()),
        ]
    }

    fn bids(&self, events: &[u64]) -> Vec<ArrayRef> {
        let numbers_of = || Vec::with_capacity(events.len());
        let (mut auctions, mut bidders, mut prices) = (numbers_of(), numbers_of(), numbers_of());
        let mut channels = StringBuilder::with_capacity(events.len(), events.len() * 10);
        let mut urls = StringBuilder::with_capacity(events.len(), events.len() * 64);
        let mut extras = StringBuilder::with_capacity(events.len(), events.len() * BID_BYTES);
        for &event in events {
            let random = &mut self.random(event);
            let auction = if random.random_range(0..HOT_AUCTION_RATIO) > 0 {
                last_auction(event) / HOT_STEP * HOT_STEP
            } else {
                any_auction(random, event)
            };
            auctions.push((FIRST_ID + auction) as i64);
            let bidder = if random.random_range(0..HOT_BIDDER_RATIO) > 0 {
                // The second of the persons, so that hot bidders are not hot sellers.
                last_person(event) / HOT_STEP * HOT_STEP + 1
            } else {
                any_person(random, event)
            };
            bidders.push((FIRST_ID + bidder) as i64);
            prices.push(price(random));
            let (channel, url) = channel(random);
            channels.append_value(channel);
            urls.append_value(url);
            extras.append_value(extra(random, 4 * 8, BID_BYTES));
        }
        vec![
            numbers(auctions),
            numbers(bidders),
            numbers(prices),
            Arc::new(channels.finish()),
            Arc::new(urls.finish()),
            self.times(events),
            Arc::new(extras.finish()),
        ]
    }

    fn random(&self, event: u64) -> Random {
        Random::of(self.seed, event)
    }

    fn time(&self, event: u64) -> Micros {
        let passed = u128::from(event) * 1_000_000 / u128::from(self.rate.get());
        self.start
            .saturating_add(Micros::try_from(passed).unwrap_or(Micros::MAX))
    }

    fn times(&self, events: &[u64]) -> ArrayRef {
        let times = events.iter().map(|&event| self.time(event));
        Arc::new(TimestampMicrosecondArray::from_iter_values(times))
    }

    /// An auction is open until about so many others have been opened as are in flight at a time.
    fn expiry(&self, random: &mut Random, event: u64) -> Micros {
        let now = self.time(event);
        let horizon = self.time(event + AUCTIONS_IN_FLIGHT * GROUP / AUCTIONS) - now;
        now + 1000 + random.random_range(0..(2 * horizon).max(1))
    }
}

/// The number of the last person up to an event: each group begins with its one.
fn last_person(event: u64) -> u64 {
    event / GROUP * PERSONS
}

/// The number of the last auction up to an event, which is not before the first.
fn last_auction(event: u64) -> u64 {
    event / GROUP * AUCTIONS + (event % GROUP).saturating_sub(PERSONS).min(AUCTIONS - 1)
}

fn any_person(random: &mut Random, event: u64) -> u64 {
    let persons = last_person(event) + 1;
    let active = persons.min(PERSONS_ACTIVE);
    persons - active + random.random_range(0..active + LEAD)
}

fn any_auction(random: &mut Random, event: u64) -> u64 {
    let last = last_auction(event);
    random.random_range(last.saturating_sub(AUCTIONS_IN_FLIGHT)..=last + LEAD)
}

fn numbers(values: Vec<i64>) -> ArrayRef {
    Arc::new(Int64Array::from(values))
}

fn number(name: &str) -> Field {
    Field::new(name, DataType::Int64, false)
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

fn time(name: &str) -> Field {
    Field::new(name, TIME, false)
}

fn schema(fields: impl IntoIterator<Item = Field>) -> SchemaRef {
    Arc::new(Schema::new(fields.into_iter().collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::compute::concat_batches;
    use arrow::datatypes::{Int64Type, TimestampMicrosecondType};

    use super::*;

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        for table in [Table::Person, Table::Auction, Table::Bid] {
            let generator = Generator::standard(table, 7);
            let whole = generator.batch(0..1000).unwrap();
            let cut = [0..1, 1..49, 49..53, 53..1000].map(|events| generator.batch(events).unwrap());
            assert_eq!(concat_batches(&table.schema(), &cut).unwrap(), whole);
            let other = Generator::standard(table, 8).batch(0..1000).unwrap();
            assert_ne!(other, whole);
        }
    }

    #[test]
    fn tables_have_their_share_and_refer_to_each_other() {
        let [persons, auctions, bids] = [Table::Person, Table::Auction, Table::Bid]
            .map(|table| Generator::standard(table, 1).batch(0..50_000).unwrap());
        assert_eq!(
            (persons.num_rows(), auctions.num_rows(), bids.num_rows()),
            (1000, 3000, 46_000)
        );
        let ids = |batch: &RecordBatch, name: &str| {
            let column = batch.column_by_name(name).unwrap().as_primitive::<Int64Type>();
            column.values().to_vec()
        };
        assert_eq!(ids(&persons, "id"), (1000..2000).collect::<Vec<_>>());
        assert_eq!(ids(&auctions, "id"), (1000..4000).collect::<Vec<_>>());
        let within = |ids: Vec<i64>, most: i64| ids.into_iter().all(|id| (1000..most).contains(&id));
        let lead = LEAD as i64;
        assert!(within(ids(&auctions, "seller"), 2000 + lead));
        assert!(within(ids(&bids, "auction"), 4000 + lead));
        assert!(within(ids(&bids, "bidder"), 2000 + lead));
        assert!(
            ids(&auctions, "category")
                .iter()
                .all(|category| (10..15).contains(category))
        );
    }

    #[test]
    fn auctions_expire_after_they_begin() {
        let auctions = Generator::standard(Table::Auction, 1).batch(0..5000).unwrap();
        let times = |name| {
            let column = auctions.column_by_name(name).unwrap();
            column.as_primitive::<TimestampMicrosecondType>().values().to_vec()
        };
        let (begin, expires) = (times("date_time"), times("expires"));
        assert!(begin.iter().zip(&expires).all(|(begin, expires)| begin < expires));
        assert_eq!(begin[0], START + 100);
    }
}
