//! `connector = 'redis'`: rows as keys, hashes, entries of a stream, messages or counters. Of a view keys and hashes are its rows: one that goes
//! takes its key with it.
//!
//! Rows become commands as they come, which are carried out together with the position behind them, in one `MULTI … EXEC`
//! ([`connection`]): what Redis has of the rows is what its position says, also when it was killed, and has lost a second of both. A
//! transaction of Redis's is not undone where one of its commands fails, so what could make one fail (a key that holds another type, a counter
//! that would overflow) is looked at before: such rows become dead letters.

mod connection;
mod counters;

use std::collections::HashMap;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use async_trait::async_trait;
use headwater_catalog::snapshot::nearest;
use headwater_schema::types::field_type_name;
use redis::{Cmd, Pipeline};

use crate::address::{Address, Unconnected};
use crate::options::{About, Options, Refusal};
use crate::redis::{connect, said};
use crate::sink::{Offsets, Opened, Promise, Rows, Sink, Start, Undeliverable};
use crate::sinks::redis::connection::{Session, TIMEOUTS};
use crate::sinks::redis::counters::{Amounts, Counters};
use crate::sinks::refused::Refused;
use crate::sinks::{Reads, last_changes};
use crate::source::Error;
use crate::template::{Template, Wrong};
use crate::texts::Texts;
use crate::within::Within;

/// Redis does nothing else while it carries a transaction out.
const TRANSACTION_ROWS_MAX: usize = 8 << 10;
const EXAMPLE: &str = "WITH (connector = 'redis', url = 'redis://:${env:REDIS_PASSWORD}@host:6379', mode = 'json', key = 'user:{user_id}')";

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Json,
    Hash,
    Stream,
    Publish,
    Counter,
}

const MODES: [(&str, Mode); 5] = [
    ("json", Mode::Json),
    ("hash", Mode::Hash),
    ("stream", Mode::Stream),
    ("publish", Mode::Publish),
    ("counter", Mode::Counter),
];

struct Redis {
    address: Address,
    mode: Mode,
    key: Template,
    /// Keys go after so long without a write.
    ttl_ms: Option<i64>,
    /// A stream has about so many entries at most.
    length_max: Option<u64>,
    /// What a counter counts; rows where there is none.
    counted: Option<usize>,
    /// The places of the columns that name a row of the view, where rows are changed.
    view_key: Option<Vec<usize>>,
    open: Option<Open>,
}

/// As long as the connection lasts.
struct Open {
    session: Session,
    /// Of the transaction in the making.
    commands: Pipeline,
    counters: Counters,
    rows: usize,
    /// The next offsets behind all rows that came.
    next: Offsets,
    refused: Refused,
}

pub(super) fn open(reads: &Reads<'_>, options: &mut Options<'_>) -> Result<Opened, Refusal> {
    let missing = |what: &str| {
        Refusal::new(
            About::Statement,
            format!("a sink with the connector redis needs a {what}"),
        )
        .hint(EXAMPLE)
    };
    let address = Address::read(options, &["redis", "rediss"], EXAMPLE)?;
    let mode = options.one_of("mode", &MODES)?.ok_or_else(|| missing("mode"))?;
    let key = options.text("key").ok_or_else(|| missing("key"))?;
    let key = Template::parse(key, &reads.rows).map_err(|wrong| wrong_key(&wrong, reads))?;
    let view_key = match mode {
        Mode::Json | Mode::Hash => reads.key_of_changes("keys")?,
        Mode::Stream | Mode::Publish | Mode::Counter => None,
    };
    let lacks = view_key.iter().flatten().find(|column| !key.has(**column));
    if let Some(column) = lacks {
        let message = format!(
            "the view's rows are named by {}, which is not in the key: several would have the same one",
            reads.rows.field(*column).name()
        );
        return Err(Refusal::new(About::Option("key".to_owned()), message));
    }
    let sink = Redis {
        address,
        mode,
        key,
        ttl_ms: ttl(mode, options)?,
        length_max: length_max(mode, options)?,
        counted: counted(mode, reads, options)?,
        view_key,
        open: None,
    };
    Ok(Opened {
        sink: Box::new(sink),
        interval: Duration::ZERO,
    })
}

fn wrong_key(wrong: &Wrong<'_>, reads: &Reads<'_>) -> Refusal {
    let about = || About::Option("key".to_owned());
    match wrong {
        Wrong::Brace => Refusal::new(about(), "the option key has a brace without its other half")
            .hint("a column stands in braces, '{user_id}'; a brace of its own is written twice"),
        Wrong::Column(name) => {
            let known = reads.rows.fields().iter().map(|field| field.name().as_str());
            Refusal::new(about(), format!("there is no column '{name}' for the key")).near(nearest(name, known))
        }
    }
}

fn ttl(mode: Mode, options: &mut Options<'_>) -> Result<Option<i64>, Refusal> {
    if !matches!(mode, Mode::Json | Mode::Hash | Mode::Counter) {
        return Ok(None);
    }
    let Some(micros) = options.span("ttl")? else {
        return Ok(None);
    };
    let millis = micros / 1000;
    match millis > 0 {
        true => Ok(Some(millis)),
        false => Err(Refusal::option(
            "ttl",
            "a span of time like '1 hour', of a millisecond at least",
        )),
    }
}

