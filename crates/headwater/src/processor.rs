//! Keeps what runs in step with the catalog: the only place that starts and stops pipelines, sources and sinks.
//!
//! Whenever the catalog changes, [`Processor`] compares it to what runs here. Objects that are gone
//! are stopped and what they left in the log is deleted; new ones get their topics and are started.
//! An object is known by its id, so a replaced one is one that is gone and one that is new. A source goes on
//! into the stream that takes the place of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_catalog::definition::{Definition, Object, Sink, Source};
use headwater_catalog::snapshot::Snapshot;
use headwater_catalog::store::Catalog;
use headwater_connect::delivery::Sinks;
use headwater_connect::runtime::Sources;
use headwater_engine::engine::{Engine, Running};
use headwater_engine::status::{TaskState, TaskStatus};
use headwater_event::offset::TopicPartition;
use headwater_event::op;
use headwater_gateway::ingest::keys;
use headwater_log::Log;
use headwater_log::topic::{Cleanup, TopicSpec};
use headwater_schema::column::Column;
use headwater_telemetry::metrics::{LOG_BYTES, SINK_LAG_ROWS, TASK_LAG_ROWS};
use metrics::gauge;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::instance::Intake;

/// Runs the catalog's continuous queries on this process's engine, its sources and its sinks.
pub struct Processor {
    catalog: Arc<Catalog>,
    log: Arc<dyn Log>,
    engine: Arc<Engine>,
    sources: Arc<Sources>,
    sinks: Arc<Sinks>,
    intake: Intake,
    /// By object id. An object that could not be started is there with the reason.
    objects: RwLock<BTreeMap<u64, Active>>,
    /// The catalog's version that runs here.
    applied: watch::Sender<u64>,
}

