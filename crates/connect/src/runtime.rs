//! The loop around every source.
//!
//! 1. Claim the source's work, so that no other process does it too, and read the position that the last
//!    commit left.
//! 2. Ask the source for events, as many as the rate allows ([`pace`]).
//! 3. Fit the rows to the stream, split them by partition, and commit them together with the position
//!    behind them ([`store`]). What could not be read goes to `dead_letters` in the same commit.
//! 4. When something fails, wait, longer each time, and begin again at 1. So no event is lost or
//!    stored twice, whatever fails and wherever the process ends.
//!
//! Sources run on threads of their own, which may block.

mod pace;
mod store;

use std::collections::BTreeMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use headwater_catalog::definition::{Definition, Source};
use metrics::counter;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::{JoinHandle, yield_now};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::activity::{Activity, RETRY_FIRST, RETRY_MAX, here, rest};
use crate::intake;
use crate::options::Refusal;
use crate::runtime::pace::Pace;
use crate::runtime::store::Store;
pub use crate::runtime::store::owner;
use crate::shared::Shared;
use crate::source::{Ask, Error, Next, Opened};
use crate::sources;

/// How often a source that has nothing now is asked again.
const POLL: Duration = Duration::from_millis(500);

/// The sources that run in this process.
pub struct Sources {
    shared: Arc<Shared>,
    /// By object id.
    running: RwLock<BTreeMap<u64, Arc<Running>>>,
    /// Taken out only to be shut down.
    runtime: Option<Runtime>,
}

struct Running {
    definition: Arc<Definition>,
    status: watch::Receiver<Status>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// How a source does.
#[derive(Clone, Debug)]
pub struct SourceStatus {
    pub name: String,
    /// In whose name it commits.
    pub owner: String,
    pub state: &'static str,
    /// Stored by it since it was created.
    pub events: u64,
    /// Of those, the ones that went to `dead_letters`.
    pub dead_letters: u64,
    /// Why it doesn't get on, if it doesn't.
    pub failure: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Status {
    activity: Activity,
    stored: Stored,
}

/// How much is stored in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stored {
    events: u64,
    dead_letters: u64,
}

/// One source and what it writes into, as its task has them.
struct Task {
    shared: Arc<Shared>,
    source: Arc<Definition>,
    stream: Arc<Definition>,
    status: watch::Sender<Status>,
}

impl Sources {
    /// # Errors
    /// If the machine doesn't give us the threads.
    pub fn new(threads: usize, shared: Shared) -> io::Result<Arc<Self>> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("source")
            .enable_all()
            .build()?;
        Ok(Arc::new(Self {
            shared: Arc::new(shared),
            running: RwLock::default(),
            runtime: Some(runtime),
        }))
    }

    /// Opens the source and looks whether what it reads from is there.
    pub fn look(&self, source: &Source, into: &Definition) -> Result<(), Refusal> {
        sources::look(source, into, &self.shared.within)
    }

    /// Begins to bring events into the stream, from where the source was stopped last.
    pub fn start(&self, source: &Arc<Definition>, stream: &Arc<Definition>) {
        let Some(runtime) = &self.runtime else { return };
        let (sender, status) = watch::channel(Status::default());
        let stop = CancellationToken::new();
        let task = Task {
            shared: Arc::clone(&self.shared),
            source: Arc::clone(source),
            stream: Arc::clone(stream),
            status: sender,
        };
        let stopped = stop.clone();
        let task = runtime.spawn(async move {
            // A commit that is cut off is there or not, as a whole.
            tokio::select! {
                () = task.run_here() => {}
                () = stopped.cancelled() => {}
            }
        });
        let running = Running {
            definition: Arc::clone(source),
            status,
            stop,
            task: Mutex::new(Some(task)),
        };
        info!(source = source.name, id = source.id, "running");
        self.running.write().insert(source.id, Arc::new(running));
    }

    /// Stops the source, for good or until it is started again.
    pub async fn stop(&self, id: u64) {
        let running = self.running.write().remove(&id);
        let Some(running) = running else { return };
        running.stop.cancel();
        let task = running.task.lock().take();
        if let Some(task) = task {
            // What it panicked with has been said.
            let _ = task.await;
        }
    }

    /// Deletes what a stopped source has left in the log beside the stream.
    pub async fn forget(&self, source: &Definition) -> headwater_log::error::Result<()> {
        self.shared.log.release(&store::owner(source)).await?;
        self.shared.log.delete_state(&source.position_table()).await
    }

    /// What every source does right now, by id.
    pub fn status(&self) -> Vec<SourceStatus> {
        let running = self.running.read();
        running.values().map(|running| running.describe()).collect()
    }

