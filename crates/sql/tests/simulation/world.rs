//! A simulated machine: a log that outlives its processes, a clock, and an engine that runs a program's queries on it
//! while events come, calls fail and processes end at any moment.
//!
//! A run does this:
//! 1. Events come in lots of any size, queries are created one by one, tasks go on for some steps, the clock moves.
//!    Now and then the process is killed, stopped, broken, or overtaken by another one while it still runs.
//! 2. Trouble ends, and everything comes to rest.
//! 3. The closing rows come, and everything comes to rest once more.
//! 4. What every query has is compared to what it gives as a batch, and a view's rows to the sum of its changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::Int8Type;
use headwater_engine::engine::{Engine, EngineOptions, Running, task_owner};
use headwater_engine::plan::{Output, Pipeline};
use headwater_engine::view::ViewCodec;
use headwater_event::clock::{Clock, ManualClock};
use headwater_event::offset::TopicPartition;
use headwater_event::op::Op;
use headwater_log::memory::MemoryLog;
use headwater_log::topic::{Cleanup, TopicSpec};
use headwater_log::work::{Owners, Work};
use headwater_log::{Log, Produced};
use parking_lot::Mutex;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;

use crate::events::{self, Event, Layout};
use crate::faulty_log::{CALM, Fate, FaultyLog, TROUBLE};
use crate::program::{Program, Query, schema_of, texts};
use crate::scheduler::{Process, Scheduler, at_once};

const START: i64 = 1_767_225_600_000_000;
const DEAD_LETTERS: &str = "dead_letters-0";
/// Nothing that a run does takes as many steps.
const STEPS_MAX: u64 = 300_000;
/// Longer than any task pauses before it tries again.
const PAUSE: Duration = Duration::from_secs(31);

/// What runs, over which events, and what is to come of it.
pub struct Case {
    pub layout: Layout,
    pub program: Program,
    pub events: Vec<Event>,
    /// By query, as texts in order.
    pub expected: Vec<Vec<String>>,
}

/// What the simulator does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// The log fails now and then, and processes end.
    pub trouble: bool,
    /// Two processes share the work, and hear sooner or later who is to do what.
    pub shared: bool,
    /// Nobody takes over while the one before still runs, as where the log is a process's own.
    pub alone: bool,
    /// A log that doesn't keep its promises, to see that it shows.
    pub broken_promises: bool,
}

pub struct World<'a> {
    case: &'a Case,
    weather: Weather,
    random: ChaCha8Rng,
    scheduler: Scheduler,
    clock: Arc<ManualClock>,
    memory: Arc<MemoryLog>,
    fate: Arc<Fate>,
    /// How many of the queries there are.
    created: watch::Sender<usize>,
    came: usize,
    /// How many events had come after each append.
    lots: Vec<usize>,
    options: EngineOptions,
    processes: Process,
    machine: Machine,
    /// The one that shares the work, if any does.
    beside: Option<Machine>,
    /// Processes that others have taken over from, and that still run.
    zombies: Vec<Machine>,
}

struct Machine {
    process: Process,
    log: Arc<FaultyLog>,
    /// Keeps the engine's tasks going, in the order of the queries.
    running: Arc<Mutex<Vec<Arc<Running>>>>,
    /// What it has been told is its own.
    work: watch::Sender<Owners>,
    is_broken: bool,
}

/// Runs a case on a schedule, and compares what comes of it to what was expected.
///
/// # Errors
/// How it differs.
pub fn run(case: &Case, seed: u64, weather: Weather) -> Result<u64, String> {
    let world = World::ended(case, seed, weather);
    world.check_tasks()?;
    world.check_results()?;
    Ok(world.scheduler.trace())
}

impl<'a> World<'a> {
    /// After the run.
    pub fn ended(case: &'a Case, seed: u64, weather: Weather) -> Self {
        let mut world = World::new(case, seed, weather);
        world.live();
        world.settle();
        world.close();
        world.settle();
        world
    }

