//! The loop around every sink.
//!
//! 1. Claim the sink's work, so that no other process does it too, and read the position and the promise that the last
//!    commit left. Let the sink keep that promise, or say which position its target has.
//! 2. Read what the log has behind the position, and hand it to the sink ([`reading`]).
//! 3. When the sink has enough, or its rows have waited long enough, let it prepare them; commit the position behind them
//!    with the promise, and with dead letters for what it could not take ([`store`]); let it publish.
//! 4. When something fails, wait, longer each time, and begin again at 1. So every row becomes visible once, whatever fails and
//!    wherever the process ends.
//!
//! Sinks run on threads of their own, which may block. A sink reads no faster than it writes, and holds nothing
//! up: what it has yet to read is in the log.

mod reading;
mod store;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, poll};
use headwater_catalog::definition::{Definition, Sink as SinkDefinition};
use headwater_event::offset::{Offset, TopicPartition, to_reach};
use metrics::counter;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::{JoinHandle, yield_now};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::activity::{Activity, RETRY_FIRST, RETRY_MAX, here, rest};
use crate::delivery::reading::Reading;
pub use crate::delivery::store::owner;
use crate::delivery::store::{Delivered, Store};
use crate::options::Refusal;
use crate::shared::Shared;
use crate::sink::{Opened, Rows, Sink};
use crate::sinks;
use crate::source::Error;

/// The sinks that run in this process.
pub struct Sinks {
    shared: Arc<Shared>,
    /// By object id.
    running: RwLock<BTreeMap<u64, Arc<Running>>>,
    /// Taken out only to be shut down.
    runtime: Option<Runtime>,
}

struct Running {
    sink: Arc<Definition>,
    reads: Arc<Definition>,
    status: watch::Receiver<Status>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// How a sink does.
#[derive(Clone, Debug)]
pub struct SinkStatus {
    pub name: String,
    /// In whose name it commits.
    pub owner: String,
    pub state: &'static str,
    /// Delivered by it since it was created.
    pub rows: u64,
    /// Rows, by their offsets, that are in the log and not delivered; unknown while the log can't say.
    pub lag: Option<u64>,
    /// Rows that could not be delivered and went to `dead_letters`.
    pub dead_letters: u64,
    /// Rows, by their offsets, that were gone from the log before they could be delivered.
    pub missed: u64,
    /// Why it doesn't get on, if it doesn't.
    pub failure: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Status {
    activity: Activity,
    /// Why nothing could be delivered; until something could.
    failure: Option<String>,
    delivered: Delivered,
    /// The next offsets, by partition: of what was handed to the sink, and of what is delivered.
    read: BTreeMap<u32, Offset>,
    committed: BTreeMap<u32, Offset>,
}

/// One sink and what it reads, as its task has them.
struct Task {
    shared: Arc<Shared>,
    sink: Arc<Definition>,
    reads: Arc<Definition>,
    status: watch::Sender<Status>,
}

/// An attempt at delivering, until it fails.
struct Attempt<'a> {
    task: &'a Task,
    store: Store,
    reading: Reading,
    sink: Box<dyn Sink>,
    interval: Duration,
    /// Since when something has been waiting to be delivered.
    waiting_since: Option<Duration>,
    /// The last attempt has failed, and whether this one gets on is to be found out soon.
    is_trial: bool,
}

impl Sinks {
    /// # Errors
    /// If the machine doesn't give us the threads.
    pub fn new(threads: usize, shared: Shared) -> io::Result<Arc<Self>> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("sink")
            .enable_all()
            .build()?;
        Ok(Arc::new(Self {
            shared: Arc::new(shared),
            running: RwLock::default(),
            runtime: Some(runtime),
        }))
    }

    /// Opens the sink and looks whether it could write.
    pub async fn look(&self, sink: &SinkDefinition, reads: &Definition) -> Result<(), Refusal> {
        sinks::look(sink, reads, &self.shared.within).await
    }

    /// Begins to deliver, from where the sink was stopped last.
    pub fn start(&self, sink: &Arc<Definition>, reads: &Arc<Definition>) {
        let Some(runtime) = &self.runtime else { return };
        let (sender, status) = watch::channel(Status::default());
        let stop = CancellationToken::new();
        let task = Task {
            shared: Arc::clone(&self.shared),
            sink: Arc::clone(sink),
            reads: Arc::clone(reads),
            status: sender,
        };
        let stopped = stop.clone();
        let task = runtime.spawn(async move {
            // A commit that is cut off is there or not, as a whole, and so is what it promises.
            tokio::select! {
                () = task.run_here() => {}
                () = stopped.cancelled() => {}
            }
        });
        let running = Running {
            sink: Arc::clone(sink),
            reads: Arc::clone(reads),
            status,
            stop,
            task: Mutex::new(Some(task)),
        };
        info!(sink = sink.name, id = sink.id, "running");
        self.running.write().insert(sink.id, Arc::new(running));
    }

