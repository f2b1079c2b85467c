//! What a task says about itself: to people, to tests, and to whoever collects metrics.

use std::sync::Arc;
use std::time::Duration;

use headwater_event::clock::Micros;
use headwater_event::offset::Offset;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::holdings::Held;

/// How a task is.
#[derive(Clone, Debug, Default)]
pub struct TaskStatus {
    pub stage: usize,
    pub partition: u32,
    pub state: TaskState,
    /// The next offset to read; what is before it is committed.
    pub offset: Offset,
    /// Offsets that were in the input and not committed yet, after the last epoch.
    pub lag: u64,
    pub watermark: Option<Micros>,
    pub idle: bool,
    pub epochs: u64,
    pub rows: u64,
    pub late_rows: u64,
    /// Batches of the input that could not be read and were left out.
    pub damaged_batches: u64,
    pub restarts: u64,
    /// When this process saw the last commit that moved it on.
    pub committed_at: Option<Micros>,
    /// The last request to look at everything again that the task has dealt with.
    pub(crate) settled: u64,
    /// What its operators held at the last such request, each; and which that was.
    pub(crate) held: Arc<[Held]>,
    pub(crate) reported: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TaskState {
    #[default]
    Starting,
    Running,
    /// Another process runs it, or will.
    Elsewhere,
    /// It tries again from its last commit.
    Failing(String),
    /// It does not try again.
    Failed(String),
    Stopped,
}

impl TaskState {
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running)
    }

    /// Whether it is expected to come further: here, or as far as is known elsewhere.
    pub fn gets_on(&self) -> bool {
        matches!(self, Self::Running | Self::Elsewhere)
    }

    pub fn has_ended(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Stopped)
    }

    /// Whether the task is not getting on.
    pub fn is_failing(&self) -> bool {
        self.has_ended() || matches!(self, Self::Failing(_))
    }
}

/// A task's metrics.
pub struct TaskMetrics {
    pub lag_rows: Gauge,
    pub watermark_delay_seconds: Gauge,
    pub rows: Counter,
    pub late_rows: Counter,
    pub rejected_rows: Counter,
    pub damaged_batches: Counter,
    pub commit_seconds: Histogram,
    pub state_bytes: Gauge,
}

impl TaskMetrics {
    pub fn new(pipeline: &Arc<str>, stage: usize, partition: u32) -> Self {
        let labels = [
            ("pipeline", pipeline.to_string()),
            ("stage", stage.to_string()),
            ("partition", partition.to_string()),
        ];
        let stage_labels = &labels[..2];
        Self {
            lag_rows: gauge!("headwater_task_lag_rows", &labels),
            watermark_delay_seconds: gauge!("headwater_task_watermark_delay_seconds", &labels),
            rows: counter!("headwater_task_rows_total", &labels),
            late_rows: counter!("headwater_late_rows_total", &labels),
            rejected_rows: counter!("headwater_rejected_rows_total", &labels),
            damaged_batches: counter!("headwater_damaged_batches_total", &labels),
            commit_seconds: histogram!("headwater_commit_seconds", stage_labels),
            state_bytes: gauge!("headwater_state_bytes", stage_labels),
        }
    }

    pub fn epoch(&self, status: &TaskStatus, rows: u64, now: Micros, took: Duration) {
        self.rows.increment(rows);
        self.commit_seconds.record(took.as_secs_f64());
        self.lag_rows.set(status.lag as f64);
        if let Some(watermark) = status.watermark {
            self.watermark_delay_seconds
                .set(now.saturating_sub(watermark) as f64 / 1e6);
        }
    }
}
