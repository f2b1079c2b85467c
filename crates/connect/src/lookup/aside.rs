//! Rows of a table that are kept in Redis by whoever has looked them up: it is asked first, and told what it had not. What keeps them from
//! being outdated is in [`cache_aside`].
//!
//! A row is an object as JSON. It is taken for the row only if that is how it would be written here, with the same columns, and if it is of the
//! key that was asked for: several rows can have the same name there, `a__+__b` as the first half or the second. What has no form in
//! JSON (infinity) is not put there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{take_arrays, take_record_batch};
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;
use headwater_event::clock::Clock;
use headwater_event::id::Ids;
use headwater_schema::column::{Column, EventSchema, UnknownFields};
use headwater_schema::decode::{Decoder, Format, OnError};
use headwater_schema::encode::JsonRows;
use headwater_schema::encode::limits::may_not_come_back;
use redis::aio::MultiplexedConnection;

use crate::cache_aside::link::{Link, Manner};
use crate::cache_aside::{self, Keys, look, put, reserve};
use crate::lookup::{Answer, Asked, Connector, Trouble, together};
use crate::options::{About, Refusal};
use crate::redis::Timeouts;
use crate::source::Error;
use crate::within::Within;

const TTL_DEFAULT_MS: i64 = 60_000;

const MANNER: Manner = Manner {
    what: "read",
    timeouts: Timeouts {
        connect: Duration::from_millis(500),
        answer: Duration::from_millis(250),
    },
    alone: Duration::from_secs(1),
    // By then the writer has deleted what it could not delete before.
    settle: Duration::from_secs(2),
    without: "rows are looked up in the table",
};

pub(super) struct Aside {
    keys: Keys,
    link: Link,
    ttl_ms: i64,
    columns: EventSchema,
    /// As they are read: what doesn't fit is NULL.
    fields: Vec<Field>,
    /// The places of the key's columns.
    key: Vec<usize>,
}

/// What is needed to ask.
pub(super) struct Around<'a> {
    pub(super) clock: &'a dyn Clock,
    pub(super) ids: &'a Arc<Ids>,
    pub(super) within: &'a Within,
}

/// Rows that were there, and the keys that they are the rows of.
struct Kept {
    rows: Vec<ArrayRef>,
    of: Vec<u32>,
}

impl Aside {
    /// None unless there is a `cache.url`.
    pub(super) fn read(asked: &mut Asked<'_>, columns: &[Column]) -> Result<Option<Self>, Refusal> {
        let key: Vec<_> = asked.key.iter().map(|&place| asked.fields[place].clone()).collect();
        let options = &mut asked.options;
        let Some(keys) = Keys::read(&key, options)? else {
            return Ok(None);
        };
        let ttl_ms = match options.span("cache.ttl")? {
            None => TTL_DEFAULT_MS,
            Some(micros) if micros >= 1000 => micros / 1000,
            Some(_) => return Err(Refusal::option("cache.ttl", "a span of time like '1 minute'")),
        };
        if options.text("cache.rows").is_some() {
            let message = "cache.rows is for rows that each process remembers: with cache.url they are in Redis";
            return Err(Refusal::new(About::Key("cache.rows".to_owned()), message).hint("leave one of them out"));
        }
        Ok(Some(Self {
            link: Link::new(keys.address.clone(), MANNER),
            keys,
            ttl_ms,
            columns: EventSchema {
                columns: columns.to_vec(),
                unknown_fields: UnknownFields::Reject,
            },
            fields: asked
                .fields
                .iter()
                .map(|field| field.clone().with_nullable(true))
                .collect(),
            key: asked.key.clone(),
        }))
    }

    pub(super) async fn look(&self, within: &Within) -> Result<(), Error> {
        self.link.look(within).await
    }

    /// The rows with these keys, and how many of them were there.
    pub(super) async fn ask(
        &self,
        keys: &[ArrayRef],
        table: &dyn Connector,
        around: &Around<'_>,
    ) -> Result<(Answer, usize), Trouble> {
        let without = async || Ok((table.ask(keys, around.within).await?, 0));
        let Some(mut connection) = self.link.connection(around.clock, around.within).await else {
            return without().await;
        };
        let names = self.keys.of(keys)?;
        // Keys have no NULLs.
        let Some(names) = names.iter().map(Option::as_deref).collect::<Option<Vec<_>>>() else {
            return without().await;
        };
        let there = match look(&mut connection, &names).await {
            Ok(there) => there,
            Err(error) => {
                self.link.failed(&error, around.clock);
                return without().await;
            }
        };
        let kept = self.rows(&there, keys, around.ids)?;
        let count = names.len() as u32;
        let known: BTreeSet<u32> = kept.of.iter().copied().collect();
        let missing: Vec<u32> = (0..count).filter(|key| !known.contains(key)).collect();
        let answer = match missing.is_empty() {
            true => Answer::default(),
            false => {
                // What is there and no row of ours is left alone.
                let free = missing.iter().filter(|key| there[**key as usize].is_none());
                let free: Vec<u32> = free.copied().collect();
                let wanted = take_arrays(keys, &UInt32Array::from(missing.clone()), None)?;
                let read = table.ask(&wanted, around.within);
                self.keep(&mut connection, (&names, &missing, &free), read, around)
                    .await?
            }
        };
        let cached = kept.of.len();
        Ok((self.merged(kept, &missing, answer, count)?, cached))
    }

