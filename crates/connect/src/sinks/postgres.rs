//! `connector = 'postgres'`: rows of a stream added to a table; of a view its changes, so that the table has the view's rows.
//!
//! 1. Rows are written as they come, into a transaction that is open: those of a stream by `COPY`. Of a view the last change of each
//!    key is copied into a temporary table, from where rows that are gone are deleted, and the others inserted or updated.
//! 2. To prepare is to write the position behind them into the same transaction ([`position`]), to publish is to commit it. A
//!    process that ends before that has written nothing, and the position that it finds says so.
//! 3. What the table refuses (a constraint, a number that is too large) is found by halving within savepoints: the rest goes in. The promise
//!    names those rows, for they are dead letters already when the transaction is committed, or tried again.
//! 4. Where rows are kept in Redis as well, by who looks them up, they are taken out there around the commit ([`marks`]).

mod marks;
mod position;
mod table;

use std::ops::Range;
use std::time::Duration;

use arrow::error::ArrowError;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{SinkExt, pin_mut};
use tokio_postgres::{Client, CopyInSink, Statement};

use crate::address::{Address, Unconnected};
use crate::options::{About, Options, Refusal};
use crate::postgres::columns::{Type, Values, mappings};
use crate::postgres::connection::{connect, is_of, sentence};
use crate::postgres::name::{Name, quoted, said};
use crate::sink::{Offsets, Opened, Promise, Rows, Sink, Start, Undeliverable};
use crate::sinks::postgres::marks::{Cache, Marks};
use crate::sinks::postgres::position::{Position, session_name};
use crate::sinks::postgres::table::{Column, Table, Wanted};
use crate::sinks::refused::Refused;
use crate::sinks::{Reads, last_changes};
use crate::source::Error;
use crate::within::Within;

/// A transaction of so many rows is committed, however many more there are.
const TRANSACTION_ROWS_MAX: usize = 256 << 10;
/// What is sent at once.
const CHUNK_BYTES: usize = 256 << 10;
const EXAMPLE: &str =
    "WITH (connector = 'postgres', url = 'postgres://user:${env:PG_PASSWORD}@host:5432/database', table = 'clicks')";
/// The temporary table of changes, and its column that says which of them are deletions.
const CHANGES: &str = "headwater_changes";
const GONE: &str = "headwater gone";

struct Postgres {
    address: Address,
    wanted: Wanted,
    /// Of the rows, for who looks them up.
    cache: Option<Cache>,
    session: Option<Session>,
}

/// As long as the connection lasts.
struct Session {
    client: Client,
    position: Position,
    target: Target,
    /// The next offsets behind what was written, this transaction included.
    next: Offsets,
    is_open: bool,
    /// Of the open transaction.
    rows: usize,
    refused: Refused,
    marks: Option<Marks>,
}

/// How rows get into the table.
struct Target {
    copy: Statement,
    columns: Vec<(usize, Type)>,
    /// Statements that take changes from the temporary table to the table.
    merge: Option<Merge>,
}

struct Merge {
    key: Vec<usize>,
    delete: String,
    upsert: String,
}

/// Rows that are to be written, by their places.
struct Picked {
    rows: Vec<u32>,
    /// Of changes, whether each of them is a deletion.
    gone: Option<Vec<bool>>,
}

pub(super) fn open(reads: &Reads<'_>, options: &mut Options<'_>) -> Result<Opened, Refusal> {
    let address = Address::read(options, &["postgres", "postgresql"], EXAMPLE)?;
    let name = options.text("table").ok_or_else(|| {
        Refusal::new(About::Statement, "a sink with the connector postgres needs a table").hint(EXAMPLE)
    })?;
    let name = Name::parse(name).ok_or_else(|| Refusal::option("table", "'table' or 'schema.table'"))?;
    let fields = || reads.rows.fields().iter().map(|field| field.as_ref());
    let mappings = mappings(fields()).map_err(|why| {
        Refusal::new(About::Stream, why).hint("cast it to another type in a view or a derived stream")
    })?;
    let columns = fields().zip(mappings).map(|(field, mapping)| Column {
        name: field.name().clone(),
        nullable: field.is_nullable(),
        mapping,
    });
    let sink = Postgres {
        address,
        wanted: Wanted {
            name,
            columns: columns.collect(),
            key: reads.key_of_changes("a table")?,
        },
        cache: Cache::read(reads, options)?,
        session: None,
    };
    Ok(Opened {
        sink: Box::new(sink),
        interval: Duration::ZERO,
    })
}