fn length_max(mode: Mode, options: &mut Options<'_>) -> Result<Option<u64>, Refusal> {
    match mode {
        Mode::Stream => options.number("length_max", "about how many entries the stream has at most"),
        _ => Ok(None),
    }
}

/// The column of the option `value`.
fn counted(mode: Mode, reads: &Reads<'_>, options: &mut Options<'_>) -> Result<Option<usize>, Refusal> {
    let Some(name) = (match mode {
        Mode::Counter => options.text("value"),
        _ => None,
    }) else {
        return Ok(None);
    };
    let refused = |message: String| Refusal::new(About::Option("value".to_owned()), message);
    let Ok(column) = reads.rows.index_of(name) else {
        let known = reads.rows.fields().iter().map(|field| field.name().as_str());
        return Err(refused(format!("there is no column '{name}' to count")).near(nearest(name, known)));
    };
    let field = reads.rows.field(column);
    match field.data_type().is_integer() {
        true => Ok(Some(column)),
        false => Err(refused(format!(
            "{name} is {}, and a counter counts whole numbers",
            field_type_name(field)
        ))),
    }
}

#[async_trait]
impl Sink for Redis {
    fn guarantee(&self) -> &'static str {
        match self.mode {
            Mode::Publish => {
                "exactly once: messages and the position behind them are in one transaction of Redis; who does not listen misses them"
            }
            _ => {
                "exactly once: rows and the position behind them are in one transaction of Redis; what Redis loses is delivered again"
            }
        }
    }

    async fn look(&mut self, within: &Within) -> Result<(), Error> {
        let url = self.address.resolve(within)?;
        match connect(&url, TIMEOUTS).await {
            Ok(_) | Err(Unconnected::Unreachable(_)) => Ok(()),
            Err(Unconnected::Refused(error)) => Err(error),
        }
    }

    async fn open(&mut self, start: Start<'_>) -> Result<Option<Offsets>, Error> {
        let url = self.address.resolve(start.within)?;
        let connection = connect(&url, TIMEOUTS).await?;
        let (session, next) = Session::take(connection, &start).await?;
        self.open = Some(Open {
            session,
            commands: redis::pipe(),
            counters: Counters::default(),
            rows: 0,
            refused: Refused::of(start.promise, &next),
            next: next.clone(),
        });
        Ok(Some(next))
    }

    async fn write(&mut self, rows: Rows<'_>) -> Result<Vec<Undeliverable>, Error> {
        let count = rows.rows.num_rows();
        let content = self.content(rows.rows).map_err(of_rows)?;
        let texts = Texts::new(&content).map_err(of_rows)?;
        let mut undeliverable = Vec::new();
        let refuse = |row: usize, detail: String| Undeliverable { row, detail };
        let mut keyed = Vec::with_capacity(count);
        for (row, is_gone) in self.picked(&rows).map_err(of_rows)? {
            match self.key.key(&content, &texts, row) {
                Ok(key) => keyed.push((row, key, is_gone)),
                Err(detail) => undeliverable.push(refuse(row, detail)),
            }
        }
        match self.mode {
            Mode::Counter => {
                let amounts = Amounts::new(rows.rows, self.counted).map_err(of_rows)?;
                let open = self.opened()?;
                let keys = keyed.iter().map(|(_, key, _)| key);
                open.counters.learn(&mut open.session, keys).await?;
                for (row, key, _) in keyed {
                    if let Err(detail) = open.counters.count(&key, amounts.get(row)) {
                        undeliverable.push(refuse(row, detail));
                    }
                }
            }
            Mode::Hash | Mode::Stream => {
                let wanted = if self.mode == Mode::Hash { "hash" } else { "stream" };
                let others = self
                    .opened()?
                    .others(keyed.iter().map(|(_, key, _)| key), wanted)
                    .await?;
                for (row, key, is_gone) in keyed {
                    match others.get(&key) {
                        Some(detail) => undeliverable.push(refuse(row, detail.clone())),
                        None => self.put(&content, &texts, (row, is_gone), key)?,
                    }
                }
            }
            Mode::Json | Mode::Publish => {
                for (row, key, is_gone) in keyed {
                    self.put(&content, &texts, (row, is_gone), key)?;
                }
            }
        }
        undeliverable.sort_by_key(|row| row.row);
        let open = self.opened()?;
        for row in &undeliverable {
            open.refused.insert(rows.partition, rows.first + row.row as u64);
        }
        open.next.insert(rows.partition, rows.first + count as u64);
        open.rows += count;
        Ok(undeliverable)
    }

    fn is_full(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.rows >= TRANSACTION_ROWS_MAX)
    }

    async fn prepare(&mut self) -> Result<Promise, Error> {
        Ok(self.opened()?.refused.promise())
    }

    async fn publish(&mut self) -> Result<(), Error> {
        let ttl_ms = self.ttl_ms;
        let open = self.opened()?;
        let mut commands = std::mem::replace(&mut open.commands, redis::pipe());
        open.counters.drain(&mut commands, ttl_ms);
        open.rows = 0;
        open.session.commit(commands, &open.next).await?;
        open.refused.pass(&open.next);
        Ok(())
    }

    async fn forget(&mut self, start: Start<'_>) -> Result<(), Error> {
        let url = self.address.resolve(start.within)?;
        let mut connection = connect(&url, TIMEOUTS).await?;
        connection::forget(&mut connection, start.identity).await
    }
}

