//! Tables that are kept elsewhere, and asked for rows by key: a file for each connector, and a line in [`CONNECTORS`].
//!
//! A connector answers one question, which rows have these keys ([`Connector::ask`]). All else is here once, for each table of
//! the process: what it remembers, or a cache in Redis that it shares with others ([`aside`]), and what happens while the server doesn't answer. Who asks then waits, and it is tried again, with
//! growing pauses: that there is no row is something that only the server can say.
//!
//! A table may be replaced by one with the same columns, on another server for instance. Whoever waits asks that one then.

mod aside;
mod cache;
mod postgres;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, UInt32Array, new_empty_array};
use arrow::compute::{concat, take_arrays};
use arrow::datatypes::Field;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use async_trait::async_trait;
use headwater_catalog::definition::{Definition, Sink, Table as Described};
use headwater_catalog::snapshot::nearest;
use headwater_event::clock::Clock;
use headwater_event::id::Ids;
use headwater_schema::column::Column;
use metrics::{Counter, counter};
use parking_lot::{Mutex, RwLock};
use tracing::{info, warn};

use crate::activity::{RETRY_FIRST, RETRY_MAX};
use crate::lookup::aside::{Around, Aside};
use crate::lookup::cache::Cache;
use crate::options::{About, Options, Refusal};
use crate::source::Error;
use crate::within::Within;

/// So many keys are asked for in one statement.
const KEYS_MAX: usize = 8 << 10;
/// How many rows a cache has unless the table says.
const CACHE_ROWS: usize = 100_000;

/// What a table says about itself.
pub(crate) struct Asked<'a> {
    pub(crate) fields: Vec<Field>,
    /// The places of the key's columns.
    pub(crate) key: Vec<usize>,
    pub(crate) options: Options<'a>,
}

/// Whom to ask for rows.
#[async_trait]
pub(crate) trait Connector: Send + Sync {
    /// Looks whether it could answer, before a `CREATE TABLE` is accepted. What may mend itself, such as a server that can't be
    /// reached, is no error; nor is a table that isn't there yet, where a sink makes it (`is_made`).
    async fn look(&self, within: &Within, is_made: bool) -> Result<(), Error>;

    /// The rows with these keys, which are all different and have no NULLs.
    async fn ask(&self, keys: &[ArrayRef], within: &Within) -> Result<Answer, Error>;
}

#[derive(Default)]
pub(crate) struct Answer {
    /// All columns of the table.
    pub(crate) rows: Vec<ArrayRef>,
    /// For each key where its row is among them.
    pub(crate) places: Vec<Option<u32>>,
    /// Keys whose rows are there and don't fit, with the reason.
    pub(crate) unusable: Vec<(u32, String)>,
}