#[async_trait]
impl Sink for Postgres {
    fn guarantee(&self) -> &'static str {
        "exactly once: rows and the position behind them are in one transaction of Postgres"
    }

    async fn look(&mut self, within: &Within) -> Result<(), Error> {
        let url = self.address.resolve(within)?;
        if let Some(cache) = &self.cache {
            cache.look(within).await?;
        }
        match connect(&url, "headwater").await {
            Ok(client) => self.wanted.look(&client).await,
            Err(Unconnected::Unreachable(_)) => Ok(()),
            Err(Unconnected::Refused(error)) => Err(error),
        }
    }

    async fn open(&mut self, start: Start<'_>) -> Result<Option<Offsets>, Error> {
        let url = self.address.resolve(start.within)?;
        let client = connect(&url, &session_name(start.identity)).await?;
        let table = self.wanted.ensure(&client).await?;
        let is_new = start.committed.is_empty();
        let names = (start.name, start.identity);
        let (position, next) = Position::take(&client, &self.wanted.name, names, is_new).await?;
        let target = Target::prepare(&client, &self.wanted, &table).await?;
        self.session = Some(Session {
            client,
            position,
            target,
            is_open: false,
            rows: 0,
            refused: Refused::of(start.promise, &next),
            next: next.clone(),
            marks: self.cache.as_ref().map(|cache| cache.marks(&start)),
        });
        Ok(Some(next))
    }

    async fn write(&mut self, rows: Rows<'_>) -> Result<Vec<Undeliverable>, Error> {
        if rows.rows.num_rows() == 0 {
            return Ok(Vec::new());
        }
        self.session()?.write(rows).await
    }

    fn is_full(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.rows >= TRANSACTION_ROWS_MAX)
    }

    async fn prepare(&mut self) -> Result<Promise, Error> {
        let session = self.session()?;
        if session.is_open {
            session.position.write(&session.client, &session.next).await?;
        }
        Ok(session.refused.promise())
    }

    async fn publish(&mut self) -> Result<(), Error> {
        let session = self.session()?;
        if session.is_open {
            if let Some(marks) = &session.marks {
                marks.before().await;
            }
            session.client.batch_execute("COMMIT").await.map_err(said)?;
            if let Some(marks) = &mut session.marks {
                marks.after().await;
            }
            session.is_open = false;
            session.rows = 0;
            session.refused.pass(&session.next);
        }
        Ok(())
    }

    async fn forget(&mut self, start: Start<'_>) -> Result<(), Error> {
        let url = self.address.resolve(start.within)?;
        let client = connect(&url, "headwater").await?;
        position::forget(&client, &self.wanted.name, start.identity).await
    }
}

impl Postgres {
    fn session(&mut self) -> Result<&mut Session, Error> {
        self.session
            .as_mut()
            .ok_or_else(|| Error::outside("the sink is not open"))
    }
}

impl Session {
    async fn write(&mut self, rows: Rows<'_>) -> Result<Vec<Undeliverable>, Error> {
        if !self.is_open {
            // A constraint that is checked at the commit could not be told from the row that violates it.
            let begin = "BEGIN; SET CONSTRAINTS ALL IMMEDIATE";
            self.client.batch_execute(begin).await.map_err(said)?;
            self.is_open = true;
        }
        if let Some(marks) = &mut self.marks {
            marks.note(rows.rows).map_err(of_rows)?;
        }
        let picked = self.pick(&rows)?;
        let values = Values::new(rows.rows, &self.target.columns).map_err(of_rows)?;
        let mut undeliverable = Vec::new();
        let all = 0..picked.rows.len();
        let mut ranges = vec![all];
        while let Some(range) = ranges.pop().filter(|range| !range.is_empty()) {
            self.client.batch_execute("SAVEPOINT headwater").await.map_err(said)?;
            let Err(error) = self.put(&values, &picked, range.clone()).await else {
                self.client.batch_execute("RELEASE headwater").await.map_err(said)?;
                continue;
            };
            if !is_of_a_row(&error) {
                return Err(said(error));
            }
            let back = "ROLLBACK TO headwater; RELEASE headwater";
            self.client.batch_execute(back).await.map_err(said)?;
            let middle = range.start + range.len() / 2;
            if middle > range.start {
                ranges.extend([middle..range.end, range.start..middle]);
                continue;
            }
            let row = picked.rows[range.start];
            self.refused.insert(rows.partition, rows.first + u64::from(row));
            undeliverable.push(Undeliverable {
                row: row as usize,
                detail: sentence(&error),
            });
        }
        undeliverable.sort_by_key(|row| row.row);
        let next = rows.first + rows.rows.num_rows() as u64;
        self.next.insert(rows.partition, next);
        self.rows += rows.rows.num_rows();
        Ok(undeliverable)
    }

    /// The rows that have to be written: not those that are dead letters already, and of changes the last one of each key.
    fn pick(&self, rows: &Rows<'_>) -> Result<Picked, Error> {
        let count = u32::try_from(rows.rows.num_rows()).map_err(|_| Error::outside("too many rows in one batch"))?;
        let is_new = |row: &u32| !self.refused.contains(rows.partition, rows.first + u64::from(*row));
        let Some(merge) = &self.target.merge else {
            return Ok(Picked {
                rows: (0..count).filter(is_new).collect(),
                gone: None,
            });
        };
        let mut last = last_changes(rows.rows, &merge.key).map_err(of_rows)?;
        last.retain(|(row, _)| is_new(row));
        let (rows, gone) = last.into_iter().unzip();
        Ok(Picked { rows, gone: Some(gone) })
    }