impl Redis {
    fn opened(&mut self) -> Result<&mut Open, Error> {
        self.open.as_mut().ok_or_else(|| Error::outside("the sink is not open"))
    }

    /// The rows that become commands, and whether they are gone: not those that are dead letters already, and of keys and hashes of a
    /// view the last change of each.
    fn picked(&self, rows: &Rows<'_>) -> Result<Vec<(usize, bool)>, ArrowError> {
        let is_refused = |row: usize| {
            let open = self.open.as_ref();
            open.is_some_and(|open| open.refused.contains(rows.partition, rows.first + row as u64))
        };
        let all: Vec<(usize, bool)> = match &self.view_key {
            Some(key) => {
                let last = last_changes(rows.rows, key)?.into_iter();
                last.map(|(row, is_gone)| (row as usize, is_gone)).collect()
            }
            None => (0..rows.rows.num_rows()).map(|row| (row, false)).collect(),
        };
        Ok(all.into_iter().filter(|(row, _)| !is_refused(*row)).collect())
    }

    /// What is kept of rows: where the view's rows are, their op is no part of them.
    fn content(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        match &self.view_key {
            Some(_) => rows.project(&(0..rows.num_columns() - 1).collect::<Vec<_>>()),
            None => Ok(rows.clone()),
        }
    }

    /// Notes the commands for a row.
    fn put(
        &mut self,
        content: &RecordBatch,
        texts: &Texts,
        (row, is_gone): (usize, bool),
        key: Vec<u8>,
    ) -> Result<(), Error> {
        let (mode, ttl_ms, length_max) = (self.mode, self.ttl_ms, self.length_max);
        let (schema, columns) = (content.schema_ref(), content.num_columns());
        let commands = &mut self.opened()?.commands;
        if is_gone {
            commands.cmd("DEL").arg(key);
            return Ok(());
        }
        let named = |command: &mut Cmd| {
            let mut nulls = Vec::new();
            for column in 0..columns {
                let name = schema.field(column).name();
                match texts.get(row, column) {
                    Some(value) => {
                        command.arg(name).arg(value.as_ref());
                    }
                    None => nulls.push(name),
                }
            }
            nulls
        };
        match mode {
            Mode::Json => {
                let set = commands.cmd("SET").arg(key).arg(texts.object(row));
                if let Some(ttl_ms) = ttl_ms {
                    set.arg("PX").arg(ttl_ms);
                }
            }
            Mode::Hash => {
                let mut set = redis::cmd("HSET");
                set.arg(&key);
                let nulls = named(&mut set);
                if nulls.len() < columns {
                    commands.add_command(set);
                }
                if !nulls.is_empty() {
                    commands.cmd("HDEL").arg(&key).arg(nulls);
                }
                if let Some(ttl_ms) = ttl_ms {
                    commands.cmd("PEXPIRE").arg(&key).arg(ttl_ms);
                }
            }
            Mode::Stream => {
                let mut add = redis::cmd("XADD");
                add.arg(key);
                if let Some(length_max) = length_max {
                    add.arg("MAXLEN").arg("~").arg(length_max);
                }
                add.arg("*");
                let nulls = named(&mut add);
                if nulls.len() == columns {
                    // An entry has one field at least.
                    add.arg(schema.field(0).name()).arg("");
                }
                commands.add_command(add);
            }
            Mode::Publish => {
                commands.cmd("PUBLISH").arg(key).arg(texts.object(row));
            }
            Mode::Counter => {}
        }
        Ok(())
    }
}

impl Open {
    /// Which of the keys hold something else.
    async fn others<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a Vec<u8>>,
        wanted: &str,
    ) -> Result<HashMap<Vec<u8>, String>, Error> {
        let mut all: Vec<&Vec<u8>> = keys.collect();
        all.sort_unstable();
        all.dedup();
        let found = self.session.ask("TYPE", &all).await?;
        let mut others = HashMap::new();
        for (key, found) in all.into_iter().zip(found) {
            let found: String = redis::from_redis_value(found.map_err(said)?).map_err(|error| said(error.into()))?;
            if found != wanted && found != "none" {
                let name = String::from_utf8_lossy(key);
                others.insert(key.clone(), format!("the key {name} holds a {found}, and no {wanted}"));
            }
        }
        Ok(others)
    }
}

fn of_rows(error: ArrowError) -> Error {
    Error::Rows(error.to_string())
}
