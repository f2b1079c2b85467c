//! How far a query has come with its inputs, and waiting for it.

use std::sync::Arc;

use futures::future::try_join_all;
use headwater_event::offset::{TopicPartition, behind, to_reach};
use headwater_log::Log;
use headwater_log::error::{Error, Result};
use tokio::sync::watch;

use crate::engine::{Query, Running};
use crate::plan::{Stage, TimeSource};
use crate::status::TaskStatus;

/// What of a query's inputs it has committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows that its inputs keep.
    pub rows: u64,
    /// Those of them that are still to be read.
    pub behind: u64,
}

impl Running {
    /// Returns when every task has committed all that is in its input now, through all stages,
    /// and has taken note of what time it is. A task that fails is not waited for: its status
    /// says what is the matter.
    pub async fn caught_up(&self) {
        for stage in &self.query().stages {
            // What a task commits may move an idle one, so once more until nothing moves.
            loop {
                let before = epochs(stage);
                let nudge = self.query().nudge();
                for task in stage {
                    // An error means that the task has ended, and nothing is to be waited for.
                    let settled = |status: &TaskStatus| status.settled >= nudge || status.state.is_failing();
                    let _ = task.clone().wait_for(settled).await;
                }
                if epochs(stage) == before {
                    break;
                }
            }
        }
    }

    /// Returns when every task has committed what is in its input now, and what comes of it through all stages. Unlike
    /// [`Self::caught_up`] it asks nobody to look at anything, so that waiting changes no epoch: it is for measuring.
    pub async fn passed(&self, log: &dyn Log) -> Result<()> {
        for (stage, tasks) in self.query().by_stage() {
            let passed = partitions(stage).zip(tasks).map(async |(input, task)| {
                let end = to_reach(&log.offsets(&input).await?);
                let has_passed = |status: &TaskStatus| status.offset >= end || status.state.is_failing();
                // An error means that the task has ended, and nothing is to be waited for.
                let _ = task.clone().wait_for(has_passed).await;
                Ok::<_, Error>(())
            });
            try_join_all(passed).await?;
        }
        Ok(())
    }

    /// Returns when every task has committed what its input holds now, stage after stage, however much comes
    /// meanwhile. A task that fails is waited for.
    ///
    /// With `by_time` the watermark has also come as far as that input brings it: partitions that nothing comes to
    /// any more are left out of it only once they are idle.
    pub async fn reach_end(&self, log: &dyn Log, by_time: bool) -> Result<()> {
        for (stage, tasks) in self.query().by_stage() {
            let nudge = self.query().nudge();
            let mut ends = Vec::with_capacity(tasks.len());
            for partition in partitions(stage) {
                ends.push(to_reach(&log.offsets(&partition).await?));
            }
            let tasks = || tasks.iter().zip(&ends);
            for (task, &end) in tasks() {
                when(task, |status| status.offset >= end || status.settled >= nudge).await;
            }
            if !by_time || !brings_time(stage) {
                continue;
            }
            for (task, &end) in tasks() {
                when(task, |status| status.offset > end || status.idle).await;
            }
            // Idle ones follow the others.
            let nudge = self.query().nudge();
            for (task, &end) in tasks() {
                when(task, |status| status.offset > end || status.settled >= nudge).await;
            }
        }
        Ok(())
    }

    /// Whether all tasks run and, with `by_time`, all partitions that bring the watermark are idle: a query that is
    /// so and has [`Running::caught_up`] has nothing more to wait for.
    pub fn is_at_rest(&self, by_time: bool) -> bool {
        let mut tasks = self
            .query()
            .by_stage()
            .flat_map(|(stage, tasks)| tasks.iter().map(move |task| (stage, task)));
        tasks.all(|(stage, task)| {
            let status = task.borrow();
            status.state.gets_on() && (status.idle || !by_time || !brings_time(stage))
        })
    }
}

impl Query {
    /// How far it has come with what others write.
    pub async fn progress(&self, log: &dyn Log) -> Result<Progress> {
        let stages = &self.pipeline.stages;
        let mut progress = Progress::default();
        for (stage, tasks) in self.by_stage() {
            if stages.iter().any(|other| other.output.is_to(&stage.input.topic)) {
                continue;
            }
            for (partition, task) in partitions(stage).zip(tasks) {
                let kept = log.offsets(&partition).await?;
                progress.rows += kept.end - kept.start;
                progress.behind += behind(&kept, task.borrow().offset);
            }
        }
        Ok(progress)
    }

    fn by_stage(&self) -> impl Iterator<Item = (&Stage, &Vec<watch::Receiver<TaskStatus>>)> {
        self.pipeline.stages.iter().zip(&self.stages)
    }
}

fn partitions(stage: &Stage) -> impl Iterator<Item = TopicPartition> {
    (0..stage.input.partitions).map(|partition| TopicPartition::new(Arc::clone(&stage.input.topic), partition))
}

/// Whether the rows that the stage reads say what time it is.
fn brings_time(stage: &Stage) -> bool {
    matches!(stage.input.time, TimeSource::Rows { .. })
}

/// Waits until a running task is as it should be; for ever, if it has ended.
async fn when(task: &watch::Receiver<TaskStatus>, reached: impl Fn(&TaskStatus) -> bool) {
    let running = |status: &TaskStatus| status.state.gets_on() && reached(status);
    if task.clone().wait_for(running).await.is_err() {
        std::future::pending().await
    }
}

fn epochs(stage: &[watch::Receiver<TaskStatus>]) -> u64 {
    stage.iter().map(|task| task.borrow().epochs).sum()
}