    fn new(case: &'a Case, seed: u64, weather: Weather) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let clock = ManualClock::new(START);
        let memory = MemoryLog::new(Arc::clone(&clock) as _);
        for definition in case.program.streams.iter() {
            create(
                &memory,
                &definition.topic(),
                schema_of(definition),
                definition.partitions(),
            );
        }
        for Query { definition, .. } in case.program.queries.iter() {
            if definition.stream().is_some() {
                create(
                    &memory,
                    &definition.topic(),
                    schema_of(definition),
                    definition.partitions(),
                );
            }
        }
        create(&memory, DEAD_LETTERS, headwater_schema::dead_letter::schema(), 1);
        let fate = Fate::new(random.random(), Arc::clone(&clock));
        fate.breaks_its_word.store(weather.broken_promises, Ordering::Relaxed);
        let scheduler = Scheduler::new(random.random());
        // So little that nothing stays in the caches; a little; all there could be.
        let caches = *[0, 0, 2_000, 1 << 20].choose(&mut random).expect("some");
        let options = EngineOptions {
            epochs_bytes_max: *[1 << 12, 1 << 16, 1 << 24].choose(&mut random).expect("some"),
            state_cache_bytes_max: caches,
            dead_letters: Some(DEAD_LETTERS.into()),
            ..EngineOptions::default()
        };
        let created = watch::Sender::new(0);
        let log = FaultyLog::new(Arc::clone(&memory), Arc::clone(&fate));
        let mut world = Self {
            machine: Machine {
                process: 0,
                log,
                running: Arc::default(),
                work: watch::Sender::default(),
                is_broken: false,
            },
            beside: None,
            case,
            weather,
            random,
            scheduler,
            clock,
            memory,
            fate,
            created,
            came: 0,
            lots: Vec::new(),
            options,
            processes: 0,
            zombies: Vec::new(),
        };
        world.machine = world.start();
        if weather.shared {
            world.beside = Some(world.start());
            world.share_out(true);
        }
        world
    }

    /// A process on the log.
    fn start(&mut self) -> Machine {
        self.processes += 1;
        let process = self.processes;
        let log = FaultyLog::new(Arc::clone(&self.memory), Arc::clone(&self.fate));
        let executor = self.scheduler.executor(process);
        let work = watch::Sender::default();
        let options = EngineOptions {
            work: match self.weather.shared {
                true => Work::shared(work.subscribe()),
                false => Work::all(),
            },
            ..self.options.clone()
        };
        let engine = Engine::on(executor, options, Arc::clone(&log) as _, Arc::clone(&self.clock) as _);
        let running = Arc::default();
        let pipelines = self.case.program.queries.iter().map(|query| query.pipeline.clone());
        let starting = start_queries(
            engine,
            pipelines.collect(),
            self.created.subscribe(),
            Arc::clone(&running),
            Arc::clone(&self.clock),
        );
        self.scheduler.spawn(process, starting);
        Machine {
            process,
            log,
            running,
            work,
            is_broken: false,
        }
    }

    /// Gives each task to one of two processes. Those that are not told go on with what they know.
    fn share_out(&mut self, all_are_told: bool) {
        let pipelines = self.case.program.queries.iter().map(|query| &query.pipeline);
        let owners = pipelines.flat_map(|pipeline| {
            let stages = pipeline.stages.iter().enumerate();
            stages.flat_map(move |(number, stage)| {
                (0..stage.input.partitions).map(move |partition| task_owner(&pipeline.name, number, partition))
            })
        });
        let mut shares: [BTreeSet<Arc<str>>; 2] = Default::default();
        for owner in owners {
            shares[self.random.random_range(0..2)].insert(owner.into());
        }
        let machines = [Some(&self.machine), self.beside.as_ref()];
        for (machine, share) in machines.into_iter().zip(shares) {
            if let Some(machine) = machine
                && (all_are_told || self.random.random_bool(0.6))
            {
                machine.work.send_replace(Arc::new(share));
            }
        }
    }

