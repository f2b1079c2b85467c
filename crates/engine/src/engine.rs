//! Starts queries, watches over their tasks, and stops them.
//!
//! Tasks run on threads of the engine's own, away from the sockets' runtime, or wherever they are told to: a task
//! waits for the log and the clock alone, so a simulator can run all of them on one thread. A task that fails or
//! panics starts again from its last commit, after a pause that grows.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use futures::FutureExt;
use futures::future::BoxFuture;
use headwater_event::clock::Clock;
use headwater_event::offset::{Offset, TopicPartition};
use headwater_event::op::changelog_schema;
use headwater_event::room::Room;
use headwater_log::Log;
use headwater_log::error::Kind;
use headwater_log::topic::{Cleanup, TopicSpec};
use headwater_log::work::Work;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chain::operator_table;
use crate::dead_letter::DeadLetterOffice;
use crate::elsewhere;
use crate::epochs::Epochs;
use crate::error::{Error, Result};
use crate::guard::words_of;
use crate::lookup::Tables;
use crate::output::Destination;
use crate::peers::Peers;
use crate::plan::{LateRows, Output, Pipeline, Stage, TimeSource};
use crate::status::{TaskState, TaskStatus};
pub use crate::task::owner as task_owner;
use crate::task::{Assignment, owner, run, task_table};
use crate::view::ViewCodec;

const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(30);
/// Each time is a write to the disk of its own.
const TRIM_EVERY_BATCHES: usize = 64;

#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub threads: usize,
    /// An epoch reads at most this much, and whole batches.
    pub epoch_bytes_max: usize,
    /// All epochs together, with what comes of what they read.
    pub epochs_bytes_max: usize,
    /// The caches of all tasks that keep state per key.
    pub state_cache_bytes_max: usize,
    /// The topic for rows that can't be computed; without it, or where it isn't there, they are
    /// counted and named in the log.
    pub dead_letters: Option<Arc<str>>,
    /// Which tasks are to run in this process. Those of queries that somebody just looks at all are.
    pub work: Work,
    /// The tables that are kept elsewhere; without them queries that look rows up there don't run.
    pub tables: Option<Arc<dyn Tables>>,
}

/// Starts a task somewhere.
pub type Executor = Arc<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

/// Runs pipelines.
pub struct Engine {
    options: EngineOptions,
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    epochs: Arc<Epochs>,
    caches: Room,
    /// What runs, by the pipeline's name, without what somebody just looks at.
    queries: Mutex<BTreeMap<Arc<str>, Weak<Query>>>,
    executor: Executor,
}

/// Threads that tasks run on. Taken out only to be shut down.
struct Threads(Option<Runtime>);

/// A pipeline that runs. It stops when this is dropped; [`Running::stop`] waits for it.
#[derive(Debug)]
pub struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
    query: Arc<Query>,
}

/// A pipeline that runs, and what its tasks say about themselves.
#[derive(Debug)]
pub struct Query {
    pub pipeline: Pipeline,
    pub(crate) stages: Vec<Vec<watch::Receiver<TaskStatus>>>,
    nudges: watch::Sender<u64>,
}

/// What differs between a query that is kept and one that somebody just looks at.
pub(crate) struct Launch {
    pub log: Arc<dyn Log>,
    /// Where the rows of the last stage go instead of its output.
    pub listener: Option<Destination>,
    /// Where inputs begin of which nothing was read yet, if not as planned.
    pub begin_at: HashMap<TopicPartition, Offset>,
    pub stop: CancellationToken,
    /// Batches between stages are trimmed after so many have been read.
    pub trim_every_batches: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            epoch_bytes_max: 8 * 1024 * 1024,
            epochs_bytes_max: 512 * 1024 * 1024,
            state_cache_bytes_max: 32 * 1024 * 1024,
            dead_letters: Some("dead_letters-0".into()),
            work: Work::all(),
            tables: None,
        }
    }
}

impl Engine {
    /// With threads of its own.
    pub fn new(options: EngineOptions, log: Arc<dyn Log>, clock: Arc<dyn Clock>) -> io::Result<Arc<Self>> {
        let threads = Threads::start(options.threads)?;
        Ok(Self::on(Arc::new(move |task| threads.run(task)), options, log, clock))
    }

