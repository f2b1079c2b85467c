//! Tasks that other processes run: what is known of them here, from what they have committed.
//!
//! It is a little behind, and that does no harm: it makes waiting for them longer, and an idle task follow them later.
//! Only for one thing it has to be exact, see [`furthest`].

use std::sync::Arc;
use std::time::Duration;

use headwater_event::clock::Micros;
use headwater_event::offset::{Offset, TopicPartition};
use headwater_log::StateTable;

use crate::error::Result;
use crate::peers::Stand;
use crate::status::TaskState;
use crate::task::{Assignment, owner, task_table, watermark_key};
use crate::time::EventTime;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Keeps the status of a stage's tasks up to date wherever they run elsewhere, and tells the ones here.
pub async fn follow(tasks: Vec<Assignment>) {
    let Some(first) = tasks.first() else { return };
    let (clock, stop) = (Arc::clone(&first.clock), first.stop.clone());
    let mut table = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = clock.sleep(LOOK_EVERY) => {}
        }
        let there = tasks
            .iter()
            .filter(|task| task.status.borrow().state == TaskState::Elsewhere);
        for task in there {
            if let Err(error) = look(task, &mut table).await {
                tracing::debug!(pipeline = &*task.pipeline, %error, "a task elsewhere can't be looked at");
            }
        }
    }
}

async fn look(task: &Assignment, opened: &mut Option<Arc<dyn StateTable>>) -> Result<()> {
    let nudge = *task.nudges.borrow();
    let table = match opened {
        Some(table) => table,
        None => opened.insert(task.log.state(&task_table(&task.pipeline, task.number)).await?),
    };
    let time = stood(task, &**table, task.partition)?;
    let input = TopicPartition::new(Arc::clone(&task.stage.input.topic), task.partition);
    let consumed = task
        .log
        .consumed(&owner(&task.pipeline, task.number, task.partition))
        .await?;
    let read = consumed.get(&input).copied();
    task.peers
        .hear(task.partition, stand(&time, read), task.clock.elapsed());
    let watermark = time.watermark();
    task.status.send_if_modified(|status| {
        // It may be here meanwhile.
        if status.state != TaskState::Elsewhere {
            return false;
        }
        let offset = read.unwrap_or(status.offset);
        if offset != status.offset {
            status.committed_at = Some(task.clock.now());
        }
        let is_new = offset != status.offset || watermark != status.watermark || nudge != status.settled;
        (status.offset, status.watermark, status.idle, status.settled) = (offset, watermark, time.told_idle(), nudge);
        is_new
    });
    Ok(())
}

/// The furthest that tasks elsewhere have brought the readers of the stage's output, all that was committed before this is called taken in.
pub async fn furthest(task: &Assignment) -> Result<Option<Micros>> {
    // Opened anew: that waits for what others have committed.
    let table = task.log.state(&task_table(&task.pipeline, task.number)).await?;
    let mut furthest = None;
    for partition in (0..task.stage.input.partitions).filter(|&partition| partition != task.partition) {
        furthest = furthest.max(stood(task, &*table, partition)?.told());
    }
    Ok(furthest)
}

/// The time of a task of the stage when it last committed.
pub fn stood(task: &Assignment, table: &dyn StateTable, partition: u32) -> Result<EventTime> {
    let mut time = EventTime::new(&task.stage.input.time);
    if let Some(stored) = table.get(&watermark_key(partition))? {
        time.decode(&stored)?;
    }
    Ok(time)
}

/// What its peers are told of a task that had this time, and had read so far, when it last committed.
pub fn stand(time: &EventTime, read: Option<Offset>) -> Stand {
    Stand {
        told: time.told(),
        idle: time.told_idle(),
        read: read.unwrap_or(0),
    }
}