    fn live(&mut self) {
        if self.weather.trouble {
            self.fate.set(TROUBLE);
        }
        let queries = self.case.program.queries.len();
        if self.random.random_bool(0.5) {
            self.created.send_replace(queries);
        }
        while self.came < self.case.events.len() || *self.created.borrow() < queries {
            self.act(queries);
            for _ in 0..self.random.random_range(0..60) {
                if !self.scheduler.step() {
                    break;
                }
            }
        }
        for _ in 0..self.random.random_range(0..400) {
            if !self.scheduler.step() {
                break;
            }
        }
        self.fate.set(CALM);
        for _ in 0..2 {
            if self.machine.is_broken {
                self.crash();
            }
            if let Some(beside) = &mut self.beside {
                std::mem::swap(&mut self.machine, beside);
            }
        }
        if self.weather.shared {
            self.share_out(true);
        }
    }

    fn act(&mut self, queries: usize) {
        if let Some(beside) = &mut self.beside {
            if self.random.random_bool(0.5) {
                std::mem::swap(&mut self.machine, beside);
            }
            if self.random.random_bool(0.1) {
                self.share_out(false);
            }
        }
        match self.random.random_range(0..100) {
            0..60 => self.feed(),
            60..72 if *self.created.borrow() < queries => self.created.send_modify(|created| *created += 1),
            60..82 => self
                .clock
                .advance(Duration::from_millis(self.random.random_range(0..3_000))),
            82..85 => self.clock.advance(Duration::from_secs(self.random.random_range(0..90))),
            85..89 if self.weather.trouble => self.crash(),
            89..92 if self.weather.trouble && !self.weather.alone => self.take_over(),
            92..94 if self.weather.trouble => self.restart(),
            94..95 if self.weather.trouble => {
                self.machine.log.break_down();
                self.machine.is_broken = true;
            }
            95..98 => self.end_zombies(),
            _ => {}
        }
    }

    /// A lot of events comes, in one append.
    fn feed(&mut self) {
        let count = match self.random.random_range(0..3) {
            0 => 1,
            1 => self.random.random_range(1..5),
            _ => self.random.random_range(1..15),
        };
        let end = self.case.events.len().min(self.came + count);
        let lot = &self.case.events[self.came..end];
        self.came = end;
        self.lots.push(end);
        self.append(lot.iter());
    }

