//! A thread that writes: what waits together is one transaction, as a transaction costs the same whatever is in it.
//!
//! A process has two of them. One appends, under ids that are the process's for ever, so that after a restart the unfinished appends of
//! before are gone at once. The other one commits, under new ids whenever it begins; see `owners`.
//!
//! There is one transaction at a time, in the order in which writes came: two at a time take twice as long, where the brokers are busy. But they are
//! under two ids by turns. When a transaction is committed the brokers still have to mark it everywhere, and a client whose next one has the same id
//! waits, in steps of 20 ms.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};
use crate::kafka::owners::{Held, Hold};
use crate::kafka::transactions::{Failure, Record, Transactions};

/// Writes that may wait; more have to wait before they may.
const QUEUE_MAX: usize = 4096;

const GROUP_BYTES_MAX: usize = 16 << 20;

/// What is being written may hold up the end for so long: five seconds.
const CLOSE_POLLS_MAX: usize = 2500;
const CLOSE_POLL_TIME: Duration = Duration::from_millis(2);

/// Makes transactions possible, and says under what name.
pub(super) type Open = Box<dyn Fn() -> Result<(Arc<str>, Vec<Transactions>)> + Send>;

/// Is told where each record stands, on a thread that may block.
pub(super) type Done = Box<dyn FnOnce(Result<Vec<i64>, Failure>) + Send>;

pub(super) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Write>>>,
    session: Arc<Mutex<Option<Arc<str>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Records that are written together or not at all.
pub(super) struct Write {
    /// In whose name: nothing is written that is no longer held.
    pub hold: Option<Arc<Hold>>,
    pub records: Vec<Record>,
    pub done: Done,
}