#[derive(Debug)]
struct Active {
    definition: Arc<Definition>,
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
                TaskState::Running | TaskState::Stopped => None,
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
        sources: Arc<Sources>,
        sinks: Arc<Sinks>,
        intake: Intake,
    ) -> Arc<Self> {
        Arc::new(Self {
            catalog,
            log,
            engine,
            sources,
            sinks,
            intake,
            objects: RwLock::default(),
            applied: watch::Sender::new(0),
        })
    }

    /// The version of the catalog that has been put into effect.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Follows the catalog until `stop`; then stops all queries, each after its current epoch.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut catalog = self.catalog.subscribe();
        self.remove_leftovers(&self.catalog.snapshot()).await;
        loop {
            let snapshot = catalog.borrow_and_update().clone();
            self.reconcile(&snapshot).await;
            self.applied.send_replace(snapshot.version);
            tokio::select! {
                changed = catalog.changed() => if changed.is_err() { break },
                () = stop.cancelled() => break,
            }
        }
        self.stop_all().await;
    }

    /// What every query does right now.
    pub fn status(&self) -> Vec<QueryStatus> {
        let objects = self.objects.read();
        let queries = objects.values().filter_map(|active| match &active.query {
            Query::None | Query::Source(_) | Query::Sink => None,
            Query::Running(running) => Some(QueryStatus {
                name: active.definition.name.clone(),
                failure: None,
                tasks: running.status(),
            }),
            Query::Failed(reason) => Some(QueryStatus {
                name: active.definition.name.clone(),
                failure: Some(reason.clone()),
                tasks: Vec::new(),
            }),
        });
        queries.collect()
    }

    /// The query that keeps an object current, if it has one that runs.
    pub fn running(&self, object: &str) -> Option<Arc<Running>> {
        let objects = self.objects.read();
        let active = objects.values().find(|active| active.definition.name == object)?;
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
            let input = TopicPartition::new(Arc::clone(&stage.input.topic), task.partition);
            // The log says elsewhere what is wrong with it.
            let Ok(offsets) = self.log.offsets(&input).await else {
                continue;
            };
            let labels = [
                ("pipeline", pipeline.name.to_string()),
                ("stage", task.stage.to_string()),
                ("partition", task.partition.to_string()),
            ];
            gauge!(TASK_LAG_ROWS, &labels).set(offsets.end.saturating_sub(task.offset) as f64);
        }
    }

    /// Returns when sources have brought what is there, every query has committed all that its
    /// inputs hold then, through all queries that read from one another, and sinks have taken what came of it.
    pub async fn caught_up(&self) {
        self.sources.caught_up().await;
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
        self.sinks.caught_up().await;
    }

    async fn reconcile(&self, snapshot: &Snapshot) {
        let wanted: BTreeMap<u64, _> = snapshot.iter().map(|object| (object.id, Arc::clone(object))).collect();
        let gone: Vec<u64> = {
            let objects = self.objects.read();
            let ids = objects.keys().rev();
            ids.copied().filter(|id| !wanted.contains_key(id)).collect()
        };
        self.stop_moved_sources(snapshot).await;
        for id in gone {
            let active = self.objects.write().remove(&id);
            if let Some(active) = active {
                self.remove(active).await;
            }
        }
        // Sources last: a stream that was replaced is newer than what writes into it.
        let (sources, others): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(_, object)| object.source().is_some());
        for (id, definition) in others.into_iter().chain(sources) {
            if !self.objects.read().contains_key(&id) {
                let query = self.start(&definition, snapshot).await;
                self.objects.write().insert(id, Active { definition, query });
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
                stream.partitions
            }
            Object::View(view) => view.partitions,
            Object::Source(source) => return self.start_source(definition, source, snapshot),
            Object::Sink(sink) => return self.start_sink(definition, sink, snapshot),
        };
        if definition.query().is_none() {
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
        if self.intake == Intake::Open {
            self.sources.start(definition, stream);
        }
        Ok(Query::Source(stream.id))
    }

    fn start_sink(&self, definition: &Arc<Definition>, sink: &Sink, snapshot: &Snapshot) -> Result<Query, String> {
        let reads = snapshot.get(&sink.reads);
        let reads = reads.ok_or_else(|| format!("there is no stream or view '{}'", sink.reads))?;
        if self.intake == Intake::Open {
            self.sinks.start(definition, reads);
        }
        Ok(Query::Sink)
    }

    /// Stops the object's query and deletes all that it kept.
    async fn remove(&self, active: Active) {
        let definition = active.definition;
        self.sources.stop(definition.id).await;
        if let Query::Running(running) = active.query {
            running.stop().await;
            if let Err(error) = self.engine.drop_pipeline(running.pipeline()).await {
                error!(object = definition.name, %error, "its state could not be deleted; the next start tries again");
            }
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
        let topic = definition.topic();
        self.log.delete_topic(&topic).await?;
        match definition.object {
            Object::Stream(_) => {
                self.log.release(&keys::owner(&topic)).await?;
                self.log.delete_state(&keys::keys_table(&topic)).await
            }
            Object::View(_) | Object::Source(_) | Object::Sink(_) => {
                self.log.delete_state(&definition.rows_table()).await
            }
        }
    }

    /// Deletes the topics of objects that were dropped just before the process ended. A topic of an
    /// object is `name-id` and whatever follows after a dot.
    async fn remove_leftovers(&self, snapshot: &Snapshot) {
        let known: BTreeSet<String> = snapshot
            .iter()
            .map(|object| format!("{}-{}", object.name, object.id))
            .collect();
        let topics = match self.log.topics().await {
            Ok(topics) => topics,
            Err(error) => return error!(%error, "can't list topics"),
        };
        for topic in topics {
            let name = topic.spec.name;
            if name.starts_with('$') || known.iter().any(|object| belongs_to(&name, object)) {
                continue;
            }
            info!(topic = name, "deleting the topic of an object that was dropped");
            if let Err(error) = self.log.delete_topic(&name).await {
                error!(topic = name, %error, "can't delete");
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
    }
}

/// Kept for ever: queries and sinks that read a view begin at its first change.
fn changes_topic(definition: &Definition, partitions: u32) -> TopicSpec {
    TopicSpec {
        name: definition.topic(),
        schema: op::changelog_schema(&arrow_schema(definition.columns())),
        partitions,
        cleanup: Cleanup::Delete {
            retention_ms: None,
            retention_bytes: None,
        },
    }
}

fn arrow_schema(columns: &[Column]) -> arrow::datatypes::SchemaRef {
    let fields: Vec<_> = columns.iter().map(Column::field).collect();
    Arc::new(arrow::datatypes::Schema::new(fields))
}
