//! Waiting for batches, and giving up on it.

use std::pin::pin;
use std::sync::Arc;

use futures::poll;
use headwater_event::offset::TopicPartition;

use super::{Backend, ids, ids_of, produced, spec};
use crate::cursor::Cursor;
use crate::error::Result;
use crate::{Log, LoggedBatch};

pub(super) async fn waiting_ends_when_something_comes<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("wait")?;
    log.create_topic(spec("t", 1)).await?;
    let partition = TopicPartition::new("t", 0);
    for round in 0..50 {
        let at = log.offsets(&partition).await?.end;
        let mut waiting = pin!(log.wait(&partition, at));
        assert!(poll!(&mut waiting).is_pending(), "there is nothing to wait for at {at}");
        let append = log.append(vec![produced("t", 0, [round])]);
        let (waited, appended) = futures::join!(waiting, append);
        waited?;
        let read = log.read(&partition, at, 1, None).await?;
        assert_eq!((read[0].base, ids(&read)), (appended?[0], vec![round]));
    }
    Ok(())
}

pub(super) async fn waiting_ends_at_once_when_something_is_there<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("wait-not")?;
    log.create_topic(spec("t", 1)).await?;
    log.append(vec![produced("t", 0, 0..10)]).await?;
    let partition = TopicPartition::new("t", 0);
    log.wait(&partition, 0).await?;
    log.wait(&partition, 9).await
}

pub(super) async fn a_cancelled_wait_does_no_harm<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("wait-cancelled")?;
    log.create_topic(spec("t", 1)).await?;
    let partition = TopicPartition::new("t", 0);
    for _ in 0..100 {
        let mut waiting = pin!(log.wait(&partition, 0));
        assert!(poll!(&mut waiting).is_pending());
    }
    let (waited, appended) = futures::join!(log.wait(&partition, 0), log.append(vec![produced("t", 0, [1])]));
    appended?;
    waited
}

/// Whatever a cancelled call of a cursor had read is read by the next one.
pub(super) async fn a_cancelled_cursor_loses_nothing<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("cursor")?;
    log.create_topic(spec("t", 1)).await?;
    let partition = TopicPartition::new("t", 0);
    let mut cursor = Cursor::new(log.clone() as Arc<dyn Log>, partition, 0, None);
    let mut seen: Vec<LoggedBatch> = Vec::new();
    for round in 0..50 {
        {
            let mut next = pin!(cursor.next(1));
            if let std::task::Poll::Ready(read) = poll!(&mut next) {
                seen.extend(read?);
            }
        }
        log.append(vec![produced("t", 0, [round * 2]), produced("t", 0, [round * 2 + 1])])
            .await?;
    }
    while seen.len() < 100 {
        seen.extend(cursor.next(1).await?);
    }
    assert_eq!(ids(&seen), (0..100).collect::<Vec<_>>());
    assert_eq!(Some(cursor.position()), seen.last().map(LoggedBatch::next));
    assert!(cursor.try_next(1).await?.is_empty());
    Ok(())
}

pub(super) async fn deleting_the_topic_ends_the_wait<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("wait-deleted")?;
    log.create_topic(spec("t", 1)).await?;
    let partition = TopicPartition::new("t", 0);
    let (waited, deleted) = futures::join!(log.wait(&partition, 0), log.delete_topic("t"));
    deleted?;
    assert!(waited.is_err(), "the wait for a deleted topic has ended well");
    Ok(())
}

/// A cancelled append of two batches leaves both or none.
pub(super) async fn a_cancelled_append_is_whole_or_not_there<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("append-cancelled")?;
    log.create_topic(spec("t", 2)).await?;
    for round in 0..20 {
        let mut append = pin!(log.append(vec![produced("t", 0, [round]), produced("t", 1, [round])]));
        let _ = poll!(&mut append);
    }
    // Comes after all of them.
    log.append(vec![produced("t", 0, [100]), produced("t", 1, [100])])
        .await?;
    assert_eq!(ids_of(&*log, "t", 0).await?, ids_of(&*log, "t", 1).await?);
    Ok(())
}