    /// Reads the table, and puts the rows at the keys that are free.
    async fn keep(
        &self,
        connection: &mut MultiplexedConnection,
        (names, missing, free): (&[&[u8]], &[u32], &[u32]),
        read: impl Future<Output = Result<Answer, Error>>,
        around: &Around<'_>,
    ) -> Result<Answer, Trouble> {
        let word = cache_aside::word(around.ids.uuid());
        let reserved: Vec<&[u8]> = free.iter().map(|key| names[*key as usize]).collect();
        let is_reserved = match reserve(connection, &reserved, &word).await {
            Ok(()) => !free.is_empty(),
            Err(error) => {
                self.link.failed(&error, around.clock);
                false
            }
        };
        let answer = read.await?;
        if !is_reserved {
            return Ok(answer);
        }
        let rows = RecordBatch::try_new(Arc::new(Schema::new(self.fields.clone())), answer.rows.clone())?;
        let json = JsonRows::new(&rows)?;
        let mut new = Vec::with_capacity(free.len());
        for (key, place) in missing.iter().zip(&answer.places) {
            let Some(place) = place.filter(|_| free.binary_search(key).is_ok()) else {
                continue;
            };
            let place = place as usize;
            if !may_not_come_back(&rows.slice(place, 1)) {
                let mut row = Vec::new();
                json.write(place, &mut row);
                new.push((names[*key as usize], row));
            }
        }
        if let Err(error) = put(connection, &new, &word, self.ttl_ms).await {
            self.link.failed(&error, around.clock);
        }
        Ok(answer)
    }

    /// Those of the values that are rows of the keys.
    fn rows(&self, values: &[Option<Vec<u8>>], keys: &[ArrayRef], ids: &Arc<Ids>) -> Result<Kept, ArrowError> {
        let mut decoder = Decoder::new(&self.columns, Arc::clone(ids));
        let mut of: Vec<u32> = Vec::new();
        for (key, value) in (0_u32..).zip(values) {
            let Some(value) = value.as_ref().filter(|value| value.starts_with(b"{")) else {
                continue;
            };
            let before = decoder.rows();
            // No column has the time for its default.
            let decoded = decoder.decode(value, Format::Json, OnError::Reject, 0);
            match decoded.rows {
                1 => of.push(key),
                _ => decoder.truncate(before),
            }
        }
        let rows = decoder.finish();
        let json = JsonRows::new(&rows)?;
        let mut written = Vec::new();
        let mut is_row = |row: usize| {
            let key = of[row] as usize;
            written.clear();
            json.write(row, &mut written);
            let is_of_key = |(&place, key_column): (&usize, &ArrayRef)| {
                rows.column(place).slice(row, 1).to_data() == key_column.slice(key, 1).to_data()
            };
            values[key].as_ref() == Some(&written) && self.key.iter().zip(keys).all(is_of_key)
        };
        let ours: Vec<u32> = (0..of.len() as u32).filter(|row| is_row(*row as usize)).collect();
        let rows = take_record_batch(&rows, &UInt32Array::from(ours.clone()))?;
        Ok(Kept {
            rows: rows.columns().to_vec(),
            of: ours.into_iter().map(|row| of[row as usize]).collect(),
        })
    }

    /// One answer for all keys.
    fn merged(&self, kept: Kept, missing: &[u32], answer: Answer, count: u32) -> Result<Answer, ArrowError> {
        let first = kept.of.len() as u32;
        let mut places = vec![None; count as usize];
        for (place, key) in (0..).zip(kept.of) {
            places[key as usize] = Some(place);
        }
        for (key, place) in missing.iter().zip(answer.places) {
            places[*key as usize] = place.map(|place| first + place);
        }
        let of_all = |(key, why): (u32, String)| (missing[key as usize], why);
        let parts: Vec<_> = [kept.rows, answer.rows]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        Ok(Answer {
            rows: together(&self.fields, &parts)?,
            places,
            unusable: answer.unusable.into_iter().map(of_all).collect(),
        })
    }
}