impl Writer {
    /// `held` is what is given up meanwhile: its marks are written too.
    pub fn start(name: &str, held: Arc<Held>, open: Open) -> Result<Self> {
        let (queue, writes) = mpsc::channel(QUEUE_MAX);
        let session = Arc::default();
        let thread = Thread {
            writes,
            held,
            open,
            transactions: None,
            turn: 0,
            session: Arc::clone(&session),
            handle: Handle::current(),
        };
        let run = move || thread.run();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        let thread = thread.map_err(|error| Error::Kafka(format!("no thread: {error}")))?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            session,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Under what name is written now; it begins where it has not yet, or was ended by others.
    pub async fn session(&self) -> Result<Arc<str>> {
        if let Some(session) = self.session.lock().clone() {
            return Ok(session);
        }
        self.append(Vec::new()).await?;
        self.session.lock().clone().ok_or(Error::Closed)
    }

    /// Writes all records or none, and answers where each stands.
    pub async fn append(&self, records: Vec<Record>) -> Result<Vec<i64>> {
        self.write(None, records).await.map_err(Failure::into_error)
    }

    pub async fn write(&self, hold: Option<Arc<Hold>>, records: Vec<Record>) -> Result<Vec<i64>, Failure> {
        let (done, answer) = oneshot::channel();
        let write = Write {
            hold,
            records,
            // Whoever isn't there any more doesn't want to know.
            done: Box::new(|placed| drop(done.send(placed))),
        };
        self.send(write).await.map_err(Failure::Aborted)?;
        answer.await.unwrap_or(Err(Failure::Aborted(Error::Closed)))
    }

    pub async fn send(&self, write: Write) -> Result<()> {
        let queue = self.queue.lock().clone().ok_or(Error::Closed)?;
        queue.send(write).await.map_err(|_| Error::Closed)
    }

    /// Has what was given up written soon.
    pub fn wake(&self) {
        if let Some(queue) = &*self.queue.lock() {
            let nothing = Write {
                hold: None,
                records: Vec::new(),
                done: Box::new(drop),
            };
            // Where there is no room, something is written anyway.
            let _ = queue.try_send(nothing);
        }
    }

    /// Writes what is waiting, and takes no more. Blocks until that is done, or the cluster has not answered for too long.
    pub fn close(&self) {
        self.queue.lock().take();
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        for _ in 0..CLOSE_POLLS_MAX {
            if thread.is_finished() {
                // What it panicked with was printed.
                let _ = thread.join();
                return;
            }
            std::thread::sleep(CLOSE_POLL_TIME);
        }
        tracing::warn!("Kafka doesn't answer: what was being written may be there or not");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

struct Thread {
    writes: mpsc::Receiver<Write>,
    held: Arc<Held>,
    open: Open,
    /// Under what name, and by turns.
    transactions: Option<(Arc<str>, Vec<Transactions>)>,
    turn: usize,
    session: Arc<Mutex<Option<Arc<str>>>>,
    handle: Handle,
}

impl Thread {
    fn run(mut self) {
        while let Some(first) = self.writes.blocking_recv() {
            // Before the group is looked through: what is given up from now on will be in none of it, or its mark comes after the group.
            let marks = self.marks();
            let mut bytes = first.bytes();
            let mut group = vec![first];
            while bytes < GROUP_BYTES_MAX
                && let Ok(next) = self.writes.try_recv()
            {
                bytes += next.bytes();
                group.push(next);
            }
            self.write(marks, group);
        }
        let marks = self.marks();
        if !marks.is_empty() {
            self.write(marks, Vec::new());
        }
    }

    fn marks(&self) -> Vec<Record> {
        let session = self.transactions.as_ref().map(|(session, _)| &**session);
        self.held.take_given_up(session)
    }

    fn write(&mut self, marks: Vec<Record>, group: Vec<Write>) {
        let session = match self.begin() {
            Ok(session) => session,
            Err(error) => return fail(group, &error),
        };
        let is_held = |write: &Write| write.hold.as_ref().is_none_or(|hold| hold.is_held_in(&session));
        let (group, lost): (Vec<_>, Vec<_>) = group.into_iter().partition(is_held);
        fail(lost, &Error::Kafka("the claim is outdated".to_owned()));

        let of_marks = marks.len();
        let mut records = marks;
        let mut answers = Vec::with_capacity(group.len());
        for write in group {
            answers.push((write.records.len(), write.hold, write.done));
            records.extend(write.records);
        }
        if records.is_empty() {
            return answers.into_iter().for_each(|(.., done)| done(Ok(Vec::new())));
        }
        match self.transact(&records) {
            Ok(mut placed) => {
                placed.drain(..of_marks);
                let answer = move || {
                    for (count, _, done) in answers {
                        done(Ok(placed.drain(..count).collect()));
                    }
                };
                // Beside the next transaction.
                self.handle.spawn_blocking(answer);
            }
            Err(Failure::Aborted(error)) if answers.is_empty() => {
                tracing::warn!(%error, "Kafka wasn't told what this process no longer does: others wait for it");
            }
            Err(Failure::Aborted(error)) if answers.len() == 1 && of_marks == 0 => {
                if let Some((.., done)) = answers.pop() {
                    done(Err(Failure::Aborted(error)));
                }
            }
            // Each for itself, so that none fails for another's sake.
            Err(Failure::Aborted(_)) => {
                self.write(records.drain(..of_marks).collect(), Vec::new());
                for (count, hold, done) in answers {
                    let records = records.drain(..count).collect();
                    self.write(Vec::new(), vec![Write { hold, records, done }]);
                }
            }
            Err(Failure::Broken(error)) => {
                for (.., done) in answers {
                    done(Err(Failure::Broken(the_same(&error))));
                }
            }
        }
    }

    fn transact(&mut self, records: &[Record]) -> Result<Vec<i64>, Failure> {
        self.turn += 1;
        let by_turns = self.transactions.as_ref().map(|(_, by_turns)| by_turns);
        let Some(transactions) = by_turns.and_then(|by_turns| by_turns.get(self.turn % by_turns.len().max(1))) else {
            return Err(Failure::Broken(Error::Closed));
        };
        let written = transactions.write(records);
        if let Err(Failure::Broken(error)) = &written {
            tracing::warn!(%error, "beginning transactions anew");
            self.session.lock().take();
            self.transactions = None;
        }
        written
    }

    fn begin(&mut self) -> Result<Arc<str>> {
        if let Some((session, _)) = &self.transactions {
            return Ok(Arc::clone(session));
        }
        let (session, transactions) = (self.open)()?;
        *self.session.lock() = Some(Arc::clone(&session));
        self.transactions = Some((Arc::clone(&session), transactions));
        Ok(session)
    }
}

fn fail(group: Vec<Write>, error: &Error) {
    for write in group {
        (write.done)(Err(Failure::Broken(the_same(error))));
    }
}

/// The error for one more of those who wait.
fn the_same(error: &Error) -> Error {
    match error {
        Error::Kafka(what) => Error::Kafka(what.clone()),
        Error::NoRight { right, on, grant } => Error::NoRight {
            right: right.clone(),
            on: on.clone(),
            grant: grant.clone(),
        },
        other => Error::Kafka(other.to_string()),
    }
}

impl Write {
    fn bytes(&self) -> usize {
        let bytes = |record: &Record| record.value.as_ref().map_or(0, bytes::Bytes::len);
        self.records.iter().map(bytes).sum()
    }
}