    /// With tasks wherever the executor runs them; it is dropped with the engine.
    pub fn on(executor: Executor, options: EngineOptions, log: Arc<dyn Log>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            epochs: Epochs::new(options.epoch_bytes_max, options.epochs_bytes_max),
            caches: Room::new(options.state_cache_bytes_max),
            queries: Mutex::default(),
            options,
            log,
            clock,
            executor,
        })
    }

    /// Creates what the pipeline needs and starts its tasks, which go on from their last commit.
    pub async fn start(&self, pipeline: Pipeline) -> Result<Running> {
        let launch = Launch {
            log: Arc::clone(&self.log),
            listener: None,
            begin_at: HashMap::new(),
            stop: CancellationToken::new(),
            trim_every_batches: TRIM_EVERY_BATCHES,
        };
        let running = self.launch(pipeline, launch).await?;
        let query = Arc::downgrade(&running.query);
        let mut queries = self.queries.lock();
        queries.retain(|_, query| query.strong_count() > 0);
        queries.insert(Arc::clone(&running.pipeline().name), query);
        Ok(running)
    }

    /// The query of this name, if it runs.
    pub fn query(&self, name: &str) -> Option<Arc<Query>> {
        self.queries.lock().get(name).and_then(Weak::upgrade)
    }

    /// Deletes all that [`Engine::start`] created: the topics between stages, the state, a view's
    /// rows and changes. The pipeline must have been stopped. Streams that it wrote to stay.
    pub async fn drop_pipeline(&self, pipeline: &Pipeline) -> Result<()> {
        let name = &pipeline.name;
        for (number, stage) in pipeline.stages.iter().enumerate() {
            for partition in 0..stage.input.partitions {
                self.log.release(&owner(name, number, partition)).await?;
            }
            self.log.delete_state(&task_table(name, number)).await?;
            for table in stage.all_tables() {
                self.log.delete_state(&operator_table(name, number, table)).await?;
            }
            match &stage.output {
                Output::View { table, topic, .. } => {
                    self.log.delete_state(table).await?;
                    self.log.delete_topic(topic).await?;
                }
                Output::Topic { topic, .. } if is_internal(pipeline, number) => self.log.delete_topic(topic).await?,
                Output::Topic { .. } => {}
            }
        }
        Ok(())
    }

    pub(crate) fn log(&self) -> &Arc<dyn Log> {
        &self.log
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        (self.executor)(task.boxed());
    }

    pub(crate) async fn launch(&self, pipeline: Pipeline, launch: Launch) -> Result<Running> {
        let nudges = watch::Sender::new(0);
        let tasks = TaskTracker::new();
        let mut stages = Vec::new();
        let mut assignments = Vec::new();
        let last = pipeline.stages.len().saturating_sub(1);
        for (number, stage) in pipeline.stages.iter().enumerate() {
            let destination = match launch.listener.clone().filter(|_| number == last) {
                Some(listener) => listener,
                None => destination(&pipeline, number, &launch).await?,
            };
            let shared = Arc::new(stage.clone());
            let peers = Arc::new(Peers::new(stage.input.partitions));
            let dead_letters = self.dead_letters(&pipeline, stage, &launch).await?;
            // An epoch of a query that somebody looks at may wait for those of its next stage, and one that looks rows up for a
            // server that is away: others shall not wait for it.
            let epochs = match launch.listener.is_some() || stage.looks_up() {
                true => self.epochs.of_one_stage(),
                false => Arc::clone(&self.epochs),
            };
            let work = match launch.listener {
                Some(_) => Work::all(),
                None => self.options.work.clone(),
            };
            let mut statuses = Vec::new();
            for partition in 0..stage.input.partitions {
                let status = watch::Sender::new(TaskStatus {
                    stage: number,
                    partition,
                    ..TaskStatus::default()
                });
                statuses.push(status.subscribe());
                let input = TopicPartition::new(Arc::clone(&stage.input.topic), partition);
                assignments.push(Assignment {
                    log: Arc::clone(&launch.log),
                    clock: Arc::clone(&self.clock),
                    pipeline: Arc::clone(&pipeline.name),
                    number,
                    stage: Arc::clone(&shared),
                    partition,
                    begin_at: launch.begin_at.get(&input).copied(),
                    destination: destination.clone(),
                    announces: matches!(stage.output, Output::Topic { .. }),
                    dead_letters: dead_letters.clone(),
                    trim_every_batches: reads_its_own(&pipeline, number).then_some(launch.trim_every_batches),
                    epochs: Arc::clone(&epochs),
                    caches: self.caches.clone(),
                    tables: self.options.tables.clone(),
                    peers: Arc::clone(&peers),
                    nudges: nudges.subscribe(),
                    status,
                    work: work.clone(),
                    stop: launch.stop.clone(),
                });
            }
            if work.is_shared() {
                let of_stage = assignments.iter().filter(|task: &&Assignment| task.number == number);
                let of_stage: Vec<_> = of_stage.cloned().collect();
                self.spawn(tasks.track_future(elsewhere::follow(of_stage)));
            }
            stages.push(statuses);
        }
        for assignment in assignments {
            self.spawn(tasks.track_future(supervise(assignment)));
        }
        tasks.close();
        Ok(Running {
            stop: launch.stop,
            tasks,
            query: Arc::new(Query {
                pipeline,
                stages,
                nudges,
            }),
        })
    }

    async fn dead_letters(
        &self,
        pipeline: &Pipeline,
        stage: &Stage,
        launch: &Launch,
    ) -> Result<Option<DeadLetterOffice>> {
        let (topic, stream) = match &stage.input.time {
            TimeSource::Rows {
                late: LateRows::DeadLetter { topic, stream },
                ..
            } => (Arc::clone(topic), Arc::clone(stream)),
            _ => match &self.options.dead_letters {
                Some(topic) => (Arc::clone(topic), object_of(&stage.input.topic).into()),
                None => return Ok(None),
            },
        };
        // Somebody who just looks leaves nothing behind.
        let topic = match &launch.listener {
            Some(_) => None,
            None => launch.log.topic(&topic).await?,
        };
        Ok(topic.map(|topic| DeadLetterOffice {
            topic: topic.spec.name.as_str().into(),
            schema: topic.spec.schema,
            stream,
            source: format!("query {}", pipeline.name).into(),
        }))
    }
}