type Open = fn(&mut Asked<'_>) -> Result<Box<dyn Connector>, Refusal>;

/// Every connector by its name: to add one is a line here.
const CONNECTORS: [(&str, Open); 1] = [("postgres", postgres::open)];

/// The tables of a process.
#[derive(Debug)]
pub struct Lookups {
    clock: Arc<dyn Clock>,
    ids: Arc<Ids>,
    within: Within,
    /// By the names that plans have for them.
    tables: RwLock<BTreeMap<String, Arc<Table>>>,
}

/// A table, for as long as it has these columns.
pub struct Table {
    name: String,
    clock: Arc<dyn Clock>,
    ids: Arc<Ids>,
    within: Within,
    current: RwLock<Arc<Current>>,
    failure: Mutex<Option<String>>,
    keys: Counter,
    asked_keys: Counter,
    cached_keys: Counter,
    errors: Counter,
}

/// What it is at present.
struct Current {
    connector: Box<dyn Connector>,
    fields: Vec<Field>,
    key: Vec<usize>,
    /// What the process remembers.
    cache: Option<Mutex<Cache>>,
    /// What is in Redis.
    aside: Option<Aside>,
}

/// The rows of keys, some of which may be the same.
#[derive(Debug)]
pub struct Found {
    /// All columns of the table.
    pub rows: Vec<ArrayRef>,
    /// For each key where its row is among them; NULL where there is none.
    pub places: UInt32Array,
    /// Keys whose rows are there and don't fit, with the reason.
    pub unusable: Vec<(usize, String)>,
}

/// Where the row of a key comes from.
#[derive(Clone, Copy)]
enum Slot {
    Nowhere,
    Remembered(u32),
    /// It has to be asked for, as the key of this number.
    Asked(u32),
}

/// What the cache knows of a lot of keys.
#[derive(Default)]
struct Lot {
    slots: Vec<Slot>,
    remembered: Vec<Box<[u8]>>,
    /// The first of the rows with each of the keys that it doesn't know.
    asked: Vec<u32>,
}

/// Whether the table could be asked. Looks at the definition alone, never outside.
///
/// # Errors
/// What a person has to write otherwise.
pub fn check(table: &Described) -> Result<(), Refusal> {
    Current::open(table).map(drop)
}

/// Whether the rows of the sink go to this table.
fn writes(sink: &Sink, table: &Described) -> bool {
    let is_same = |option: &str| sink.options.get(option) == table.options.get(option);
    sink.connector == table.connector && ["url", "table"].into_iter().all(is_same)
}

impl Lookups {
    pub fn new(clock: Arc<dyn Clock>, ids: Arc<Ids>, within: Within) -> Arc<Self> {
        Arc::new(Self {
            clock,
            ids,
            within,
            tables: RwLock::default(),
        })
    }

    /// Looks whether the table could be asked. `sinks` are those that may make it.
    pub async fn look<'a>(
        &self,
        table: &Described,
        mut sinks: impl Iterator<Item = &'a Sink> + Send,
    ) -> Result<(), Refusal> {
        let is_made = sinks.any(|sink| writes(sink, table));
        let refused = |error: Error| Refusal::new(About::Statement, error.to_string());
        let current = Current::open(table)?;
        current.connector.look(&self.within, is_made).await.map_err(refused)?;
        match &current.aside {
            Some(aside) => aside.look(&self.within).await.map_err(refused),
            None => Ok(()),
        }
    }

    /// From now on the table can be asked, and whoever asks one with the same name asks this.
    pub fn start(&self, definition: &Definition) -> Result<(), Refusal> {
        let Some(table) = definition.table() else { return Ok(()) };
        let current = Arc::new(Current::open(table)?);
        let mut tables = self.tables.write();
        if let Some(known) = tables.get(&definition.topic()) {
            *known.current.write() = current;
            return Ok(());
        }
        let count = |name: &'static str| counter!(name, "table" => definition.name.clone());
        let table = Table {
            name: definition.name.clone(),
            clock: Arc::clone(&self.clock),
            ids: Arc::clone(&self.ids),
            within: self.within.clone(),
            current: RwLock::new(current),
            failure: Mutex::default(),
            keys: count("headwater_lookup_keys_total"),
            asked_keys: count("headwater_lookup_asked_keys_total"),
            cached_keys: count("headwater_lookup_cached_keys_total"),
            errors: count("headwater_lookup_errors_total"),
        };
        tables.insert(definition.topic(), Arc::new(table));
        Ok(())
    }

    pub fn stop(&self, definition: &Definition) {
        self.tables.write().remove(&definition.topic());
    }

    /// The table of this name: of the object, and its id.
    pub fn get(&self, name: &str) -> Option<Arc<Table>> {
        self.tables.read().get(name).cloned()
    }

    /// Why queries wait for this table, if any does.
    pub fn failure(&self, definition: &Definition) -> Option<String> {
        self.get(&definition.topic())?.failure()
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Table {
    /// The rows with these keys, which have no NULLs. Waits for as long as it takes. Safe to cancel.
    ///
    /// # Errors
    /// If the keys are not of the table's types.
    pub async fn rows(&self, keys: &[ArrayRef]) -> Result<Found, ArrowError> {
        let mut pause = RETRY_FIRST;
        loop {
            let current = Arc::clone(&self.current.read());
            let lot = current.remembered(keys, self.clock.elapsed())?;
            let asked = lot.asked.len() as u64;
            let error = match self.complete(&current, keys, lot).await {
                Ok((found, cached)) => {
                    self.keys.increment(found.places.len() as u64);
                    self.asked_keys.increment(asked - cached as u64);
                    self.cached_keys.increment(cached as u64);
                    self.mended();
                    return Ok(found);
                }
                Err(Trouble::Server(error)) => error,
                Err(Trouble::Rows(error)) => return Err(error),
            };
            self.failed(&error);
            self.clock.sleep(pause).await;
            pause = (2 * pause).min(RETRY_MAX);
        }
    }

    /// The rows, and how many of them were in Redis.
    async fn complete(&self, current: &Current, keys: &[ArrayRef], lot: Lot) -> Result<(Found, usize), Trouble> {
        let mut parts = Vec::new();
        if !lot.remembered.is_empty() {
            parts.push(current.decoded(&lot.remembered)?);
        }
        let mut place = lot.remembered.len() as u32;
        let mut places: Vec<Option<u32>> = Vec::with_capacity(lot.asked.len());
        let mut unusable: HashMap<u32, String> = HashMap::new();
        let mut cached_keys = 0;
        for asked in lot.asked.chunks(KEYS_MAX) {
            let wanted = take_arrays(keys, &UInt32Array::from_iter_values(asked.iter().copied()), None)?;
            let now = self.clock.elapsed();
            let (answer, cached) = self.ask(current, &wanted).await?;
            cached_keys += cached;
            current.remember(&wanted, &answer, now)?;
            let first = places.len() as u32;
            unusable.extend(answer.unusable.into_iter().map(|(key, why)| (first + key, why)));
            places.extend(answer.places.iter().map(|at| at.map(|at| place + at)));
            place += answer.rows.first().map_or(0, |column| column.len() as u32);
            parts.push(answer.rows);
        }
        let of_slot = |slot: &Slot| match slot {
            Slot::Nowhere => None,
            Slot::Remembered(place) => Some(*place),
            Slot::Asked(key) => places[*key as usize],
        };
        let why = |(row, slot): (usize, &Slot)| match slot {
            Slot::Asked(key) => Some((row, unusable.get(key)?.clone())),
            Slot::Nowhere | Slot::Remembered(_) => None,
        };
        let found = Found {
            rows: together(&current.fields, &parts)?,
            places: lot.slots.iter().map(of_slot).collect(),
            unusable: match unusable.is_empty() {
                true => Vec::new(),
                false => lot.slots.iter().enumerate().filter_map(why).collect(),
            },
        };
        Ok((found, cached_keys))
    }

    async fn ask(&self, current: &Current, keys: &[ArrayRef]) -> Result<(Answer, usize), Trouble> {
        let Some(aside) = &current.aside else {
            return Ok((current.connector.ask(keys, &self.within).await?, 0));
        };
        let around = Around {
            clock: &*self.clock,
            ids: &self.ids,
            within: &self.within,
        };
        aside.ask(keys, &*current.connector, &around).await
    }

    /// Why it can't be asked at present, if it can't.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    fn failed(&self, error: &Error) {
        self.errors.increment(1);
        let mut failure = self.failure.lock();
        if failure.is_none() {
            warn!(table = self.name, %error, "rows can't be looked up; queries wait, and it is tried again");
        }
        *failure = Some(error.to_string());
    }

    fn mended(&self) {
        if self.failure.lock().take().is_some() {
            info!(table = self.name, "rows can be looked up again");
        }
    }
}

impl Current {
    fn open(table: &Described) -> Result<Self, Refusal> {
        let found = CONNECTORS.iter().find(|(name, _)| *name == table.connector);
        let Some((name, open)) = found else {
            return Err(unknown(&table.connector));
        };
        let fields: Vec<_> = table.columns.iter().map(Column::field).collect();
        let place = |key: &String| table.columns.iter().position(|column| column.name == *key);
        let mut asked = Asked {
            key: table.key.iter().filter_map(place).collect(),
            fields: fields.clone(),
            options: Options::new(&table.options),
        };
        let connector = open(&mut asked)?;
        let aside = Aside::read(&mut asked, &table.columns)?;
        let cache = match aside {
            Some(_) => None,
            None => cache(&mut asked.options)?,
        };
        asked.options.finish(&format!("a table with the connector {name}"))?;
        Ok(Self {
            connector,
            fields,
            key: asked.key,
            cache: cache.map(Mutex::new),
            aside,
        })
    }

    fn keys(&self) -> Result<RowConverter, ArrowError> {
        let of = |&place: &usize| SortField::new(self.fields[place].data_type().clone());
        RowConverter::new(self.key.iter().map(of).collect())
    }

    fn rows(&self) -> Result<RowConverter, ArrowError> {
        let of = |field: &Field| SortField::new(field.data_type().clone());
        RowConverter::new(self.fields.iter().map(of).collect())
    }

    /// What is known of these keys, and what is not.
    fn remembered(&self, keys: &[ArrayRef], now: Duration) -> Result<Lot, ArrowError> {
        let encoded = self.keys()?.convert_columns(keys)?;
        let mut cache = self.cache.as_ref().map(Mutex::lock);
        let number = cache.as_mut().map_or(0, |cache| cache.next_lot());
        let mut lot = Lot::default();
        let mut asked: HashMap<&[u8], u32> = HashMap::new();
        for row in 0..encoded.num_rows() {
            let key = encoded.row(row).data();
            if let Some(entry) = cache.as_mut().and_then(|cache| cache.get(key, now)) {
                lot.slots.push(match &entry.row {
                    None => Slot::Nowhere,
                    Some(known) => {
                        if entry.lot != number {
                            entry.lot = number;
                            entry.place = lot.remembered.len() as u32;
                            lot.remembered.push(known.clone());
                        }
                        Slot::Remembered(entry.place)
                    }
                });
                continue;
            }
            let number = *asked.entry(key).or_insert_with(|| {
                lot.asked.push(row as u32);
                lot.asked.len() as u32 - 1
            });
            lot.slots.push(Slot::Asked(number));
        }
        Ok(lot)
    }

    /// What the server has said of these keys.
    fn remember(&self, keys: &[ArrayRef], answer: &Answer, now: Duration) -> Result<(), ArrowError> {
        let Some(cache) = &self.cache else { return Ok(()) };
        let keys = self.keys()?.convert_columns(keys)?;
        let rows = self.rows()?.convert_columns(&answer.rows)?;
        let mut cache = cache.lock();
        for (key, place) in answer.places.iter().enumerate() {
            if answer.unusable.iter().all(|(unusable, _)| *unusable as usize != key) {
                let row = place.map(|place| rows.row(place as usize).data().into());
                cache.put(keys.row(key).data(), row, now);
            }
        }
        Ok(())
    }

    fn decoded(&self, rows: &[Box<[u8]>]) -> Result<Vec<ArrayRef>, ArrowError> {
        let converter = self.rows()?;
        let parser = converter.parser();
        converter.convert_rows(rows.iter().map(|row| parser.parse(row)))
    }
}

/// The columns of parts one below the other.
pub(crate) fn together(fields: &[Field], parts: &[Vec<ArrayRef>]) -> Result<Vec<ArrayRef>, ArrowError> {
    match parts {
        [] => Ok(fields.iter().map(|field| new_empty_array(field.data_type())).collect()),
        [only] => Ok(only.clone()),
        parts => (0..fields.len())
            .map(|column| concat(&parts.iter().map(|part| part[column].as_ref()).collect::<Vec<_>>()))
            .collect(),
    }
}

/// Why the rows of a lot are not there.
pub(crate) enum Trouble {
    Server(Error),
    Rows(ArrowError),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Server(error)
    }
}

