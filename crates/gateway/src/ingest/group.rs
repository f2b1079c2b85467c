//! Requests whose events are stored together.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::error::ArrowError;
use headwater_event::clock::Micros;
use headwater_event::stored::Stored;
use headwater_problem::ERRORS_MAX;
use headwater_schema::dead_letter::DeadLetter;
use headwater_schema::decode::Failure;
use headwater_schema::future::{self, TooFar};
use tokio::sync::oneshot;

use crate::ingest::budget::Reservation;
use crate::ingest::error::IngestError;
use crate::ingest::{Accepted, Kept};

/// Where the answer to a request goes. Holds the request's part of the budget until then.
pub(super) struct Reply {
    pub(super) sender: Sender,
    pub(super) reservation: Reservation,
}

/// Who waits for the answer.
pub(super) enum Sender {
    Client(oneshot::Sender<Result<Accepted, IngestError>>),
    /// Another gateway, which wants to know it of each row.
    Gateway(oneshot::Sender<Result<Kept, IngestError>>),
}

/// One request of a group.
pub(super) struct Part {
    pub(super) reply: Reply,
    /// Where it came from, for dead letters.
    pub(super) source: Box<str>,
    /// How many of the group's rows are its own; the parts' rows follow each other.
    pub(super) rows: usize,
    pub(super) rejected: usize,
    pub(super) failures: Vec<Failure>,
}

/// Decoded requests, to be stored in one step.
pub(super) struct Group {
    pub(super) rows: RecordBatch,
    pub(super) parts: Vec<Part>,
    pub(super) letters: Vec<DeadLetter>,
    /// The time of ingest.
    pub(super) now: Micros,
}

impl Reply {
    pub(super) fn refuse(self, error: IngestError) {
        drop(self.reservation);
        // Nobody listens any more when the client has gone away.
        match self.sender {
            Sender::Client(client) => drop(client.send(Err(error))),
            Sender::Gateway(gateway) => drop(gateway.send(Err(error))),
        }
    }
}

impl Part {
    /// Only so many failures are told.
    pub(super) fn forget_failures(&mut self) {
        self.failures.truncate(ERRORS_MAX);
    }
}

impl Group {
    /// Takes rows out, which become letters, and failures of their requests. `rows` are those that are left.
    pub(super) fn keep_out(&mut self, rows: RecordBatch, too_far: Vec<TooFar>, stream: &str) {
        self.rows = rows;
        let mut too_far = too_far.into_iter().peekable();
        let mut first = 0;
        for part in &mut self.parts {
            let own = first..first + part.rows;
            first = own.end;
            let mut event_of = event_of(&part.failures);
            let mut failures = Vec::new();
            while let Some(TooFar { row, failure, payload }) = too_far.next_if(|row| own.contains(&row.row)) {
                let index = event_of(row - own.start);
                let failure = Failure { index, ..failure };
                self.letters.push(DeadLetter {
                    time: self.now,
                    stream: stream.to_owned(),
                    source: part.source.to_string(),
                    reason: future::REASON.to_owned(),
                    detail: format!("event {index}, {failure}"),
                    payload: Some(payload),
                });
                failures.push(failure);
            }
            drop(event_of);
            part.rows -= failures.len();
            part.rejected += failures.len();
            part.failures.append(&mut failures);
            part.failures.sort_by_key(|failure| failure.index);
            part.forget_failures();
        }
    }

    /// Whether any of it has come by another gateway: it goes no further.
    pub(super) fn is_forwarded(&self) -> bool {
        let is_of_gateway = |part: &Part| matches!(part.reply.sender, Sender::Gateway(_));
        self.parts.iter().any(is_of_gateway)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.num_rows() == 0 && self.letters.is_empty()
    }

    /// One group of several, in their order; `None` of none. If they can't be one they come back.
    pub(super) fn merge(mut groups: Vec<Self>) -> Result<Option<Self>, (Vec<Self>, ArrowError)> {
        if groups.len() <= 1 {
            return Ok(groups.pop());
        }
        let schema = groups[0].rows.schema();
        let rows = match concat_batches(&schema, groups.iter().map(|group| &group.rows)) {
            Ok(rows) => rows,
            Err(error) => return Err((groups, error)),
        };
        let mut merged = Self {
            rows,
            parts: Vec::new(),
            letters: Vec::new(),
            now: Micros::MIN,
        };
        for group in groups {
            merged.parts.extend(group.parts);
            merged.letters.extend(group.letters);
            merged.now = merged.now.max(group.now);
        }
        Ok(Some(merged))
    }

    /// Answers every request of the group. `fresh` says of each row whether it was stored; all were,
    /// where there is nothing. `stored` is where all of them are, which is as good for each as its own place: they came with one append.
    pub(super) fn answer(self, fresh: Option<&[bool]>, stored: &Stored) {
        let text: Arc<str> = stored.to_string().into();
        let mut row = 0;
        for part in self.parts {
            let own = row..row + part.rows;
            row = own.end;
            let fresh = fresh.map(|fresh| &fresh[own]);
            let duplicates = fresh.map_or(0, |fresh| fresh.iter().filter(|&&fresh| !fresh).count());
            drop(part.reply.reservation);
            // Nobody listens any more when the client has gone away.
            match part.reply.sender {
                Sender::Client(client) => drop(client.send(Ok(Accepted {
                    accepted: part.rows - duplicates,
                    duplicates,
                    rejected: part.rejected,
                    failures: part.failures,
                    stored: Arc::clone(&text),
                }))),
                Sender::Gateway(gateway) => {
                    let fresh = fresh.map_or_else(|| vec![true; part.rows], <[bool]>::to_vec);
                    let stored = stored.clone();
                    drop(gateway.send(Ok(Kept { fresh, stored })));
                }
            }
        }
    }

    pub(super) fn refuse(self, error: &IngestError) {
        for part in self.parts {
            part.reply.refuse(error.clone());
        }
    }
}

/// Which of a request's events its rows are, if asked in their order: those that failed are not among the rows.
fn event_of(failures: &[Failure]) -> impl FnMut(usize) -> usize {
    let mut failed = failures.iter().map(|failure| failure.index).peekable();
    let mut passed = 0;
    move |row| {
        while failed.next_if(|failed| *failed <= row + passed).is_some() {
            passed += 1;
        }
        row + passed
    }
}
