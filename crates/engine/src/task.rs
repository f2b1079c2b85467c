//! A stage on one partition.
//!
//! 1. Claim the task's work, so that nobody else can commit it, and restore the operators.
//! 2. Read what has come since the last commit, up to a limit. That is an epoch: one batch when
//!    little comes, many when the last commit took its time.
//! 3. Set aside rows that are late or have no time, pass the others through the operators, end
//!    the epoch with the new watermark.
//! 4. Commit, in one step: what was read, what was produced, what changed in state. A full disk
//!    is waited for; a lost claim ends the task; after any other failure it starts again at 1.
//! 5. Now and then, trim what was read, where the input is the query's own.
//!
//! No row can stop a task for good: what can't be computed goes to the dead letters, and the other
//! rows go on without it.
//!
//! Without input it waits, and after the stream's idle time it follows its peers' watermark.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::future::try_join_all;
use headwater_event::clock::{Clock, Micros};
use headwater_event::offset::{Offset, TopicPartition, behind};
use headwater_event::room::Room;
use headwater_event::watermark::Progress;
use headwater_log::error::{Error as LogError, Kind};
use headwater_log::work::Work;
use headwater_log::{Claim, Commit, Log, LoggedBatch, StateTable, StateWrite};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::chain::Chain;
use crate::dead_letter::DeadLetterOffice;
use crate::elsewhere;
use crate::epoch::Epoch;
use crate::epochs::{EpochRoom, Epochs};
use crate::error::{Error, Result};
use crate::lookup::Tables;
use crate::operators::closes_by_time;
use crate::origin::{Origin, gathered};
use crate::output::{Announcement, Destination};
use crate::peers::{Peers, Stand};
use crate::plan::{LateRows, Output, Stage, TimeSource};
use crate::status::{TaskMetrics, TaskState, TaskStatus};
use crate::time::EventTime;
use crate::view::{FLUSHED_ROWS, Place};

const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// The size of state is looked at once in so many epochs.
const STATE_BYTES_EVERY: u64 = 64;
/// How far a task is behind its input is looked up no more often: the log may have to ask others for that.
const LAG_EVERY: Duration = Duration::from_secs(1);
/// What was read of an input that is the query's own is kept no longer than this.
const TRIM_EVERY: Duration = Duration::from_secs(30);

/// What a task is, and what it has been given to work with.
#[derive(Clone)]
pub struct Assignment {
    pub log: Arc<dyn Log>,
    pub clock: Arc<dyn Clock>,
    pub pipeline: Arc<str>,
    pub number: usize,
    pub stage: Arc<Stage>,
    pub partition: u32,
    /// Where to begin if nothing was ever committed; `None` for as the plan says.
    pub begin_at: Option<Offset>,
    pub destination: Destination,
    /// Whether those who read the output wait for its progress.
    pub announces: bool,
    pub dead_letters: Option<DeadLetterOffice>,
    /// Trim the input after so many batches; `None` where it isn't the query's own.
    pub trim_every_batches: Option<usize>,
    pub epochs: Arc<Epochs>,
    pub caches: Room,
    pub tables: Option<Arc<dyn Tables>>,
    pub peers: Arc<Peers>,
    /// Requests to look at everything again, numbered.
    pub nudges: watch::Receiver<u64>,
    pub status: watch::Sender<TaskStatus>,
    /// Which tasks are to run in this process.
    pub work: Work,
    pub stop: CancellationToken,
}

/// A task between two commits.
pub struct Task<'a> {
    is: &'a Assignment,
    input: TopicPartition,
    claim: Claim,
    next: Offset,
    committed: Offset,
    time: EventTime,
    stored_time: Bytes,
    chain: Chain,
    announced: Option<Progress>,
    last_input: Duration,
    idle: bool,
    /// Whether what was last committed says that the readers were told so.
    told_idle: bool,
    /// The readers were not brought as far as this task is, since others have rows that they have not read.
    holds_back: bool,
    /// Rows of a view without a key that came out at the end of epochs, since `next` has moved.
    flushed_rows: u32,
    untrimmed_batches: usize,
    trimmed: Duration,
    /// When the end of the input was last looked up.
    looked: Option<Duration>,
    metrics: TaskMetrics,
}