impl From<ArrowError> for Trouble {
    fn from(error: ArrowError) -> Self {
        Self::Rows(error)
    }
}

/// Without a time to live nothing is remembered.
fn cache(options: &mut Options<'_>) -> Result<Option<Cache>, Refusal> {
    let ttl = options.span("cache.ttl")?;
    let rows = options.number::<usize>("cache.rows", "a whole number of rows, from 1 on")?;
    if rows == Some(0) {
        return Err(Refusal::option("cache.rows", "a whole number of rows, from 1 on"));
    }
    match (ttl, rows) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Refusal::new(
            About::Key("cache.rows".to_owned()),
            "cache.rows is for tables with a cache.ttl: without one nothing is kept",
        )
        .hint("cache.ttl = '1 minute': rows are looked up again when they are so old")),
        (Some(ttl), rows) => {
            let ttl = Duration::from_micros(u64::try_from(ttl).unwrap_or(0));
            Ok(Some(Cache::new(rows.unwrap_or(CACHE_ROWS), ttl)))
        }
    }
}

fn unknown(connector: &str) -> Refusal {
    let names = CONNECTORS.map(|(name, _)| name);
    Refusal::new(
        About::Option("connector".to_owned()),
        format!("there is no connector '{connector}' for tables"),
    )
    .near(nearest(connector, names.into_iter()))
    .hint(format!("there is {}", names.join(", ")))
}