    /// Stops the sink, for good or until it is started again.
    pub async fn stop(&self, id: u64) {
        let running = self.running.write().remove(&id);
        if let Some(running) = running {
            running.end().await;
        }
    }

    /// Stops the sink, lets it keep what it has promised, and deletes what it has left in the log and beside its rows.
    pub async fn remove(&self, sink: &Definition) -> headwater_log::error::Result<()> {
        let running = self.running.write().remove(&sink.id);
        if let Some(running) = running {
            running.end().await;
            if let Err(error) = self.settle(&running).await {
                warn!(sink = sink.name, %error, "what it keeps in its target, and has not published, stays there");
            }
        }
        self.shared.log.release(&store::owner(sink)).await?;
        self.shared.log.delete_state(&sink.position_table()).await
    }

    /// What every sink does right now, by id.
    pub async fn status(&self) -> Vec<SinkStatus> {
        let running: Vec<_> = self.running.read().values().cloned().collect();
        let mut statuses = Vec::with_capacity(running.len());
        for running in running {
            let ends = self.ends(&running).await;
            statuses.push(running.describe(ends.as_ref()));
        }
        statuses
    }

    /// Returns when every sink has been handed all that is in the log at present, and will do nothing before the clock moves on.
    /// A sink that fails is not waited for.
    pub async fn caught_up(&self) {
        let running: Vec<_> = self.running.read().values().cloned().collect();
        for running in running {
            let ends = self.ends(&running).await.unwrap_or_default();
            let has_read = |read: &BTreeMap<u32, Offset>| {
                let next = |partition| read.get(partition).copied().unwrap_or(0);
                ends.iter().all(|(partition, end)| next(partition) >= *end)
            };
            let clock = &self.shared.clock;
            let mut status = running.status.clone();
            let settled = status.wait_for(|status| {
                let done = status.failure.is_some() || has_read(&status.read) || status.activity.is_over();
                done && status.activity.rests(clock.elapsed())
            });
            // A task that is gone does nothing more.
            let _ = settled.await;
        }
    }

    /// Where the partitions of what a sink reads end.
    async fn ends(&self, running: &Running) -> Option<BTreeMap<u32, Offset>> {
        let log = &self.shared.log;
        let topic: Arc<str> = running.reads.topic().into();
        let partitions = log.topic(&topic).await.ok()??.spec.partitions;
        let mut ends = BTreeMap::new();
        for number in 0..partitions {
            let offsets = log.offsets(&TopicPartition::new(Arc::clone(&topic), number)).await;
            ends.insert(number, to_reach(&offsets.ok()?));
        }
        Some(ends)
    }

    /// Keeps the promise of a sink that has ended.
    async fn settle(&self, running: &Running) -> Result<(), Error> {
        let (store, promise) = Store::open(&self.shared, &running.sink, &running.reads).await?;
        let mut sink = open(&running.sink, &running.reads)?.sink;
        sink.forget(store.start(&promise, &self.shared)).await
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for the threads is not allowed where this may be dropped.
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Sinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let running = self.running.read();
        f.debug_list()
            .entries(running.values().map(|running| running.describe(None)))
            .finish()
    }
}

impl Running {
    async fn end(&self) {
        self.stop.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task {
            // What it panicked with has been said.
            let _ = task.await;
        }
    }

    fn describe(&self, ends: Option<&BTreeMap<u32, Offset>>) -> SinkStatus {
        let status = self.status.borrow();
        let (state, failure) = match (status.activity.describe(), &status.failure) {
            (("running", None), Some(why)) => ("failing", Some(why.clone())),
            (described, _) => described,
        };
        // Before it has begun it doesn't know.
        let behind = |(partition, end): (&u32, &Offset)| Some(end.saturating_sub(*status.committed.get(partition)?));
        SinkStatus {
            name: self.sink.name.clone(),
            owner: owner(&self.sink),
            state,
            rows: status.delivered.rows,
            lag: ends.and_then(|ends| ends.iter().map(behind).sum()),
            dead_letters: status.delivered.dead_letters,
            missed: status.delivered.missed,
            failure,
        }
    }
}

fn open(sink: &Definition, reads: &Definition) -> Result<Opened, Error> {
    let definition = sink.sink().ok_or_else(|| Error::outside("it is no sink"))?;
    // It was checked when it was created; a catalog from another version may say something else.
    sinks::open(definition, reads).map_err(|refusal| Error::outside(refusal.to_string()))
}

impl Task {
    async fn run_here(self) {
        let owner = store::owner(&self.sink);
        here(&self.shared.work, &owner, |activity| self.now(activity), || self.run()).await;
    }