    fn append<'e>(&self, lot: impl Iterator<Item = &'e Event>) {
        let mut by_partition: BTreeMap<(usize, u32), Vec<&Event>> = BTreeMap::new();
        for event in lot {
            by_partition
                .entry((event.stream, event.partition))
                .or_default()
                .push(event);
        }
        let produced = by_partition.into_iter().map(|((stream, partition), events)| {
            let definition = &self.case.program.streams[stream];
            Produced {
                partition: TopicPartition::new(definition.topic(), partition),
                rows: events::batch(&schema_of(definition), events.into_iter()),
                progress: None,
            }
        });
        at_once(self.memory.append(produced.collect())).expect("the log in memory takes events");
    }

    /// The process is gone from one instant to the next; another one begins.
    fn crash(&mut self) {
        self.end_zombies();
        self.scheduler.kill(self.machine.process);
        self.machine = self.start();
        if self.weather.shared {
            self.share_out(false);
        }
    }

    /// Another process begins, and the former one doesn't know.
    fn take_over(&mut self) {
        if self.machine.is_broken {
            return self.crash();
        }
        self.machine.log.supersede();
        let process = self.machine.process;
        let former = Machine {
            process,
            log: Arc::clone(&self.machine.log),
            running: Arc::clone(&self.machine.running),
            work: self.machine.work.clone(),
            is_broken: false,
        };
        self.zombies.push(former);
        self.machine = self.start();
        if self.weather.shared {
            self.share_out(false);
        }
    }

    fn end_zombies(&mut self) {
        for zombie in std::mem::take(&mut self.zombies) {
            self.scheduler.kill(zombie.process);
        }
    }

    /// The process is told to end, and given time for it.
    fn restart(&mut self) {
        let running: Vec<_> = self.machine.running.lock().clone();
        let process = self.machine.process;
        self.scheduler.spawn(process, async move {
            for running in running.iter().rev() {
                running.stop().await;
            }
        });
        for _ in 0..200 {
            if !self.scheduler.step() {
                self.clock.advance(Duration::from_millis(500));
            }
        }
        self.crash();
    }

    /// Everything comes to rest.
    fn settle(&mut self) {
        let mut still = 0;
        while still < 3 {
            let before = self.fate.commits.load(Ordering::Relaxed);
            self.scheduler.rest(STEPS_MAX);
            self.clock.advance(PAUSE);
            self.scheduler.rest(STEPS_MAX);
            let after = self.fate.commits.load(Ordering::Relaxed);
            still = if before == after { still + 1 } else { 0 };
        }
    }

    fn close(&self) {
        let partitions = self.case.layout.partitions.iter().enumerate();
        let rows: Vec<Event> = partitions
            .flat_map(|(stream, &partitions)| (0..partitions).map(move |partition| events::closing(stream, partition)))
            .collect();
        self.append(rows.iter());
    }

    fn check_results(&self) -> Result<(), String> {
        let dead = self.rows(DEAD_LETTERS);
        let late = self.case.events.iter().any(|event| event.late);
        if !late && dead.num_rows() > 0 {
            return Err(format!("there are dead letters:\n{}", texts(&dead).join("\n")));
        }
        for (query, expected) in self.case.program.queries.iter().zip(&self.case.expected) {
            let found = self.result(query)?;
            if found != *expected {
                return Err(differing(&query.definition.sql, &found, expected));
            }
        }
        Ok(())
    }

    /// All tasks run, and have read all there is.
    pub fn check_tasks(&self) -> Result<(), String> {
        let machines = [Some(&self.machine), self.beside.as_ref()];
        machines
            .into_iter()
            .flatten()
            .try_for_each(|machine| self.check_tasks_of(machine))
    }

    fn check_tasks_of(&self, machine: &Machine) -> Result<(), String> {
        let running = machine.running.lock();
        if running.len() != self.case.program.queries.len() {
            return Err(format!("only {} queries run", running.len()));
        }
        for running in running.iter() {
            let pipeline = running.pipeline();
            for task in running.status() {
                let name = format!("{} stage {} partition {}", pipeline.name, task.stage, task.partition);
                if !task.state.gets_on() {
                    return Err(format!("{name} is {:?}", task.state));
                }
                let input = TopicPartition::new(Arc::clone(&pipeline.stages[task.stage].input.topic), task.partition);
                let kept = at_once(self.memory.offsets(&input)).expect("a topic that is read");
                let end = kept.end;
                // Who has a task back that was elsewhere meanwhile doesn't know that before there is more to read.
                if task.offset.max(kept.start) != end {
                    return Err(format!("{name} ({:?}) is at {} of {end}", task.state, task.offset));
                }
            }
        }
        Ok(())
    }

    fn result(&self, query: &Query) -> Result<Vec<String>, String> {
        let definition = &query.definition;
        match query.pipeline.stages.last().map(|stage| &stage.output) {
            Some(Output::View {
                table,
                topic,
                key,
                schema,
            }) => {
                let codec = ViewCodec::new(schema.clone(), key).map_err(|error| error.to_string())?;
                let table = at_once(self.memory.state(table)).map_err(|error| error.to_string())?;
                let entries: Vec<_> = table.scan(&[]).map(|entry| entry.expect("in memory")).collect();
                let rows = texts(&codec.decode(&entries).map_err(|error| error.to_string())?);
                let added_up = added_up(&self.rows(topic));
                match rows == added_up {
                    true => Ok(rows),
                    false => Err(differing(
                        &format!("what the changes add up to, and the view: {}", definition.sql),
                        &added_up,
                        &rows,
                    )),
                }
            }
            _ => Ok(texts(&self.rows(&definition.topic()))),
        }
    }

    /// Whether what had come before an event makes it late: rows of its partition, or of any that were stored before.
    pub fn may_be_late(&self, at: usize) -> bool {
        let event = &self.case.events[at];
        let lot = self.lots.partition_point(|&end| end <= at);
        let stored_before = lot.checked_sub(1).map_or(0, |before| self.lots[before]);
        self.case.events[..at].iter().enumerate().any(|(number, earlier)| {
            let is_known = number < stored_before || earlier.partition == event.partition;
            is_known && event.at < earlier.at - events::DELAY
        })
    }

    pub fn dead_letters(&self) -> Vec<String> {
        texts(&self.rows(DEAD_LETTERS))
    }

    /// All rows of a topic.
    pub fn rows(&self, name: &str) -> RecordBatch {
        let topic = at_once(self.memory.topic(name))
            .expect("in memory")
            .expect("it is there");
        let mut batches = Vec::new();
        for partition in 0..topic.spec.partitions {
            let partition = TopicPartition::new(name, partition);
            let read = at_once(self.memory.read(&partition, 0, usize::MAX, None)).expect("in memory");
            batches.extend(read.into_iter().map(|batch| batch.rows));
        }
        concat_batches(&topic.spec.schema, &batches).expect("rows of one topic")
    }
}