pub fn owner(pipeline: &str, stage: usize, partition: u32) -> String {
    format!("{pipeline}.{stage}.{partition}")
}

pub fn task_table(pipeline: &str, stage: usize) -> Arc<str> {
    format!("{pipeline}.{stage}.task").into()
}

/// Runs a task until it is told to stop.
pub async fn run(is: &Assignment) -> Result<()> {
    let mut task = Task::open(is).await?;
    let mut nudges = is.nudges.clone();
    let mut peers = is.peers.changes();
    loop {
        if is.stop.is_cancelled() {
            return Ok(());
        }
        let nudge = *nudges.borrow_and_update();
        task.report(nudge);
        peers.mark_unchanged();
        let mut room = is.epochs.room().await;
        // Looked at before reading: what a peer had read when it came this far was there for this
        // task to read too, if it came with the same append.
        let common = is.peers.watermark();
        let batches = task.read().await?;
        if !batches.is_empty() {
            room.keep_for(&batches);
            task.epoch(batches, room).await?;
            tokio::task::yield_now().await;
            continue;
        }
        drop(room);
        if task.next != task.committed {
            // What was left out, which others may be waiting for.
            task.finish(Epoch::default(), None).await?;
        }
        if task.be_silent(common).await? {
            continue;
        }
        is.status.send_modify(|status| {
            status.settled = nudge;
            status.lag = 0;
        });
        task.metrics.lag_rows.set(0.0);
        tokio::select! {
            // Not by lot: a simulated run can be repeated.
            biased;
            () = is.stop.cancelled() => return Ok(()),
            waited = is.log.wait(&task.input, task.next) => waited?,
            _ = nudges.changed() => {}
            _ = peers.changed(), if task.idle || task.holds_back => {}
            () = is.clock.sleep(task.until_idle()), if task.may_become_idle() => {}
        }
    }
}

