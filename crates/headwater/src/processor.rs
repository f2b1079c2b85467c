//! Keeps what runs in step with the catalog: the only place that starts and stops pipelines, sources and sinks.
//!
//! Whenever the catalog changes, [`Processor`] compares it to what runs here. Objects that are gone
//! are stopped and what they left in the log is deleted; new ones get their topics and are started.
//! An object is known by its id, so a replaced one is one that is gone and one that is new. A source goes on
//! into the stream that takes the place of its own. A successor runs like any other object, until it takes the
//! place of what it replaces ([`swap`]).

mod swap;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_catalog::definition::{Definition, Object, Sink, Source, Stream};
use headwater_catalog::snapshot::Snapshot;
use headwater_catalog::store::Catalog;
use headwater_connect::delivery::{self, Sinks};
use headwater_connect::intake;
use headwater_connect::lookup::Lookups;
use headwater_connect::runtime::{self, Sources};
use headwater_engine::engine::{Engine, Running};
use headwater_engine::plan::Pipeline;
use headwater_engine::status::{TaskState, TaskStatus};
use headwater_event::clock::Clock;
use headwater_event::offset::{TopicPartition, behind};
use headwater_event::op;
use headwater_gateway::ingest::keys;
use headwater_log::Log;
use headwater_log::error::Error as LogError;
use headwater_log::topic::{Cleanup, TopicSpec};
use headwater_schema::column::Column;
use headwater_telemetry::metrics::{LOG_BYTES, SINK_LAG_ROWS, TASK_LAG_ROWS};
use metrics::{Gauge, gauge};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use crate::cluster::balance::Unit;
use crate::cluster::roles::Role;
use crate::cluster::{Intake, Part};

/// Ways in from elsewhere, out to it, and to tables there.
pub struct Connectors {
    pub sources: Arc<Sources>,
    pub sinks: Arc<Sinks>,
    pub lookups: Arc<Lookups>,
}

/// Runs the catalog's continuous queries on this process's engine, its sources and its sinks.
pub struct Processor {
    catalog: Arc<Catalog>,
    log: Arc<dyn Log>,
    engine: Arc<Engine>,
    sources: Arc<Sources>,
    sinks: Arc<Sinks>,
    lookups: Arc<Lookups>,
    part: Part,
    /// By object id. An object that could not be started is there with the reason.
    objects: RwLock<BTreeMap<u64, Active>>,
    /// The catalog's version that runs here.
    applied: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
    /// Of what was replaced, and may still be read.
    removals: TaskTracker,
}

#[derive(Debug)]
struct Active {
    definition: Arc<Definition>,
    /// Something else answers in its place.
    is_successor: bool,
    query: Query,
}

#[derive(Clone, Debug)]
enum Query {
    None,
    Running(Arc<Running>),
    /// A source that writes into the stream with this id.
    Source(u64),
    Sink,
    Failed(String),
}

/// A continuous query as it runs.
#[derive(Debug)]
pub struct QueryStatus {
    pub name: String,
    /// Why it doesn't run, if it doesn't.
    pub failure: Option<String>,
    pub tasks: Vec<TaskStatus>,
}

impl QueryStatus {
    /// What keeps the query from being up to its work, if anything does.
    pub fn why_not_ready(&self) -> Option<String> {
        let of_tasks = || {
            self.tasks.iter().find_map(|task| match &task.state {
                TaskState::Starting => Some("restoring its state".to_owned()),
                TaskState::Failing(why) | TaskState::Failed(why) => Some(why.clone()),
                TaskState::Running | TaskState::Elsewhere | TaskState::Stopped => None,
            })
        };
        self.failure.clone().or_else(of_tasks)
    }
}

impl Processor {
    pub fn new(
        catalog: Arc<Catalog>,
        log: Arc<dyn Log>,
        engine: Arc<Engine>,
        connectors: Connectors,
        part: Part,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let Connectors {
            sources,
            sinks,
            lookups,
        } = connectors;
        Arc::new(Self {
            catalog,
            log,
            engine,
            sources,
            sinks,
            lookups,
            part,
            objects: RwLock::default(),
            applied: watch::Sender::new(0),
            clock,
            removals: TaskTracker::new(),
        })
    }

