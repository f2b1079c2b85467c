//! Reading what one has written: waiting until a view has taken in the events that a client has stored.
//!
//! The client hands in what ingest answered, offsets of streams ([`Stored`]). Nothing is kept for this: it follows from what the log knows anyway.
//!
//! 1. The [`Lineage`] of a view is all stages between the streams and it, through all queries that read from one another, each behind those
//!    that write what it reads.
//! 2. A stage that reads such a stream has taken the events in when its tasks have consumed past their offsets. What a task has consumed and what came
//!    of it are one commit, so that is in the stage's output by then.
//! 3. So a stage that reads this output has taken them in when it has consumed all that the output holds now ([`Log::settled`]); and so on. That can be more than what came of these
//!    events, of which it waits for no more than what there is at that moment.
//! 4. The last stage writes the view's rows in the commit that says what it consumed. Where another process runs it, they are in this
//!    one's copy of the table once that has been opened anew, which waits for all that was committed before.
//!
//! A view never goes back, so what it has reached once is remembered, and needs no look at the log.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use headwater_catalog::definition::Definition;
use headwater_catalog::snapshot::Snapshot;
use headwater_engine::engine::task_owner;
use headwater_engine::plan::Output;
use headwater_event::clock::Clock;
use headwater_event::offset::{Offset, TopicPartition, to_reach};
use headwater_event::stored::{NoToken, Stored};
use headwater_gateway::http::OFFSET_HEADER;
use headwater_log::Log;
use headwater_log::error::Error as LogError;
use headwater_problem::{Problem, ProblemKind};
use headwater_sql::error::SqlError;
use http::HeaderMap;
use parking_lot::Mutex;

use crate::error::QueryError;
use crate::execution;
use crate::http::query_string::invalid;
use crate::shared::Shared;

/// The parameter in which a client hands in what it has stored.
pub const MIN_OFFSET: &str = "min_offset";

/// The pause before a task is looked at again; the next ones are twice as long each.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(50);

/// The header that says the same.
const MIN_OFFSET_HEADER: &str = "headwater-min-offset";

/// When a client is to ask again for what took too long, in seconds.
const RETRY_AFTER: u64 = 1;

/// What a stream or a view comes from.
#[derive(Debug, Default)]
pub struct Lineage {
    /// The streams that are filled from outside, by their ids.
    sources: BTreeMap<u64, Source>,
    stages: Vec<Step>,
}

#[derive(Debug)]
struct Source {
    name: String,
    topic: Arc<str>,
    partitions: u32,
}

/// A stage: whose, where it reads and where it writes.
#[derive(Debug)]
struct Step {
    pipeline: Arc<str>,
    number: usize,
    input: Arc<str>,
    partitions: u32,
    output: Arc<str>,
}

/// The lineages of what was asked for, as of one version of the catalog.
#[derive(Debug, Default)]
pub struct Lineages {
    known: Mutex<(u64, HashMap<u64, Arc<Known>>)>,
}

/// An object's lineage, and what of it is in the object for sure.
#[derive(Debug)]
pub struct Known {
    pub lineage: Lineage,
    reached: Mutex<Stored>,
}

impl Lineage {
    /// Of a stream or a view.
    pub fn of(definition: &Definition, snapshot: &Snapshot) -> Result<Self, SqlError> {
        let present = snapshot.iter().map(|object| &**object);
        let successors = snapshot.iter().filter_map(|object| object.successor.as_deref());
        let objects = present.chain(successors).filter(|object| object.has_rows());
        let objects: HashMap<String, &Definition> = objects.map(|object| (object.topic(), object)).collect();
        let mut lineage = Self::default();
        lineage.add(definition, snapshot, &objects, &mut HashSet::new())?;
        Ok(lineage)
    }

    fn add(
        &mut self,
        definition: &Definition,
        snapshot: &Snapshot,
        objects: &HashMap<String, &Definition>,
        seen: &mut HashSet<u64>,
    ) -> Result<(), SqlError> {
        if !seen.insert(definition.id) {
            return Ok(());
        }
        if definition.query().is_none() {
            let source = Source {
                name: definition.name.clone(),
                topic: definition.topic().into(),
                partitions: definition.partitions(),
            };
            self.sources.insert(definition.id, source);
            return Ok(());
        }
        let pipeline = headwater_sql::plan::pipeline(definition, snapshot)?;
        for input in pipeline.inputs() {
            if let Some(writer) = objects.get(&*input.topic) {
                self.add(writer, snapshot, objects, seen)?;
            }
        }
        self.stages
            .extend(pipeline.stages.iter().enumerate().map(|(number, stage)| {
                let (Output::Topic { topic, .. } | Output::View { topic, .. }) = &stage.output;
                Step {
                    pipeline: Arc::clone(&pipeline.name),
                    number,
                    input: Arc::clone(&stage.input.topic),
                    partitions: stage.input.partitions,
                    output: Arc::clone(topic),
                }
            }));
        Ok(())
    }

