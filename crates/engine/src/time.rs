//! Event time as a task sees it: its watermark, which rows are late, and what its peers say.
//!
//! A row is late if its time is below the watermark as it stood before the row: the greatest time
//! of the earlier rows of its partition, less the delay. Where lateness is allowed for, it is late if it is
//! further below than that. So lateness does not depend on how rows were batched. What decides it is part of the task's state and survives a restart.

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use bytes::Bytes;
use headwater_event::clock::Micros;
use headwater_event::watermark::Progress;

use crate::error::{Error, Result};
use crate::operators::windows::TIME_MAX;
use crate::plan::TimeSource;

/// Where a task stands in event time.
#[derive(Debug)]
pub enum EventTime {
    None,
    Rows(RowTime),
    Producers(ProducerTime),
}

/// Event time from the rows.
#[derive(Debug)]
pub struct RowTime {
    column: usize,
    delay: Micros,
    lateness: Micros,
    greatest: Option<Micros>,
    /// A watermark that was taken over from other partitions while this one was idle.
    floor: Option<Micros>,
    /// The readers of the output were told that the partition is idle, and don't wait for it.
    told_idle: bool,
    /// How far the readers of the output were brought by this partition. It may be behind the watermark, see [`crate::peers`].
    told: Option<Micros>,
}

/// Event time from the progress of the tasks that write the input.
#[derive(Debug)]
pub struct ProducerTime {
    last: Vec<Option<Progress>>,
    reached: Option<Micros>,
}

/// The rows of a batch, by what is to become of them.
#[derive(Debug)]
pub struct Admitted {
    pub rows: RecordBatch,
    /// Which rows of the batch these are; `None` for all of them.
    pub which: Option<Vec<u32>>,
    pub aside: Vec<SetAside>,
}

/// Rows of a batch that don't go on.
#[derive(Debug)]
pub struct SetAside {
    pub verdict: Verdict,
    pub rows: RecordBatch,
    pub which: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    InTime,
    Late,
    Null,
    OutOfRange,
}

impl EventTime {
    pub fn new(source: &TimeSource) -> Self {
        match source {
            TimeSource::None => Self::None,
            TimeSource::Rows {
                column,
                delay,
                lateness,
                ..
            } => Self::Rows(RowTime {
                column: *column,
                delay: *delay,
                lateness: *lateness,
                greatest: None,
                floor: None,
                told_idle: false,
                told: None,
            }),
            TimeSource::Producers { producers } => Self::Producers(ProducerTime {
                last: vec![None; *producers as usize],
                reached: None,
            }),
        }
    }

    pub fn watermark(&self) -> Option<Micros> {
        match self {
            Self::None => None,
            Self::Rows(rows) => rows.watermark(),
            Self::Producers(producers) => producers.reached,
        }
    }

    /// Whether the readers of the output were told that the partition is idle.
    pub fn told_idle(&self) -> bool {
        matches!(self, Self::Rows(rows) if rows.told_idle)
    }

    /// The watermark that the readers of the output know of.
    pub fn told(&self) -> Option<Micros> {
        match self {
            Self::Rows(rows) => rows.told,
            Self::None | Self::Producers(_) => self.watermark(),
        }
    }

    /// The state as it is stored; empty where there is none.
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::new();
        match self {
            Self::None => {}
            Self::Rows(rows) => {
                put(&mut bytes, rows.greatest);
                put(&mut bytes, rows.floor);
                bytes.push(u8::from(rows.told_idle));
                put(&mut bytes, rows.told);
            }
            Self::Producers(producers) => {
                put(&mut bytes, producers.reached);
                for progress in &producers.last {
                    bytes.push(u8::from(progress.is_some()));
                    bytes.push(u8::from(progress.is_some_and(|progress| progress.idle)));
                    put(&mut bytes, progress.and_then(|progress| progress.watermark));
                }
            }
        }
        bytes.into()
    }

    pub fn decode(&mut self, bytes: &[u8]) -> Result<()> {
        let mut bytes = bytes;
        let read = match self {
            Self::None => Some(()),
            Self::Rows(rows) => (|| {
                rows.greatest = take(&mut bytes)?;
                rows.floor = take(&mut bytes)?;
                // What was written by earlier versions may end here, or behind the next.
                let (told_idle, rest) = bytes.split_at_checked(1).unwrap_or((&[0], &[]));
                rows.told_idle = told_idle == [1];
                bytes = rest;
                rows.told = take(&mut bytes).unwrap_or_else(|| rows.watermark());
                Some(())
            })(),
            Self::Producers(producers) => (|| {
                producers.reached = take(&mut bytes)?;
                for (number, last) in producers.last.iter_mut().enumerate() {
                    let [seen, idle, ..] = *bytes else { return None };
                    bytes = &bytes[2..];
                    let watermark = take(&mut bytes)?;
                    *last = (seen == 1).then_some(Progress {
                        producer: number as u32,
                        watermark,
                        idle: idle == 1,
                    });
                }
                Some(())
            })(),
        };
        read.ok_or_else(|| Error::State {
            place: "the watermark".to_owned(),
            what: "it is too short".to_owned(),
        })
    }
}