    /// Returns when every source has brought all that is there at present, or all that its rate allows. Never, for
    /// one that could go on without a pause for ever.
    pub async fn caught_up(&self) {
        let running: Vec<_> = self.running.read().values().cloned().collect();
        for running in running {
            let mut status = running.status.clone();
            let clock = &self.shared.clock;
            // A task that is gone does nothing more.
            let _ = status.wait_for(|status| status.activity.rests(clock.elapsed())).await;
        }
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for the threads is not allowed where this may be dropped.
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sources({:?})", self.status())
    }
}

impl Running {
    fn describe(&self) -> SourceStatus {
        let status = self.status.borrow();
        let (state, failure) = status.activity.describe();
        SourceStatus {
            name: self.definition.name.clone(),
            owner: owner(&self.definition),
            state,
            events: status.stored.events,
            dead_letters: status.stored.dead_letters,
            failure,
        }
    }
}

impl Task {
    async fn run_here(self) {
        let owner = store::owner(&self.source);
        here(&self.shared.work, &owner, |activity| self.now(activity), || self.run()).await;
    }

    async fn run(&self) {
        let mut pause = RETRY_FIRST;
        let mut stored_before = 0;
        loop {
            let attempt = AssertUnwindSafe(self.attempt()).catch_unwind().await;
            let error = match attempt {
                Ok(Ok(())) => return self.end(),
                Ok(Err(error)) => error,
                Err(_) => Error::outside("it panicked; the server's log says more"),
            };
            let name = &self.source.name;
            if error.is_taken() && !self.shared.work.is_shared() {
                error!(source = name, %error, "stopped");
                return self.now(Activity::Failed(error.to_string()));
            }
            let stored = self.status.borrow().stored.events;
            if stored > stored_before {
                (pause, stored_before) = (RETRY_FIRST, stored);
            }
            counter!("headwater_source_errors_total", "source" => name.clone()).increment(1);
            warn!(source = name, %error, "failed; trying again in {pause:?}");
            let why = error.to_string();
            self.rest(pause, |until| Activity::Failing { why, until }).await;
            pause = (2 * pause).min(RETRY_MAX);
        }
    }

    /// Works until the source ends, or something fails.
    async fn attempt(&self) -> Result<(), Error> {
        let (mut store, position, stored) = Store::open(&self.shared, &self.source, &self.stream).await?;
        self.status.send_modify(|status| status.stored = stored);
        let Opened { mut source, rate } = self.open()?;
        source.resume(position)?;
        let clock = &self.shared.clock;
        let mut pace = Pace::new(rate, clock.elapsed());
        loop {
            let events_max = pace.due(clock.elapsed());
            if events_max == 0 {
                self.wait(pace.wait(clock.elapsed())).await;
                continue;
            }
            let ask = Ask {
                events_max,
                now: clock.now(),
                ids: &self.shared.ids,
                log: &*self.shared.log,
                within: &self.shared.within,
            };
            match source.next(&ask).await? {
                Next::End => return Ok(()),
                Next::Later => self.wait(POLL).await,
                Next::Batch(batch) => {
                    self.recovered();
                    pace.gave(batch.events);
                    let stored = store.store(batch, ask.now).await?;
                    self.status.send_modify(|status| status.stored = stored);
                }
            }
            // Where nothing has to be waited for, others on this thread still get their turn.
            yield_now().await;
        }
    }

    fn open(&self) -> Result<Opened, Error> {
        // It was checked when it was created; a catalog from another version may say something else.
        let refused = |refusal: crate::options::Refusal| Error::Outside(refusal.to_string());
        let source = self.source.source().ok_or_else(|| Error::outside("it is no source"))?;
        if let (Some(_), Some(stream)) = (intake::topic(source), self.stream.stream()) {
            return Ok(intake::open(&self.stream, stream));
        }
        sources::open(source, &self.stream).map_err(refused)
    }

    async fn wait(&self, duration: Duration) {
        self.rest(duration, Activity::Waiting).await;
        self.now(Activity::Working);
    }

    /// Waits, and says until when.
    async fn rest(&self, duration: Duration, activity: impl FnOnce(Duration) -> Activity) {
        rest(self.shared.clock.as_ref(), duration, |until| self.now(activity(until))).await;
    }

    /// Takes back what was said of a failure.
    fn recovered(&self) {
        if matches!(self.status.borrow().activity, Activity::Failing { .. }) {
            self.now(Activity::Working);
        }
    }

    fn end(&self) {
        info!(source = self.source.name, "finished");
        self.now(Activity::Finished);
    }

    fn now(&self, activity: Activity) {
        self.status.send_modify(|status| status.activity = activity);
    }
}
