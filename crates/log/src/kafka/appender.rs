//! Appends of this process: those that wait together are one transaction, as a transaction costs the same whatever is in it.

use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};
use crate::kafka::connection::Connection;
use crate::kafka::transactions::{Failure, Record, Transactions};

/// Appends that may wait; more have to wait before they may.
const QUEUE_MAX: usize = 4096;

const GROUP_BYTES_MAX: usize = 16 << 20;

pub(super) struct Appender {
    queue: Mutex<Option<mpsc::Sender<Append>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Append {
    records: Vec<Record>,
    done: oneshot::Sender<Result<Vec<i64>>>,
}

impl Appender {
    /// Takes over the id of an earlier process, whose unfinished appends are gone. `topic` is any one that is there.
    pub fn open(connection: Connection, id: String, topic: String) -> Result<Self> {
        let open = move || Transactions::open(&connection, &id, &topic);
        let transactions = open()?;
        let (queue, appends) = mpsc::channel(QUEUE_MAX);
        let run = move || run(transactions, appends, &open);
        let thread = std::thread::Builder::new().name("log-appender".to_owned()).spawn(run);
        let thread = thread.map_err(|error| Error::Kafka(format!("no thread: {error}")))?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Writes all records or none, and answers where each stands.
    pub async fn append(&self, records: Vec<Record>) -> Result<Vec<i64>> {
        let queue = self.queue.lock().clone().ok_or(Error::Closed)?;
        let (done, answer) = oneshot::channel();
        let sent = queue.send(Append { records, done }).await;
        sent.map_err(|_| Error::Closed)?;
        drop(queue);
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Writes what is waiting, and takes no more.
    pub fn close(&self) {
        self.queue.lock().take();
        if let Some(thread) = self.thread.lock().take() {
            // It ends with the queue; what it panicked with was printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.close();
    }
}

fn run(mut transactions: Transactions, mut appends: mpsc::Receiver<Append>, open: &dyn Fn() -> Result<Transactions>) {
    while let Some(first) = appends.blocking_recv() {
        let mut bytes = bytes_of(&first);
        let mut group = vec![first];
        while bytes < GROUP_BYTES_MAX
            && let Ok(next) = appends.try_recv()
        {
            bytes += bytes_of(&next);
            group.push(next);
        }
        let counts: Vec<usize> = group.iter().map(|append| append.records.len()).collect();
        let (records, answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|append| (append.records, append.done)).unzip();
        match transactions.write(&records.concat()) {
            Ok(mut offsets) => {
                for (count, answer) in counts.into_iter().zip(answers) {
                    // Whoever isn't there any more doesn't want to know.
                    let _ = answer.send(Ok(offsets.drain(..count).collect()));
                }
            }
            Err(failure) => {
                let broken = matches!(failure, Failure::Broken(_));
                let what = failure.into_error().to_string();
                for answer in answers {
                    let _ = answer.send(Err(Error::Kafka(what.clone())));
                }
                if broken {
                    tracing::warn!(what, "beginning transactions anew");
                    match open() {
                        Ok(anew) => transactions = anew,
                        Err(error) => tracing::error!(%error, "no transactions: the next append tries again"),
                    }
                }
            }
        }
    }
}

fn bytes_of(append: &Append) -> usize {
    let bytes = |record: &Record| record.value.as_ref().map_or(0, bytes::Bytes::len);
    append.records.iter().map(bytes).sum()
}