    /// The streams that it begins with: ids, topics and numbers of partitions.
    pub fn sources(&self) -> impl Iterator<Item = (u64, &Arc<str>, u32)> {
        let sources = self.sources.iter();
        sources.map(|(&id, source)| (id, &source.topic, source.partitions))
    }

    fn reads(&self, stored: &Stored) -> bool {
        stored.streams().any(|stream| self.sources.contains_key(&stream))
    }

    /// Returns when everything that is stored up to there has gone through all stages. What is of other streams is nothing to wait for.
    ///
    /// # Errors
    /// Where the log can't be read, and where a stream has not come that far.
    pub async fn pass(&self, log: &dyn Log, clock: &dyn Clock, stored: &Stored) -> Result<(), QueryError> {
        let mut sources: HashMap<&Arc<str>, Vec<(u32, Offset)>> = HashMap::new();
        for (stream, partition, offset) in stored.iter() {
            if let Some(source) = self.sources.get(&stream) {
                source.check(log, partition, offset).await?;
                sources.entry(&source.topic).or_default().push((partition, offset));
            }
        }
        let mut passed: HashSet<&Arc<str>> = HashSet::new();
        for stage in &self.stages {
            let wanted = match sources.get(&stage.input) {
                Some(wanted) => wanted.clone(),
                None if passed.contains(&stage.input) => stage.all_there_is(log).await?,
                None => continue,
            };
            for (partition, offset) in wanted.into_iter().filter(|(_, offset)| *offset > 0) {
                stage.pass(log, clock, partition, offset).await?;
            }
            passed.insert(&stage.output);
        }
        Ok(())
    }
}

impl Source {
    /// A place that the stream has not come to was not stored here.
    async fn check(&self, log: &dyn Log, partition: u32, offset: Offset) -> Result<(), QueryError> {
        let place = TopicPartition::new(Arc::clone(&self.topic), partition);
        let there = match partition < self.partitions {
            true if offset <= log.known_end(&place) => return Ok(()),
            true => log.settled(&place).await?.end,
            false => 0,
        };
        if offset <= there {
            return Ok(());
        }
        let name = &self.name;
        let detail = format!(
            "'{MIN_OFFSET}' names offset {offset} of partition {partition} of '{name}', which has not come further than {there}"
        );
        Err(invalid(detail)
            .hint("it is of another server, or of one whose data was put back since")
            .into())
    }
}

impl Step {
    /// For each partition the end of what the stage's input holds now.
    async fn all_there_is(&self, log: &dyn Log) -> Result<Vec<(u32, Offset)>, LogError> {
        let ends = (0..self.partitions).map(async |partition| {
            let input = TopicPartition::new(Arc::clone(&self.input), partition);
            Ok((partition, to_reach(&log.settled(&input).await?)))
        });
        try_join_all(ends).await
    }

    /// Returns when the task of a partition has consumed what stands before `offset`, as far as it is kept.
    async fn pass(&self, log: &dyn Log, clock: &dyn Clock, partition: u32, offset: Offset) -> Result<(), LogError> {
        let input = TopicPartition::new(Arc::clone(&self.input), partition);
        let owner = task_owner(&self.pipeline, self.number, partition);
        let mut pause = LOOK_AGAIN;
        loop {
            let consumed = log.consumed(&owner).await?;
            if consumed.get(&input).is_some_and(|&consumed| consumed >= offset) {
                return Ok(());
            }
            // Nobody reads what the retention has deleted.
            if pause == LOOK_AGAIN_MAX && log.offsets(&input).await?.start >= offset {
                return Ok(());
            }
            clock.sleep(pause).await;
            pause = (2 * pause).min(LOOK_AGAIN_MAX);
        }
    }
}

impl Lineages {
    /// Of an object of the catalog's present version.
    pub async fn get(&self, shared: &Shared, definition: &Arc<Definition>) -> Result<Arc<Known>, QueryError> {
        let snapshot = shared.parts.catalog.snapshot();
        let version = snapshot.version;
        {
            let mut known = self.known.lock();
            if known.0 < version {
                *known = (version, HashMap::new());
            }
            if let Some(known) = known.1.get(&definition.id) {
                return Ok(Arc::clone(known));
            }
        }
        let of = Arc::clone(definition);
        let planned = async move { Ok(Lineage::of(&of, &snapshot)?) };
        let made = Arc::new(Known {
            lineage: execution::on(&shared.parts.executor, planned).await?,
            reached: Mutex::default(),
        });
        let mut known = self.known.lock();
        if known.0 == version {
            known.1.insert(definition.id, Arc::clone(&made));
        }
        Ok(made)
    }
}

impl Known {
    /// Returns when a reader in this process sees in the object everything that is stored up to there.
    async fn reach(&self, shared: &Shared, of: &Definition, stored: &Stored) -> Result<(), QueryError> {
        if self.reached.lock().covers(stored) {
            return Ok(());
        }
        let log = shared.parts.log.as_ref();
        self.lineage.pass(log, shared.parts.clock.as_ref(), stored).await?;
        match of.view() {
            // Opened anew: that waits for what others have committed.
            Some(_) => drop(log.state(&of.rows_table()).await?),
            None => {
                let topic: Arc<str> = of.topic().into();
                let readable = (0..of.partitions()).map(|partition| TopicPartition::new(Arc::clone(&topic), partition));
                try_join_all(readable.map(async |partition| log.settled(&partition).await)).await?;
            }
        }
        self.reached.lock().merge(stored);
        Ok(())
    }
}