/// The object whose topic this is: topics are called `{object}-{id}`, with more after a dot.
fn object_of(topic: &str) -> &str {
    let object = topic.split('.').next().unwrap_or(topic);
    object.rsplit_once('-').map_or(object, |(name, _)| name)
}

impl Threads {
    fn start(threads: usize) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("headwater-engine")
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    fn run(&self, task: BoxFuture<'static, ()>) {
        if let Self(Some(runtime)) = self {
            runtime.spawn(task);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Waiting for the threads here could block a thread of another runtime.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Running {
    /// Lets the current epochs commit, and ends the tasks.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    /// What runs.
    pub fn pipeline(&self) -> &Pipeline {
        &self.query.pipeline
    }

    /// All tasks, in the order of the flow, as of their last epoch.
    pub fn status(&self) -> Vec<TaskStatus> {
        self.query.status()
    }

    /// In whose names the tasks commit.
    pub fn owners(&self) -> impl Iterator<Item = String> {
        self.query.owners()
    }

    pub(crate) fn query(&self) -> &Arc<Query> {
        &self.query
    }

    pub(crate) fn statuses(&self) -> Vec<watch::Receiver<TaskStatus>> {
        self.query.stages.iter().flatten().cloned().collect()
    }
}

impl Query {
    /// All tasks, in the order of the flow, as of their last epoch.
    pub fn status(&self) -> Vec<TaskStatus> {
        let tasks = self.stages.iter().flatten();
        tasks.map(|task| task.borrow().clone()).collect()
    }

    /// In whose names the tasks commit, in the order of [`Query::status`].
    pub fn owners(&self) -> impl Iterator<Item = String> {
        let stages = self.pipeline.stages.iter().enumerate();
        stages.flat_map(move |(number, stage)| {
            (0..stage.input.partitions).map(move |partition| owner(&self.pipeline.name, number, partition))
        })
    }

    /// Asks every task to look at everything again; the answer is the number of the request.
    pub(crate) fn nudge(&self) -> u64 {
        let mut number = 0;
        self.nudges.send_modify(|nudge| {
            *nudge += 1;
            number = *nudge;
        });
        number
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Runs a task whenever it is this process's to run.
async fn supervise(is: Assignment) {
    let owner = owner(&is.pipeline, is.number, is.partition);
    loop {
        if !is.work.has(&owner) {
            end(&is, TaskState::Elsewhere);
        }
        tokio::select! {
            biased;
            () = is.stop.cancelled() => return end(&is, TaskState::Stopped),
            () = is.work.granted(&owner) => {}
        }
        if is.status.borrow().state == TaskState::Elsewhere {
            end(&is, TaskState::Starting);
        }
        let mut here = is.clone();
        if is.work.is_shared() {
            here.stop = is.stop.child_token();
        }
        let mut running = std::pin::pin!(keep_running(&here));
        tokio::select! {
            biased;
            () = &mut running => return,
            () = is.work.withdrawn(&owner) => {}
        }
        // After its current epoch.
        here.stop.cancel();
        running.await;
    }
}

/// Runs a task again and again, until it is told to stop or has no right to go on.
async fn keep_running(is: &Assignment) {
    let mut pause = RESTART_FIRST;
    loop {
        let epochs = is.status.borrow().epochs;
        let ended = match AssertUnwindSafe(run(is)).catch_unwind().await {
            Ok(ended) => ended,
            Err(panic) => Err(Error::Panic(words_of(&*panic))),
        };
        let error = match ended {
            Ok(()) => return end(is, TaskState::Stopped),
            Err(_) if is.stop.is_cancelled() => return end(is, TaskState::Stopped),
            Err(error) => error,
        };
        let (pipeline, stage, partition) = (&*is.pipeline, is.number, is.partition);
        match error.log_kind() {
            // If the work is still this process's after the pause, it takes it back.
            Some(Kind::Conflict) if is.work.is_shared() => {
                tracing::info!(pipeline, stage, partition, %error, "another process goes on with a task");
            }
            kind => {
                tracing::error!(pipeline, stage, partition, %error, "a task failed");
                if matches!(kind, Some(Kind::Conflict | Kind::Closed)) {
                    return end(is, TaskState::Failed(error.to_string()));
                }
            }
        }
        is.status.send_modify(|status| {
            status.state = TaskState::Failing(error.to_string());
            status.restarts += 1;
        });
        if is.status.borrow().epochs > epochs {
            pause = RESTART_FIRST;
        }
        tokio::select! {
            biased;
            () = is.stop.cancelled() => return end(is, TaskState::Stopped),
            () = is.clock.sleep(pause) => {}
        }
        pause = (2 * pause).min(RESTART_MAX);
    }
}

fn end(is: &Assignment, state: TaskState) {
    is.status.send_modify(|status| status.state = state);
}

/// Whether a later stage of the same pipeline reads what the stage writes.
fn is_internal(pipeline: &Pipeline, number: usize) -> bool {
    let Output::Topic { topic, .. } = &pipeline.stages[number].output else {
        return false;
    };
    pipeline.stages[number + 1..]
        .iter()
        .any(|later| later.input.topic == *topic)
}

/// Whether the stage is the only reader of what an earlier stage of the same pipeline writes.
fn reads_its_own(pipeline: &Pipeline, number: usize) -> bool {
    let input = &pipeline.stages[number].input.topic;
    let readers = pipeline.stages.iter().filter(|stage| stage.input.topic == *input);
    readers.count() == 1 && pipeline.stages[..number].iter().any(|stage| stage.output.is_to(input))
}

/// Finds the topic and the table that a stage writes, or creates them where they are its own.
async fn destination(pipeline: &Pipeline, number: usize, launch: &Launch) -> Result<Destination> {
    let log = &launch.log;
    let stage = &pipeline.stages[number];
    match &stage.output {
        Output::Topic {
            topic,
            partitions,
            partition_by,
            first_producer: _,
        } => {
            let schema = match log.topic(topic).await? {
                Some(there) => there.spec.schema,
                None if is_internal(pipeline, number) => {
                    let schema = stage.output_schema();
                    create(log, topic, &schema, *partitions).await?;
                    schema
                }
                None => return Err(Error::Plan(format!("there is no topic '{topic}' to write to"))),
            };
            Ok(Destination::Topic {
                topic: Arc::clone(topic),
                schema,
                partitions: (*partitions).max(1),
                partition_by: partition_by.clone(),
            })
        }
        Output::View {
            table,
            topic,
            key,
            schema,
        } => {
            let codec = Arc::new(ViewCodec::new(schema.clone(), key)?);
            log.state(table).await?;
            let schema = match log.topic(topic).await? {
                Some(there) => there.spec.schema,
                None => {
                    let schema = changelog_schema(schema);
                    create(log, topic, &schema, stage.input.partitions).await?;
                    schema
                }
            };
            Ok(Destination::View {
                table: Arc::clone(table),
                topic: Arc::clone(topic),
                schema,
                codec,
            })
        }
    }
}

async fn create(log: &Arc<dyn Log>, topic: &str, schema: &SchemaRef, partitions: u32) -> Result<()> {
    let spec = TopicSpec {
        name: topic.to_owned(),
        schema: schema.clone(),
        partitions,
        cleanup: Cleanup::Delete {
            retention_ms: None,
            retention_bytes: None,
        },
        events: None,
    };
    log.create_topic(spec).await?;
    Ok(())
}