    /// Puts some of the rows into the table.
    async fn put(&self, values: &Values, picked: &Picked, range: Range<usize>) -> Result<(), tokio_postgres::Error> {
        let gone = picked.gone.as_ref().map(|gone| &gone[range.clone()]);
        let copying: CopyInSink<Bytes> = self.client.copy_in(&self.target.copy).await?;
        pin_mut!(copying);
        let mut chunk = Vec::with_capacity(CHUNK_BYTES + (CHUNK_BYTES >> 3));
        chunk.extend(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        for (nth, &row) in picked.rows[range].iter().enumerate() {
            values.write(row as usize, gone.map(|gone| gone[nth]), &mut chunk);
            if chunk.len() >= CHUNK_BYTES {
                copying.send(Bytes::from(std::mem::take(&mut chunk))).await?;
                chunk.reserve(CHUNK_BYTES + (CHUNK_BYTES >> 3));
            }
        }
        chunk.extend((-1_i16).to_be_bytes());
        copying.send(Bytes::from(chunk)).await?;
        copying.finish().await?;
        let (Some(merge), Some(gone)) = (&self.target.merge, gone) else {
            return Ok(());
        };
        let mut sql = String::new();
        if gone.contains(&true) || merge.key.is_empty() {
            sql.push_str(&merge.delete);
        }
        if gone.contains(&false) {
            sql.push_str(&merge.upsert);
        }
        sql.push_str(&format!("TRUNCATE pg_temp.{CHANGES}"));
        self.client.batch_execute(&sql).await
    }
}

impl Target {
    async fn prepare(client: &Client, wanted: &Wanted, table: &Table) -> Result<Self, Error> {
        let columns: Vec<_> = table.types.iter().cloned().enumerate().collect();
        let all: Vec<usize> = (0..columns.len()).collect();
        let (into, names) = (wanted.name.sql(), wanted.names(&all));
        let Some(key) = &wanted.key else {
            let copy = format!("COPY {into} ({names}) FROM STDIN (FORMAT binary)");
            return Ok(Self {
                copy: client.prepare(&copy).await.map_err(said)?,
                columns,
                merge: None,
            });
        };
        let declared = wanted.columns.iter().zip(&table.declared);
        let declared: Vec<_> = declared
            .map(|(column, sql)| format!("{} {sql}", quoted(&column.name)))
            .collect();
        // The planner knows nothing of what is in the temporary table: with a hash or merge join it would read all of the table. And
        // compiling such a plan takes longer than carrying it out.
        let begin = format!(
            "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off; SET jit = off;
             CREATE TEMPORARY TABLE {CHANGES} ({}, {} boolean) ON COMMIT DELETE ROWS",
            declared.join(", "),
            quoted(GONE)
        );
        client.batch_execute(&begin).await.map_err(said)?;
        let copy = format!("COPY pg_temp.{CHANGES} FROM STDIN (FORMAT binary)");
        Ok(Self {
            copy: client.prepare(&copy).await.map_err(said)?,
            columns,
            merge: Some(merge(wanted, key, &into, &names)),
        })
    }
}

/// The statements that bring the table in step with the changes.
fn merge(wanted: &Wanted, key: &[usize], into: &str, names: &str) -> Merge {
    let gone = quoted(GONE);
    let insert = format!("INSERT INTO {into} ({names}) SELECT {names} FROM pg_temp.{CHANGES} WHERE NOT {gone}");
    if key.is_empty() {
        // The view has one row.
        return Merge {
            key: Vec::new(),
            delete: format!("DELETE FROM {into};"),
            upsert: format!("{insert};"),
        };
    }
    let equal = |&place: &usize| {
        let (name, nullable) = (quoted(&wanted.columns[place].name), wanted.columns[place].nullable);
        match nullable {
            // An index finds the one and the other, and would not find what IS NOT DISTINCT.
            true => format!("(t.{name} = c.{name} OR t.{name} IS NULL AND c.{name} IS NULL)"),
            false => format!("t.{name} = c.{name}"),
        }
    };
    let equal: Vec<_> = key.iter().map(equal).collect();
    let others = (0..wanted.columns.len()).filter(|place| !key.contains(place));
    let set: Vec<_> = others
        .map(|place| quoted(&wanted.columns[place].name))
        .map(|name| format!("{name} = EXCLUDED.{name}"))
        .collect();
    let update = match set.is_empty() {
        true => "NOTHING".to_owned(),
        false => format!("UPDATE SET {}", set.join(", ")),
    };
    Merge {
        key: key.to_vec(),
        delete: format!(
            "DELETE FROM {into} t USING pg_temp.{CHANGES} c WHERE c.{gone} AND {};",
            equal.join(" AND ")
        ),
        upsert: format!("{insert} ON CONFLICT ({}) DO {update};", wanted.names(key)),
    }
}

/// Whether it is about a row's values: data, constraints, limits of the program, what a trigger raises, checks of a view.
fn is_of_a_row(error: &tokio_postgres::Error) -> bool {
    is_of(error, &["22", "23", "44", "54", "P0"])
}

fn of_rows(error: ArrowError) -> Error {
    Error::Rows(error.to_string())
}