impl<'a> Task<'a> {
    async fn open(is: &'a Assignment) -> Result<Task<'a>> {
        let input = TopicPartition::new(Arc::clone(&is.stage.input.topic), is.partition);
        let claim = is.log.claim(&owner(&is.pipeline, is.number, is.partition)).await?;
        let mut time = EventTime::new(&is.stage.input.time);
        let table = is.log.state(&task_table(&is.pipeline, is.number)).await?;
        let stored_time = table.get(&watermark_key(is.partition))?.unwrap_or_default();
        if !stored_time.is_empty() {
            time.decode(&stored_time)?;
        }
        recall_peers(is, &*table).await?;
        let stage = (&*is.pipeline, is.number);
        let watermark = time.watermark();
        let tables = is.tables.as_deref();
        let chain = Chain::open(&*is.log, stage, &is.stage, is.partition, watermark, &is.caches, tables).await?;
        let known = claim.consumed.get(&input).copied();
        let mut task = Task {
            next: known.unwrap_or(0),
            committed: known.unwrap_or(0),
            metrics: TaskMetrics::new(&is.pipeline, is.number, is.partition),
            last_input: is.clock.elapsed(),
            trimmed: is.clock.elapsed(),
            looked: None,
            // What the former owner left.
            untrimmed_batches: is.trim_every_batches.unwrap_or_default(),
            flushed_rows: 0,
            announced: None,
            idle: time.told_idle(),
            told_idle: time.told_idle(),
            holds_back: time.told() < time.watermark(),
            is,
            input,
            claim,
            time,
            stored_time,
            chain,
        };
        if known.is_none() {
            task.begin().await?;
        }
        task.flushed_rows = is.destination.flushed_rows(&*is.log, task.flush_place(0)).await?;
        task.is.peers.report(is.partition, task.stand());
        let (next, watermark) = (task.next, task.time.watermark());
        is.status.send_modify(|status| {
            status.state = TaskState::Running;
            status.offset = next;
            status.watermark = watermark;
        });
        Ok(task)
    }

    /// Writes down where the task begins, so that a restart before its first epoch begins there too.
    async fn begin(&mut self) -> Result<()> {
        let offsets = self.is.log.offsets(&self.input).await?;
        self.next = match self.is.begin_at {
            Some(offset) => offset.clamp(offsets.start, offsets.end),
            None if self.is.stage.input.from_latest => offsets.end,
            None => offsets.start,
        };
        self.commit(Commit {
            consumed: vec![(self.input.clone(), self.next)],
            ..Commit::default()
        })
        .await?;
        self.committed = self.next;
        Ok(())
    }

    /// Says what the operators hold, if somebody has asked for it since it was last said.
    fn report(&mut self, nudge: u64) {
        if self.is.status.borrow().reported >= nudge {
            return;
        }
        let held = self.chain.held();
        self.is.status.send_modify(|status| {
            status.held = held;
            status.reported = nudge;
        });
    }

    /// What is there. A damaged batch is left out, with a word in the log.
    async fn read(&mut self) -> Result<Vec<LoggedBatch>> {
        let columns = &self.is.stage.input.columns;
        loop {
            let read = self
                .is
                .log
                .read(&self.input, self.next, self.is.epochs.read_bytes_max(), Some(columns));
            match read.await {
                Ok(batches) => return Ok(batches),
                Err(error @ LogError::Damaged { next, .. }) if next > self.next => {
                    tracing::error!(pipeline = &*self.is.pipeline, %error, "a damaged batch is left out");
                    self.metrics.damaged_batches.increment(1);
                    self.is.status.send_modify(|status| status.damaged_batches += 1);
                    self.next = next;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn epoch(&mut self, batches: Vec<LoggedBatch>, room: EpochRoom) -> Result<()> {
        let Some(last) = batches.last() else { return Ok(()) };
        if batches.iter().any(|batch| batch.rows.num_rows() > 0) {
            self.wake().await?;
        }
        let mut epoch = Epoch::default();
        self.next = last.next();
        if let EventTime::Producers(producers) = &mut self.time {
            batches
                .iter()
                .filter_map(|batch| batch.progress)
                .for_each(|progress| producers.observe(progress));
            producers.advance();
        }
        for gathered in gathered(&batches)? {
            self.process(&gathered.origin, gathered.rows, &mut epoch).await?;
        }
        if epoch.rows_read > 0 {
            self.last_input = self.is.clock.elapsed();
        }
        self.finish(epoch, Some(room)).await?;
        self.untrimmed_batches += batches.len();
        self.trim().await
    }

    /// Before rows come in where the readers of the output were told that none do; see [`crate::peers`].
    async fn wake(&mut self) -> Result<()> {
        self.idle = false;
        if !self.time.told_idle() {
            return Ok(());
        }
        self.finish(Epoch::default(), None).await?;
        let mut reached = self.is.peers.reached();
        if self.is.work.is_shared() {
            reached = reached.max(elsewhere::furthest(self.is).await?);
        }
        if let EventTime::Rows(time) = &mut self.time {
            if let Some(reached) = reached {
                time.raise(reached);
            }
            time.woke();
        }
        Ok(())
    }

    /// Lets go of what was read, where nobody else wants it.
    async fn trim(&mut self) -> Result<()> {
        let Some(every_batches) = self.is.trim_every_batches else {
            return Ok(());
        };
        let now = self.is.clock.elapsed();
        if self.untrimmed_batches < every_batches && now.saturating_sub(self.trimmed) < TRIM_EVERY {
            return Ok(());
        }
        match self.is.log.trim(&self.input, self.committed).await {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), Kind::Closed | Kind::Conflict) => return Err(error.into()),
            // It takes room, and is tried again with the next lot.
            Err(error) => tracing::warn!(input = %self.input, %error, "what was read can't be trimmed"),
        }
        self.untrimmed_batches = 0;
        self.trimmed = now;
        Ok(())
    }

    async fn process(&mut self, origin: &Origin, rows: RecordBatch, epoch: &mut Epoch) -> Result<()> {
        epoch.rows_read += rows.num_rows() as u64;
        let (rows, which) = self.admit(origin, rows, epoch)?;
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let mut out = Vec::new();
        let mut rejections = Vec::new();
        let processed = self.chain.process(rows, &mut out, &mut rejections);
        unless_stopped(self.is, processed).await?;
        let first = Place {
            partition: self.is.partition,
            offset: origin.offset(0),
            row: 0,
        };
        epoch.add(first, out);
        let of_batch = |row: usize| which.as_ref().map_or(row, |which| which[row] as usize);
        epoch.reject(
            rejections,
            |row| origin.offset(of_batch(row)),
            self.committed..self.next,
        );
        Ok(())
    }

    /// Sets aside the rows that event time has no place for.
    /// Hands on the others, and which rows they were; `None` for all.
    fn admit(
        &mut self,
        origin: &Origin,
        rows: RecordBatch,
        epoch: &mut Epoch,
    ) -> Result<(RecordBatch, Option<Vec<u32>>)> {
        let TimeSource::Rows { late: policy, .. } = &self.is.stage.input.time else {
            return Ok((rows, None));
        };
        let EventTime::Rows(time) = &mut self.time else {
            return Ok((rows, None));
        };
        let admitted = time.admit(rows.clone())?;
        epoch.count_late(&admitted.aside);
        if let LateRows::Keep = policy {
            // The times are followed, and all rows go on: an operator that can't use one says so.
            return Ok((rows, None));
        }
        epoch.set_aside(admitted.aside, origin, policy);
        Ok((admitted.rows, admitted.which))
    }

    /// Where the next row that comes out at the end of an epoch has its place in a view without a
    /// key: behind the last offset that was read, apart from the rows that came from there.
    fn flush_place(&self, rows: u32) -> Place {
        Place {
            partition: self.is.partition,
            offset: self.next.saturating_sub(1),
            row: FLUSHED_ROWS + rows,
        }
    }

    async fn finish(&mut self, mut epoch: Epoch, room: Option<EpochRoom>) -> Result<()> {
        let told = self.may_tell().await?;
        let was_told_idle = self.told_idle;
        let mut out = Vec::new();
        let mut rejections = Vec::new();
        let finished = self.chain.finish(self.time.watermark(), &mut out, &mut rejections);
        unless_stopped(self.is, finished).await?;
        if self.next != self.committed {
            self.flushed_rows = 0;
        }
        let place = self.flush_place(self.flushed_rows);
        self.flushed_rows += out.iter().map(|batch| batch.num_rows() as u32).sum::<u32>();
        epoch.add(place, out);
        epoch.reject(rejections, |_| self.committed, self.committed..self.next);
        let progress = self.progress(told);
        if let EventTime::Rows(time) = &mut self.time {
            time.tell(told, progress.is_some_and(|progress| progress.idle));
        }
        self.holds_back = told < self.time.watermark();
        let mut commit = Commit {
            state: self.chain.changes()?,
            ..Commit::default()
        };
        if self.next != self.committed {
            commit.consumed.push((self.input.clone(), self.next));
        }
        let announcement = Announcement {
            progress,
            alone: self.is.announces && progress != self.announced,
        };
        self.is
            .destination
            .write(self.is.partition, &epoch.out, announcement, &mut commit)?;
        self.add_dead_letters(&epoch, &mut commit)?;
        let time = self.time.encode();
        if time != self.stored_time {
            commit.state.push(StateWrite {
                table: task_table(&self.is.pipeline, self.is.number),
                entries: Arc::new([(watermark_key(self.is.partition), Some(time.clone()))]),
            });
        }
        // Before it commits: what it read isn't read yet, and if it was idle it is so until then.
        let stand = Stand {
            told,
            idle: self.idle || was_told_idle,
            read: self.committed,
        };
        self.is.peers.report(self.is.partition, stand);
        let started = self.is.clock.elapsed();
        if !(commit.consumed.is_empty() && commit.produced.is_empty() && commit.state.is_empty()) {
            self.commit(commit).await?;
        }
        self.stored_time = time;
        self.told_idle = self.time.told_idle();
        self.announced = progress;
        self.committed = self.next;
        // A listener may take its time, and others shall not wait for it.
        drop(room);
        let rows = std::mem::take(&mut epoch.out);
        if !self.is.destination.deliver(rows).await {
            self.is.stop.cancel();
        }
        self.tell(&epoch, self.is.clock.elapsed().saturating_sub(started)).await
    }

    fn stand(&self) -> Stand {
        Stand {
            told: self.time.told(),
            idle: self.idle || self.told_idle,
            read: self.next,
        }
    }

    /// How far the readers may be brought: no further than they are, while others that they don't wait for have rows to read; see
    /// [`crate::peers`].
    async fn may_tell(&mut self) -> Result<Option<Micros>> {
        let (is, watermark, told) = (self.is, self.time.watermark(), self.time.told());
        if watermark <= told || !is.announces || self.closes_windows() {
            return Ok(watermark);
        }
        let silent_since = is.clock.elapsed().saturating_sub(is.stage.input.idle_timeout / 2);
        let idle = is.peers.idle(is.partition, silent_since);
        let unread = idle.into_iter().map(async |(partition, read)| {
            let input = TopicPartition::new(Arc::clone(&is.stage.input.topic), partition);
            // What came with the rows of this epoch, too.
            Ok::<_, Error>(is.log.settled(&input).await?.end > read)
        });
        let any_unread = try_join_all(unread).await?.contains(&true);
        Ok(if any_unread { told } else { watermark })
    }

    /// What this task's readers are to know; nothing where the query needs no event time.
    fn progress(&self, told: Option<Micros>) -> Option<Progress> {
        let idle = match &self.time {
            EventTime::None => return None,
            // With open windows it is no use to its readers to be left out: its rows are still to come. It
            // follows its peers, or its producers, so it holds nobody back either.
            EventTime::Rows(_) => self.idle && !self.closes_windows(),
            EventTime::Producers(_) => false,
        };
        let first = match self.is.stage.output {
            Output::Topic { first_producer, .. } => first_producer,
            Output::View { .. } => 0,
        };
        Some(Progress {
            producer: first + self.is.partition,
            watermark: told.map(|watermark| watermark.saturating_sub(self.chain.delay())),
            idle,
        })
    }

    fn add_dead_letters(&self, epoch: &Epoch, commit: &mut Commit) -> Result<()> {
        if let (Some(first), None) = (epoch.letters.first(), &self.is.dead_letters) {
            let (pipeline, batches) = (&*self.is.pipeline, epoch.letters.len());
            tracing::warn!(
                pipeline,
                batches,
                reason = first.reason,
                "rows are left out: {}",
                first.detail
            );
        }
        for letters in &epoch.letters {
            self.metrics.rejected_rows.increment(letters.rows.num_rows() as u64);
            let Some(office) = &self.is.dead_letters else { continue };
            commit
                .produced
                .push(office.produced(letters, &self.input, self.is.clock.now())?);
        }
        Ok(())
    }

    /// Commits, however long the disk is full. An unfinished commit is not visible anywhere.
    async fn commit(&mut self, commit: Commit) -> Result<()> {
        let mut pause = RETRY_FIRST;
        loop {
            match self.is.log.commit(&self.claim, commit.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == Kind::Unavailable => {
                    tracing::warn!(pipeline = &*self.is.pipeline, %error, "a commit has to wait");
                    tokio::select! {
                        biased;
                        () = self.is.stop.cancelled() => return Err(error.into()),
                        () = self.is.clock.sleep(pause) => {}
                    }
                    pause = (2 * pause).min(RETRY_MAX);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn tell(&mut self, epoch: &Epoch, took: Duration) -> Result<()> {
        let watermark = self.time.watermark();
        self.is.peers.report(self.is.partition, self.stand());
        let late = epoch.late + self.chain.take_late();
        let now = self.is.clock.elapsed();
        let mut lag = None;
        if self.looked.is_none_or(|looked| now.saturating_sub(looked) >= LAG_EVERY) {
            lag = Some(behind(&self.is.log.offsets(&self.input).await?, self.next));
            self.looked = Some(now);
        }
        let (offset, idle) = (self.next, self.idle);
        let mut status = TaskStatus::default();
        self.is.status.send_modify(|shared| {
            shared.offset = offset;
            shared.lag = lag.unwrap_or(shared.lag);
            shared.watermark = watermark;
            shared.idle = idle;
            shared.epochs += 1;
            shared.committed_at = Some(self.is.clock.now());
            shared.rows += epoch.rows_read;
            shared.late_rows += late;
            status = shared.clone();
        });
        self.metrics.late_rows.increment(late);
        self.metrics.epoch(&status, epoch.rows_read, self.is.clock.now(), took);
        if status.epochs % STATE_BYTES_EVERY == 1 {
            self.metrics.state_bytes.set(self.chain.state_bytes() as f64);
        }
        Ok(())
    }

    /// Nothing is there to read. Becomes idle when it is time, and follows the others once it is:
    /// up to `common`, their watermark before this task last looked for rows. Brings the readers on if they were held back. Answers
    /// whether anything moved, and it has to look again.
    async fn be_silent(&mut self, common: Option<Micros>) -> Result<bool> {
        let becomes_idle = self.may_become_idle() && self.until_idle().is_zero();
        if becomes_idle {
            self.idle = true;
            self.is.peers.report(self.is.partition, self.stand());
        }
        let follows = self.idle && common > self.time.watermark();
        // Looked at once more: rows may have come since, the same append's as those that have brought a peer further.
        let rests = !(becomes_idle || follows) || self.is.log.settled(&self.input).await?.end <= self.next;
        if !rests {
            self.idle &= !becomes_idle;
            self.is.peers.report(self.is.partition, self.stand());
            return Ok(false);
        }
        if let (true, Some(common), EventTime::Rows(time)) = (follows, common, &mut self.time) {
            time.raise(common);
        }
        let goes_on = self.holds_back && self.may_tell().await? > self.time.told();
        let moves = becomes_idle || follows || goes_on;
        if moves {
            self.finish(Epoch::default(), None).await?;
        }
        Ok(moves)
    }

    fn closes_windows(&self) -> bool {
        self.is.stage.operators.iter().any(closes_by_time)
    }

    fn may_become_idle(&self) -> bool {
        matches!(self.time, EventTime::Rows(_)) && !self.idle
    }

    fn until_idle(&self) -> Duration {
        let silent = self.is.clock.elapsed().saturating_sub(self.last_input);
        self.is.stage.input.idle_timeout.saturating_sub(silent)
    }
}

/// What is only waited for until the task is told to stop. An epoch that was cut off is not committed, and comes again.
async fn unless_stopped(is: &Assignment, work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        // What needs no waiting is done.
        biased;
        done = work => done,
        () = is.stop.cancelled() => Err(Error::Stopped),
    }
}

/// Where the other tasks stood when they last committed: they may start later, or not at all.
async fn recall_peers(is: &Assignment, table: &dyn StateTable) -> Result<()> {
    for partition in (0..is.stage.input.partitions).filter(|&partition| partition != is.partition) {
        if table.get(&watermark_key(partition))?.is_some() {
            let time = elsewhere::stood(is, table, partition)?;
            let consumed = is.log.consumed(&owner(&is.pipeline, is.number, partition)).await?;
            let input = TopicPartition::new(Arc::clone(&is.stage.input.topic), partition);
            is.peers
                .recall(partition, elsewhere::stand(&time, consumed.get(&input).copied()));
        }
    }
    Ok(())
}

/// Where a task keeps its time in the table of its stage.
pub fn watermark_key(partition: u32) -> Bytes {
    let mut key = partition.to_be_bytes().to_vec();
    key.extend_from_slice(b"watermark");
    key.into()
}