/// Starts queries as they are created, and tries again where that fails.
async fn start_queries(
    engine: Arc<Engine>,
    pipelines: Vec<Pipeline>,
    mut created: watch::Receiver<usize>,
    running: Arc<Mutex<Vec<Arc<Running>>>>,
    clock: Arc<ManualClock>,
) {
    for (number, pipeline) in pipelines.into_iter().enumerate() {
        if created.wait_for(|created| *created > number).await.is_err() {
            return;
        }
        let started = loop {
            match engine.start(pipeline.clone()).await {
                Ok(started) => break started,
                Err(_) => clock.sleep(Duration::from_millis(100)).await,
            }
        };
        running.lock().push(Arc::new(started));
    }
    // The engine stays as long as the process does.
    std::future::pending::<()>().await;
}

fn create(memory: &MemoryLog, name: &str, schema: arrow::datatypes::SchemaRef, partitions: u32) {
    let spec = TopicSpec {
        name: name.to_owned(),
        schema,
        partitions,
        cleanup: Cleanup::Delete {
            retention_ms: None,
            retention_bytes: None,
        },
        events: None,
    };
    at_once(memory.create_topic(spec)).expect("a new topic");
}

/// The rows that remain of a changelog.
fn added_up(changes: &RecordBatch) -> Vec<String> {
    let data: Vec<usize> = (0..changes.num_columns() - 1).collect();
    let ops = changes.column(data.len()).as_primitive::<Int8Type>().clone();
    let data = changes.project(&data).expect("columns of its own");
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    for (row, op) in ops.values().iter().enumerate() {
        let text = texts(&data.slice(row, 1)).pop().unwrap_or_default();
        let sign = if Op::from_i8(*op).is_some_and(Op::adds) { 1 } else { -1 };
        *sums.entry(text).or_default() += sign;
    }
    let left = sums.into_iter().flat_map(|(text, sum)| match sum {
        0.. => vec![text; sum as usize],
        _ => vec![format!("{sum} times {text}")],
    });
    left.collect()
}

fn differing(what: &str, found: &[String], expected: &[String]) -> String {
    let only = |these: &[String], others: &[String]| {
        let mut others = others.to_vec();
        let mut only: Vec<String> = Vec::new();
        for text in these {
            match others.iter().position(|other| other == text) {
                Some(place) => drop(others.swap_remove(place)),
                None => only.push(format!("  {text}")),
            }
        }
        only.join("\n")
    };
    format!(
        "{what}\n{} rows instead of {}\ntoo many:\n{}\nmissing:\n{}",
        found.len(),
        expected.len(),
        only(found, expected),
        only(expected, found)
    )
}