    async fn run(&self) {
        let mut pause = RETRY_FIRST;
        let mut rows_before = 0;
        loop {
            let is_trial = self.status.borrow().failure.is_some();
            let attempt = AssertUnwindSafe(self.attempt(is_trial)).catch_unwind().await;
            let error = match attempt {
                Ok(Ok(never)) => match never {},
                Ok(Err(error)) => error,
                Err(_) => Error::outside("it panicked; the server's log says more"),
            };
            let name = &self.sink.name;
            if error.is_taken() && !self.shared.work.is_shared() {
                error!(sink = name, %error, "stopped");
                return self.now(Activity::Failed(error.to_string()));
            }
            let rows = self.status.borrow().delivered.rows;
            if rows > rows_before {
                (pause, rows_before) = (RETRY_FIRST, rows);
            }
            counter!("headwater_sink_errors_total", "sink" => name.clone()).increment(1);
            warn!(sink = name, %error, "failed; trying again in {pause:?}");
            let why = error.to_string();
            let failing = |until| {
                self.status.send_modify(|status| {
                    status.failure = Some(why.clone());
                    status.activity = Activity::Failing { why, until };
                });
            };
            rest(self.shared.clock.as_ref(), pause, failing).await;
            pause = (2 * pause).min(RETRY_MAX);
        }
    }

    /// Delivers until something fails.
    async fn attempt(&self, is_trial: bool) -> Result<Infallible, Error> {
        let (store, promise) = Store::open(&self.shared, &self.sink, &self.reads).await?;
        let Opened { mut sink, interval } = open(&self.sink, &self.reads)?;
        let kept = sink.open(store.start(&promise, &self.shared)).await?;
        self.now(Activity::Working);
        let position = kept.as_ref().unwrap_or(store.committed());
        let reading = Reading::open(&self.shared.log, &self.reads, position).await?;
        let attempt = Attempt {
            task: self,
            store,
            reading,
            sink,
            interval,
            waiting_since: None,
            is_trial,
        };
        attempt.run().await
    }

    fn now(&self, activity: Activity) {
        self.status.send_modify(|status| status.activity = activity);
    }
}

impl Attempt<'_> {
    async fn run(mut self) -> Result<Infallible, Error> {
        self.show();
        if !self.reading.has_more().await? {
            // Nothing is left to be found out: what failed was to keep the promise.
            self.task.status.send_modify(|status| status.failure = None);
        }
        loop {
            let mut any = false;
            for lane in 0..self.reading.lanes() {
                any |= self.pass_on(lane).await?;
            }
            let now = self.task.shared.clock.elapsed();
            if self.reading.has_news() && self.waiting_since.is_none() {
                self.waiting_since = Some(now);
            }
            if self.is_due(now) {
                self.deliver().await?;
            } else if !any {
                self.wait().await?;
            }
            // Where nothing has to be waited for, others on this thread still get their turn.
            yield_now().await;
        }
    }

    fn is_due(&self, now: Duration) -> bool {
        let is_due = |since| self.is_trial || since + self.interval <= now;
        self.waiting_since.is_some_and(is_due)
    }

    /// Hands what a partition has next to the sink. Whether there was anything.
    async fn pass_on(&mut self, lane: usize) -> Result<bool, Error> {
        let news = self.reading.next(lane).await?;
        self.store.missed(news.missed);
        let any = news.missed > 0 || !news.batches.is_empty();
        for batch in news.batches {
            let rows = Rows {
                partition: batch.partition,
                first: batch.first,
                rows: &batch.rows,
            };
            let undeliverable = self.sink.write(rows).await?;
            let now = self.task.shared.clock.now();
            self.store.took(&batch, &undeliverable, now)?;
            self.reading.passed_on(lane, batch.next);
            if self.sink.is_full() || self.store.is_full() {
                self.deliver().await?;
            }
        }
        Ok(any)
    }

    /// Makes visible what the sink has.
    async fn deliver(&mut self) -> Result<(), Error> {
        let promise = self.sink.prepare().await?;
        self.store.commit(self.reading.news(), promise).await?;
        self.reading.committed();
        self.sink.publish().await?;
        self.waiting_since = None;
        self.is_trial = false;
        self.task.status.send_modify(|status| status.failure = None);
        self.show();
        Ok(())
    }

    /// Waits for more to read, or until what waits has to be delivered.
    async fn wait(&mut self) -> Result<(), Error> {
        let clock = Arc::clone(&self.task.shared.clock);
        let left = self.waiting_since.map(|since| {
            let waited = clock.elapsed().saturating_sub(since);
            self.interval.saturating_sub(waited)
        });
        let until = left.map_or(Duration::MAX, |left| clock.elapsed() + left);
        let mut sleep = async {
            match left {
                Some(left) => clock.sleep(left).await,
                None => std::future::pending().await,
            }
        }
        .boxed();
        // Who moves a clock by hand does so as soon as everything rests: by then the sleep has begun.
        if poll!(&mut sleep).is_ready() {
            return Ok(());
        }
        self.show();
        self.task.now(Activity::Waiting(until));
        tokio::select! {
            ready = self.reading.wait() => ready?,
            () = sleep => {}
        }
        self.task.now(Activity::Working);
        Ok(())
    }

    /// Says how far it has come.
    fn show(&self) {
        self.task.status.send_modify(|status| {
            status.delivered = self.store.delivered();
            status.read = self.reading.read();
            status.committed = self.reading.delivered();
        });
    }
}
