//! `SHOW STATE [FOR name]`: what the operators of running queries keep, until when, and how much it is.
//!
//! A row for each operator that keeps anything, summed over its tasks, and one for the rows of a view. The tasks are
//! asked for what they have in memory, and answer between two epochs; the store says what is on the disk. An operator
//! whose state is a view's rows has nothing there of its own.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, Int64Array};
use futures::future::join_all;
use headwater_catalog::definition::Definition;
use headwater_catalog::snapshot::Snapshot;
use headwater_engine::engine::Query;
use headwater_engine::holdings::Held;
use headwater_engine::plan::Output;
use headwater_log::StateTable;
use headwater_sql::explain;
use headwater_sql::statement::Name;

use crate::error::QueryError;
use crate::execution;
use crate::session::Answer;
use crate::session::show::{find, rows, text};
use crate::shared::Shared;

/// Tasks in a long epoch are not waited for any longer.
const ANSWERS: Duration = Duration::from_secs(2);

/// So many entries of a table are counted; of more the store knows roughly how many there are.
const COUNTED_MAX: usize = 100_000;

/// A row of the answer.
struct Line {
    object: String,
    stage: i32,
    operator: String,
    keeps: String,
    held: Option<Held>,
    table: Option<Arc<str>>,
}

/// What a state table has.
struct Stored {
    entries: u64,
    bytes: u64,
}

pub async fn show(shared: &Shared, name: Option<&Name>) -> Result<Answer, QueryError> {
    let snapshot = shared.parts.catalog.snapshot();
    let wanted = name.map(|name| find(&snapshot, name)).transpose()?;
    let queries = queries(shared, &snapshot, wanted);
    tokio::select! {
        _ = join_all(queries.iter().map(|(_, query)| query.ask())) => {}
        () = shared.parts.clock.sleep(ANSWERS) => {}
    }
    let lines: Vec<Line> = queries.iter().flat_map(|(name, query)| lines(name, query)).collect();
    let mut stored = Vec::with_capacity(lines.len());
    for line in &lines {
        let counted = line.held.and_then(|held| held.entries);
        stored.push(match &line.table {
            Some(table) => {
                let table = shared.parts.log.state(table).await?;
                let look = move || look(&*table, counted).map(Some);
                execution::blocking(&shared.parts.executor, look).await?
            }
            None => None,
        });
    }
    let number = |number: u64| i64::try_from(number).ok();
    let numbers =
        |numbers: &mut dyn Iterator<Item = Option<i64>>| Arc::new(numbers.collect::<Int64Array>()) as ArrayRef;
    let stages: Int32Array = lines.iter().map(|line| Some(line.stage)).collect();
    rows([
        ("object", text(lines.iter().map(|line| Some(line.object.clone())))),
        ("stage", Arc::new(stages) as ArrayRef),
        ("operator", text(lines.iter().map(|line| Some(line.operator.clone())))),
        ("keeps", text(lines.iter().map(|line| Some(line.keeps.clone())))),
        (
            "entries",
            numbers(&mut stored.iter().map(|stored| number(stored.as_ref()?.entries))),
        ),
        (
            "memory_bytes",
            numbers(&mut lines.iter().map(|line| number(line.held?.bytes))),
        ),
        (
            "disk_bytes",
            numbers(&mut stored.iter().map(|stored| number(stored.as_ref()?.bytes))),
        ),
    ])
}

/// The queries of the object, or of all, by their objects' names; what is being built stands behind what it replaces.
fn queries(shared: &Shared, snapshot: &Snapshot, wanted: Option<&Arc<Definition>>) -> Vec<(String, Arc<Query>)> {
    let running = |object: &Definition| shared.parts.engine.query(&format!("{}-{}", object.name, object.id));
    let objects = snapshot
        .iter()
        .filter(|object| wanted.is_none_or(|wanted| wanted.name == object.name));
    let mut queries = Vec::new();
    for object in objects {
        queries.extend(running(object).map(|query| (object.name.clone(), query)));
        let successor = object.successor.as_deref();
        let building = successor.and_then(running);
        queries.extend(building.map(|query| (format!("{} (building)", object.name), query)));
    }
    queries
}

fn lines(object: &str, query: &Query) -> Vec<Line> {
    let holdings = query.holdings().into_iter().map(|holding| {
        let (operator, keeps) = explain::kept(&query.pipeline.stages[holding.stage].operators[holding.place]);
        Line {
            object: object.to_owned(),
            stage: i32::try_from(holding.stage).unwrap_or(i32::MAX),
            operator,
            keeps,
            held: holding.held,
            table: holding.table,
        }
    });
    let mut lines: Vec<Line> = holdings.collect();
    let stages = query.pipeline.stages.iter().enumerate();
    lines.extend(stages.filter_map(|(number, stage)| match &stage.output {
        Output::View { table, .. } => Some(Line {
            object: object.to_owned(),
            stage: i32::try_from(number).unwrap_or(i32::MAX),
            operator: "the view's rows".to_owned(),
            keeps: "the result as it is".to_owned(),
            held: None,
            table: Some(Arc::clone(table)),
        }),
        Output::Topic { .. } => None,
    }));
    lines
}

/// `counted` is how many there are, where the tasks know it.
fn look(table: &dyn StateTable, counted: Option<u64>) -> Result<Stored, QueryError> {
    let roughly = table.entries();
    let entries = match counted {
        Some(counted) => counted,
        None if roughly > COUNTED_MAX as u64 => roughly,
        None => {
            let mut entries = 0;
            for entry in table.scan(&[]) {
                entry?;
                entries += 1;
            }
            entries
        }
    };
    Ok(Stored {
        entries,
        bytes: table.bytes_used(),
    })
}