/// What a client has handed in, in a parameter or a field.
pub fn handed_in(text: &str) -> Result<Stored, Problem> {
    text.parse().map_err(|NoToken| {
        let detail = format!("'{MIN_OFFSET}' can't be '{text}'");
        invalid(detail).hint(format!(
            "hand in what the answer to events said in '{OFFSET_HEADER}', such as 2~0-18; several with commas between"
        ))
    })
}

/// What it has handed in in headers.
pub fn in_headers(headers: &HeaderMap) -> Result<Stored, Problem> {
    let mut stored = Stored::default();
    for value in headers.get_all(MIN_OFFSET_HEADER) {
        let text = String::from_utf8_lossy(value.as_bytes());
        stored.merge(&handed_in(&text)?);
    }
    Ok(stored)
}

/// Returns when all that is `stored` is in the objects that a question reads, as far as they come from its streams.
///
/// # Errors
/// If that takes too long; if one of the streams is not there any more, or none of the objects comes from any of them.
pub async fn taken_in(shared: &Shared, read: &[Arc<Definition>], stored: &Stored) -> Result<(), QueryError> {
    if stored.is_empty() {
        return Ok(());
    }
    let mut known = Vec::with_capacity(read.len());
    for definition in read {
        known.push(shared.lineages.get(shared, definition).await?);
    }
    check(shared, read, &known, stored)?;
    let all = async {
        // What comes from elsewhere is read as it is.
        let of_them = read.iter().zip(&known).filter(|(_, known)| known.lineage.reads(stored));
        for (definition, known) in of_them {
            known.reach(shared, definition, stored).await?;
        }
        Ok(())
    };
    let timeout = shared.options.min_offset_timeout;
    tokio::select! {
        biased;
        reached = all => reached,
        replaced = replaced(shared, read) => Err(replaced.into()),
        () = shared.parts.clock.sleep(timeout) => {
            let detail = format!("{} not taken in what '{MIN_OFFSET}' names within {} s", have(read), timeout.as_secs_f64());
            let problem = Problem::new(ProblemKind::Behind, detail).retry_after(RETRY_AFTER);
            Err(problem.hint("ask again; 'headwater status' shows what is behind").into())
        }
    }
}

/// Whether the streams are there, and of any use.
fn check(shared: &Shared, read: &[Arc<Definition>], known: &[Arc<Known>], stored: &Stored) -> Result<(), Problem> {
    let snapshot = shared.parts.catalog.snapshot();
    let present = snapshot.iter().map(|object| &**object);
    let successors = snapshot.iter().filter_map(|object| object.successor.as_deref());
    let mut there: HashMap<u64, &str> = present
        .chain(successors)
        .map(|object| (object.id, object.name.as_str()))
        .collect();
    let sources = known.iter().flat_map(|known| &known.lineage.sources);
    there.extend(sources.map(|(&id, source)| (id, source.name.as_str())));
    if let Some(gone) = stored.streams().find(|stream| !there.contains_key(stream)) {
        let detail = format!("'{MIN_OFFSET}' is of a stream that is not there any more (its id was {gone})");
        return Err(invalid(detail).hint("it was dropped or made anew since: ask without it"));
    }
    if known.iter().any(|known| known.lineage.reads(stored)) {
        return Ok(());
    }
    let of: Vec<&str> = stored
        .streams()
        .filter_map(|stream| there.get(&stream).copied())
        .collect();
    let of = of.join("', '");
    let detail = match read {
        [] => format!("'{MIN_OFFSET}' is of '{of}', and nothing that comes from there is read"),
        [one] => format!("'{MIN_OFFSET}' is of '{of}', from which '{}' takes nothing", one.name),
        _ => format!("'{MIN_OFFSET}' is of '{of}', and nothing that is read comes from there"),
    };
    Err(invalid(detail))
}

fn have(read: &[Arc<Definition>]) -> String {
    let names: Vec<_> = read.iter().map(|object| format!("'{}'", object.name)).collect();
    match names.as_slice() {
        [one] => format!("{one} has"),
        several => format!("{} have", several.join(", ")),
    }
}

/// Returns when one of the objects is no longer what it was: it comes no further then.
async fn replaced(shared: &Shared, read: &[Arc<Definition>]) -> Problem {
    let mut catalog = shared.parts.catalog.subscribe();
    loop {
        let now = catalog.borrow_and_update().clone();
        let is_gone = |object: &&Arc<Definition>| now.get(&object.name).is_none_or(|now| now.id != object.id);
        if let Some(gone) = read.iter().find(is_gone) {
            let detail = format!("'{}' was replaced or dropped meanwhile", gone.name);
            return Problem::new(ProblemKind::Conflict, detail).hint("ask again");
        }
        if catalog.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests;