    /// The version of the catalog that has been put into effect.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Follows the catalog until `stop`; then stops all queries, each after its current epoch.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut catalog = self.catalog.subscribe();
        let mut leads = self.part.leads.clone();
        let mut has_led = false;
        loop {
            let leads_now = *leads.borrow_and_update();
            if leads_now && !has_led {
                self.remove_leftovers().await;
            }
            has_led = leads_now;
            let snapshot = catalog.borrow_and_update().clone();
            self.reconcile(&snapshot, &stop).await;
            self.applied.send_replace(snapshot.version);
            self.part.units.send_replace(Some(self.units()));
            tokio::select! {
                changed = catalog.changed() => if changed.is_err() { break },
                group = self.next_built(&snapshot), if leads_now => self.swap(&snapshot, &group).await,
                Ok(()) = leads.changed() => {}
                () = stop.cancelled() => break,
            }
        }
        self.stop_all().await;
        self.removals.close();
        self.removals.wait().await;
    }

    /// All work that one process does at a time.
    fn units(&self) -> Arc<[Unit]> {
        let objects = self.objects.read();
        let mut units = Vec::new();
        for active in objects.values() {
            let mut add = |owner: String, role| {
                units.push(Unit {
                    owner: owner.into(),
                    role,
                })
            };
            match &active.query {
                Query::Running(running) => running.owners().for_each(|owner| add(owner, Role::Processor)),
                Query::Source(_) => add(runtime::owner(&active.definition), Role::Processor),
                Query::Sink => add(delivery::owner(&active.definition), Role::Sinks),
                Query::None | Query::Failed(_) => {}
            }
            if let Some(intake) = intake::definition(&active.definition) {
                units.push(Unit {
                    owner: runtime::owner(&intake).into(),
                    role: Role::Processor,
                });
            }
            let keyed = active
                .definition
                .stream()
                .is_some_and(|stream| stream.idempotency.is_some());
            if keyed {
                let owner = keys::owner(&active.definition.topic()).into();
                units.push(Unit {
                    owner,
                    role: Role::Gateway,
                });
            }
        }
        units.into()
    }

    /// What every query does right now, without those that nobody waits for: successors.
    pub fn status(&self) -> Vec<QueryStatus> {
        let status = |(name, query): (String, Result<Arc<Running>, String>)| QueryStatus {
            name,
            tasks: query.as_ref().map_or_else(|_| Vec::new(), |running| running.status()),
            failure: query.err(),
        };
        self.named_queries().into_iter().map(status).collect()
    }

    /// Every query that people know of, by its object's name, or why it doesn't run.
    pub fn named_queries(&self) -> Vec<(String, Result<Arc<Running>, String>)> {
        let objects = self.objects.read();
        let present = objects.values().filter(|active| !active.is_successor);
        let queries = present.filter_map(|active| {
            let query = match &active.query {
                Query::None | Query::Source(_) | Query::Sink => return None,
                Query::Running(running) => Ok(Arc::clone(running)),
                Query::Failed(reason) => Err(reason.clone()),
            };
            Some((active.definition.name.clone(), query))
        });
        queries.collect()
    }

    /// The query that keeps an object current, if it has one that runs.
    pub fn running(&self, object: &str) -> Option<Arc<Running>> {
        let objects = self.objects.read();
        let mut present = objects.values().filter(|active| !active.is_successor);
        let active = present.find(|active| active.definition.name == object)?;
        match &active.query {
            Query::Running(running) => Some(Arc::clone(running)),
            Query::None | Query::Source(_) | Query::Sink | Query::Failed(_) => None,
        }
    }

    /// Brings the gauges up to date that tell about right now.
    pub async fn publish_metrics(&self) {
        gauge!(LOG_BYTES).set(self.log.bytes_used() as f64);
        let queries: Vec<_> = self
            .objects
            .read()
            .values()
            .map(|active| active.query.clone())
            .collect();
        for query in queries {
            if let Query::Running(running) = query {
                self.publish_lag(&running).await;
            }
        }
        for sink in self.sinks.status().await {
            if let Some(lag) = sink.lag {
                gauge!(SINK_LAG_ROWS, "sink" => sink.name).set(lag as f64);
            }
        }
    }

    /// A task tells its lag when it commits; one that doesn't get on doesn't.
    async fn publish_lag(&self, running: &Running) {
        let pipeline = running.pipeline();
        for task in running.status() {
            let Some(stage) = pipeline.stages.get(task.stage) else {
                continue;
            };
            if task.state == TaskState::Elsewhere {
                // The process that runs it tells.
                lag_of(pipeline, &task).set(0.0);
                continue;
            }
            let input = TopicPartition::new(Arc::clone(&stage.input.topic), task.partition);
            // The log says elsewhere what is wrong with it.
            let Ok(offsets) = self.log.offsets(&input).await else {
                continue;
            };
            lag_of(pipeline, &task).set(behind(&offsets, task.offset) as f64);
        }
    }

    /// Returns when sources have brought what is there, every query has committed all that its
    /// inputs hold then, through all queries that read from one another, and sinks have taken what came of it.
    ///
    /// Successors that have nothing more to wait for have taken their place then.
    pub async fn caught_up(&self) {
        self.sources.caught_up().await;
        loop {
            // Ids increase and a query reads only what was there before it: one pass in the order of
            // the ids sees every query after its inputs.
            let running: Vec<_> = self
                .objects
                .read()
                .values()
                .map(|active| active.query.clone())
                .collect();
            for query in running {
                if let Query::Running(running) = query {
                    running.caught_up().await;
                }
            }
            if !self.swapped().await {
                break;
            }
        }
        self.sinks.caught_up().await;
    }

    async fn reconcile(self: &Arc<Self>, snapshot: &Snapshot, stop: &CancellationToken) {
        let present = snapshot.iter().map(|object| (object.id, Arc::clone(object)));
        let successors = snapshot.iter().filter_map(|object| object.successor.as_deref());
        // A sink would deliver what is not there yet for anybody.
        let successors = successors.filter(|successor| successor.sink().is_none());
        let successors = successors.map(|successor| (successor.id, Arc::new(successor.clone())));
        let wanted: BTreeMap<u64, _> = present.chain(successors).collect();
        let gone: Vec<u64> = {
            let objects = self.objects.read();
            let ids = objects.keys().rev();
            ids.copied().filter(|id| !wanted.contains_key(id)).collect()
        };
        self.stop_moved_sources(snapshot).await;
        if !gone.is_empty() {
            self.keep_bound(&wanted).await;
        }
        for id in gone {
            let active = self.objects.write().remove(&id);
            if let Some(active) = active {
                self.remove(active, snapshot, stop).await;
            }
        }
        // Sources last: a stream that was replaced is newer than what writes into it.
        let (sources, others): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(_, object)| object.source().is_some());
        for (id, definition) in others.into_iter().chain(sources) {
            let is_successor = snapshot.get(&definition.name).is_some_and(|present| present.id != id);
            let former = match self.objects.write().get_mut(&id) {
                Some(active) if active.definition.sql == definition.sql => {
                    active.is_successor = is_successor;
                    continue;
                }
                Some(active) => Some(active.query.clone()),
                None => None,
            };
            // It goes on with another query, on the same topics and state.
            if let Some(Query::Running(running)) = former {
                running.stop().await;
            }
            let query = self.start(&definition, snapshot).await;
            let active = Active {
                definition,
                is_successor,
                query,
            };
            self.objects.write().insert(id, active);
        }
    }

    /// Takes over the topics that new streams are bound to, before what they replace is deleted, and with it a topic that nobody else has.
    async fn keep_bound(&self, wanted: &BTreeMap<u64, Arc<Definition>>) {
        for (id, definition) in wanted {
            let Some(stream) = definition.stream().filter(|stream| stream.topic.is_some()) else {
                continue;
            };
            if !self.objects.read().contains_key(id) {
                let spec = stream_topic(definition, stream.retention_ms, stream.retention_bytes);
                // Why it can't be is said when it is started.
                let _ = self.log.create_topic(spec).await;
            }
        }
    }

    /// Stops the sources whose stream was replaced; they are started again as if they were new.
    async fn stop_moved_sources(&self, snapshot: &Snapshot) {
        let moved: Vec<u64> = {
            let objects = self.objects.read();
            let has_moved = |active: &&Active| match (active.definition.source(), &active.query) {
                (Some(source), Query::Source(into)) => {
                    snapshot.get(&source.stream).is_some_and(|stream| stream.id != *into)
                }
                _ => false,
            };
            let moved = objects.values().filter(has_moved);
            moved.map(|active| active.definition.id).collect()
        };
        for id in moved {
            self.sources.stop(id).await;
            self.objects.write().remove(&id);
        }
    }

    async fn start(&self, definition: &Arc<Definition>, snapshot: &Snapshot) -> Query {
        match self.try_start(definition, snapshot).await {
            Ok(query) => query,
            Err(reason) => {
                error!(object = definition.name, reason, "can't run");
                Query::Failed(reason)
            }
        }
    }

    async fn try_start(&self, definition: &Arc<Definition>, snapshot: &Snapshot) -> Result<Query, String> {
        let partitions = match &definition.object {
            Object::Stream(stream) => {
                let spec = stream_topic(definition, stream.retention_ms, stream.retention_bytes);
                self.log.create_topic(spec).await.map_err(|error| error.to_string())?;
                if let Some(intake) = intake::definition(definition)
                    && self.part.intake == Intake::Open
                {
                    self.sources.start(&Arc::new(intake), definition);
                }
                stream.partitions
            }
            Object::View(view) => view.partitions,
            Object::Source(source) => return self.start_source(definition, source, snapshot),
            Object::Sink(sink) => return self.start_sink(definition, sink, snapshot),
            Object::Table(_) => {
                let started = self.lookups.start(definition);
                return started.map(|()| Query::None).map_err(|refusal| refusal.to_string());
            }
        };
        if definition.query().is_none() || !self.part.roles.has(Role::Processor) {
            return Ok(Query::None);
        }
        let pipeline = headwater_sql::plan::pipeline(definition, snapshot).map_err(|error| error.to_string())?;
        if definition.view().is_some() {
            let writers = pipeline
                .stages
                .last()
                .map_or(partitions, |stage| stage.input.partitions);
            let spec = changes_topic(definition, writers);
            self.log.create_topic(spec).await.map_err(|error| error.to_string())?;
            let rows = self.log.state(&definition.rows_table()).await;
            rows.map_err(|error| error.to_string())?;
        }
        let running = self.engine.start(pipeline).await.map_err(|error| error.to_string())?;
        info!(object = definition.name, id = definition.id, "running");
        Ok(Query::Running(Arc::new(running)))
    }

    fn start_source(
        &self,
        definition: &Arc<Definition>,
        source: &Source,
        snapshot: &Snapshot,
    ) -> Result<Query, String> {
        let stream = snapshot.get(&source.stream);
        let stream = stream.ok_or_else(|| format!("there is no stream '{}'", source.stream))?;
        if self.part.intake == Intake::Open {
            self.sources.start(definition, stream);
        }
        Ok(Query::Source(stream.id))
    }

    fn start_sink(&self, definition: &Arc<Definition>, sink: &Sink, snapshot: &Snapshot) -> Result<Query, String> {
        let reads = snapshot.get(&sink.reads);
        let reads = reads.ok_or_else(|| format!("there is no stream or view '{}'", sink.reads))?;
        if self.part.intake == Intake::Open {
            self.sinks.start(definition, reads);
        }
        Ok(Query::Sink)
    }

    /// Stops the object's query and deletes all that it kept: where a successor has taken its place, once those who
    /// have begun to read it are through.
    async fn remove(self: &Arc<Self>, active: Active, snapshot: &Snapshot, stop: &CancellationToken) {
        self.sources.stop(active.definition.id).await;
        self.lookups.stop(&active.definition);
        if let Query::Running(running) = &active.query {
            running.stop().await;
            let pipeline = running.pipeline();
            running.status().iter().for_each(|task| lag_of(pipeline, task).set(0.0));
        }
        let has_readers = !active.is_successor && active.definition.query().is_some();
        if !has_readers || snapshot.get(&active.definition.name).is_none() {
            return self.delete(active).await;
        }
        let (processor, stop) = (Arc::clone(self), stop.clone());
        self.removals.spawn(async move {
            tokio::select! {
                () = processor.clock.sleep(swap::READERS_PAUSE) => processor.delete(active).await,
                // The next start deletes it.
                () = stop.cancelled() => {}
            }
        });
    }

    /// Where this process doesn't lead, the one that does deletes it.
    async fn delete(&self, active: Active) {
        if !*self.part.leads.borrow() {
            return;
        }
        let definition = active.definition;
        if let Query::Running(running) = active.query
            && let Err(error) = self.engine.drop_pipeline(running.pipeline()).await
        {
            error!(object = definition.name, %error, "its state could not be deleted; the next start tries again");
        }
        if let Err(error) = self.delete_storage(&definition).await {
            error!(object = definition.name, %error, "its data could not be deleted; the next start tries again");
        }
        info!(object = definition.name, id = definition.id, "removed");
    }

    async fn delete_storage(&self, definition: &Definition) -> headwater_log::error::Result<()> {
        if definition.source().is_some() {
            return self.sources.forget(definition).await;
        }
        if definition.sink().is_some() {
            return self.sinks.remove(definition).await;
        }
        if definition.table().is_some() {
            return Ok(());
        }
        if let Some(intake) = intake::definition(definition) {
            self.sources.forget(&intake).await?;
        }
        let topic = definition.topic();
        self.log.delete_topic(&topic).await?;
        match definition.object {
            Object::Stream(_) => {
                self.log.release(&keys::owner(&topic)).await?;
                self.log.delete_state(&keys::keys_table(&topic)).await
            }
            Object::View(_) | Object::Source(_) | Object::Sink(_) | Object::Table(_) => {
                self.log.delete_state(&definition.rows_table()).await
            }
        }
    }

    /// Deletes the topics and state tables of objects that were dropped or replaced just before the process ended.
    /// Those of an object are called `name-id` and whatever follows after a dot.
    async fn remove_leftovers(&self) {
        let listed = async { Ok::<_, LogError>((self.log.topics().await?, self.log.state_tables().await?)) };
        let (topics, tables) = match listed.await {
            Ok(listed) => listed,
            Err(error) => return error!(%error, "can't list what is in the log"),
        };
        // After them: what is made for an object, is made once the object is there.
        if let Err(error) = self.catalog.refresh().await {
            return error!(%error, "can't look for what was left");
        }
        let snapshot = self.catalog.snapshot();
        let present = snapshot.iter().map(|object| object.as_ref());
        let successors = snapshot.iter().filter_map(|object| object.successor.as_deref());
        let known: BTreeSet<String> = present
            .chain(successors)
            .map(|object| format!("{}-{}", object.name, object.id))
            .collect();
        let is_left = |name: &String| !name.starts_with('$') && !known.iter().any(|object| belongs_to(name, object));
        for topic in topics.into_iter().map(|topic| topic.spec.name).filter(is_left) {
            info!(topic, "deleting the topic of an object that was dropped");
            if let Err(error) = self.log.delete_topic(&topic).await {
                error!(topic, %error, "can't delete");
            }
        }
        for table in tables.into_iter().filter(is_left) {
            info!(table, "deleting the state of an object that was dropped");
            if let Err(error) = self.log.delete_state(&table).await {
                error!(table, %error, "can't delete");
            }
        }
    }

    async fn stop_all(&self) {
        let objects = std::mem::take(&mut *self.objects.write());
        for active in objects.into_values().rev() {
            self.sources.stop(active.definition.id).await;
            self.sinks.stop(active.definition.id).await;
            if let Query::Running(running) = active.query {
                running.stop().await;
            }
        }
    }
}