impl RowTime {
    pub fn watermark(&self) -> Option<Micros> {
        let own = self.greatest.map(|greatest| greatest.saturating_sub(self.delay));
        own.max(self.floor)
    }

    /// Takes over a watermark of others.
    pub fn raise(&mut self, watermark: Micros) {
        self.floor = self.floor.max(Some(watermark));
    }

    /// The readers of the output are told now how far they may go, and perhaps that the partition is idle.
    pub fn tell(&mut self, watermark: Option<Micros>, idle: bool) {
        self.told = watermark;
        self.told_idle |= idle;
    }

    /// The readers know that it is idle no longer, and it is as far as they can be. Not before that: a task that ends in between has to
    /// begin with waking again.
    pub fn woke(&mut self) {
        self.told_idle = false;
    }

    /// Separates the rows that are late or have no time that can be computed with.
    pub fn admit(&mut self, batch: RecordBatch) -> Result<Admitted> {
        let column = batch.column(self.column);
        let times = column.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(|| {
            Error::Plan(format!(
                "the event time is a {}, not a time stamp in microseconds",
                column.data_type()
            ))
        })?;
        let mut bound = self.watermark().unwrap_or(Micros::MIN);
        let mut greatest = self.greatest.unwrap_or(Micros::MIN);
        let (delay, lateness) = (self.delay, self.lateness);
        let mut judge = |time: Micros| {
            if !(-TIME_MAX..=TIME_MAX).contains(&time) {
                return Verdict::OutOfRange;
            }
            if time < bound.saturating_sub(lateness) {
                return Verdict::Late;
            }
            if time > greatest {
                greatest = time;
                bound = bound.max(time.saturating_sub(delay));
            }
            Verdict::InTime
        };
        let mut others = Vec::new();
        if times.null_count() == 0 {
            for (row, &time) in times.values().iter().enumerate() {
                let verdict = judge(time);
                if verdict != Verdict::InTime {
                    others.push((row, verdict));
                }
            }
        } else {
            for (row, time) in times.iter().enumerate() {
                let verdict = time.map_or(Verdict::Null, &mut judge);
                if verdict != Verdict::InTime {
                    others.push((row, verdict));
                }
            }
        }
        if greatest > Micros::MIN {
            self.greatest = Some(greatest);
        }
        separate(batch, &others)
    }
}

fn separate(batch: RecordBatch, others: &[(usize, Verdict)]) -> Result<Admitted> {
    if others.is_empty() {
        return Ok(Admitted {
            rows: batch,
            which: None,
            aside: Vec::new(),
        });
    }
    let mut verdicts = vec![Verdict::InTime; batch.num_rows()];
    for &(row, verdict) in others {
        verdicts[row] = verdict;
    }
    let only = |wanted: Verdict| -> Result<SetAside> {
        let which = (0..).zip(&verdicts).filter(|(_, verdict)| **verdict == wanted);
        let which: Vec<u32> = which.map(|(row, _)| row).collect();
        Ok(SetAside {
            verdict: wanted,
            rows: take_record_batch(&batch, &UInt32Array::from(which.clone()))?,
            which,
        })
    };
    let mut aside = Vec::new();
    for verdict in [Verdict::Late, Verdict::Null, Verdict::OutOfRange] {
        aside.push(only(verdict)?);
    }
    aside.retain(|aside| !aside.which.is_empty());
    let kept = only(Verdict::InTime)?;
    Ok(Admitted {
        rows: kept.rows,
        which: Some(kept.which),
        aside,
    })
}

impl ProducerTime {
    /// Takes what a producer wrote, after the rows that it wrote with it.
    pub fn observe(&mut self, progress: Progress) {
        if let Some(last) = self.last.get_mut(progress.producer as usize) {
            *last = Some(progress);
        }
    }

    /// Applies what was observed: the least of the live producers, once all have been heard of.
    pub fn advance(&mut self) {
        let seen: Option<Vec<Progress>> = self.last.iter().copied().collect();
        if let Some(seen) = seen {
            let next = common_watermark(seen.iter().map(|progress| (progress.watermark, progress.idle)));
            self.reached = self.reached.max(next);
        }
    }
}

/// The least watermark of those that are not idle. Where all are idle, the greatest: nothing is
/// on its way that could be below it.
pub fn common_watermark(each: impl Iterator<Item = (Option<Micros>, bool)> + Clone) -> Option<Micros> {
    let mut live = each
        .clone()
        .filter(|(_, idle)| !idle)
        .map(|(watermark, _)| watermark)
        .peekable();
    if live.peek().is_some() {
        // `None` is less than any time: a live one that has seen nothing yet holds all back.
        return live.min().flatten();
    }
    each.map(|(watermark, _)| watermark).max().flatten()
}

fn put(bytes: &mut Vec<u8>, time: Option<Micros>) {
    bytes.push(u8::from(time.is_some()));
    bytes.extend_from_slice(&time.unwrap_or(0).to_be_bytes());
}

fn take(bytes: &mut &[u8]) -> Option<Option<Micros>> {
    let (head, rest) = bytes.split_at_checked(9)?;
    *bytes = rest;
    let time = Micros::from_be_bytes(head[1..].try_into().ok()?);
    Some((head[0] == 1).then_some(time))
}