fn lag_of(pipeline: &Pipeline, task: &TaskStatus) -> Gauge {
    let labels = [
        ("pipeline", pipeline.name.to_string()),
        ("stage", task.stage.to_string()),
        ("partition", task.partition.to_string()),
    ];
    gauge!(TASK_LAG_ROWS, &labels)
}

fn belongs_to(topic: &str, object: &str) -> bool {
    topic
        .strip_prefix(object)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn stream_topic(definition: &Definition, retention_ms: Option<u64>, retention_bytes: Option<u64>) -> TopicSpec {
    TopicSpec {
        name: definition.topic(),
        schema: arrow_schema(definition.columns()),
        partitions: definition.partitions(),
        cleanup: Cleanup::Delete {
            retention_ms,
            retention_bytes,
        },
        events: definition.stream().and_then(Stream::events),
    }
}

/// Kept for ever: queries and sinks that read a view begin at its first change.
fn changes_topic(definition: &Definition, partitions: u32) -> TopicSpec {
    TopicSpec {
        name: definition.topic(),
        schema: op::changelog_schema(&arrow_schema(definition.columns())),
        partitions,
        // A view over this one begins at the first of them, whenever it is made.
        cleanup: Cleanup::Delete {
            retention_ms: None,
            retention_bytes: None,
        },
        events: None,
    }
}

fn arrow_schema(columns: &[Column]) -> arrow::datatypes::SchemaRef {
    let fields: Vec<_> = columns.iter().map(Column::field).collect();
    Arc::new(arrow::datatypes::Schema::new(fields))
}
