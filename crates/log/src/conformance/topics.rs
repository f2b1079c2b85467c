//! Topics: creating, finding, changing, deleting.

use headwater_event::offset::TopicPartition;

use super::{Backend, ids, ids_of, produced, read_all, reopened, spec};
use crate::Log;
use crate::error::{Error, Kind, Result};
use crate::topic::Cleanup;

/// Creating what is there in the same form succeeds, and what is in it stays.
pub(super) async fn creating_twice_finds_the_first<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("create-twice")?;
    log.create_topic(spec("t", 2)).await?;
    log.append(vec![produced("t", 1, [7])]).await?;
    let log = reopened(backend, log, "create-twice")?;
    let found = log.create_topic(spec("t", 2)).await?;
    assert_eq!(found.spec, spec("t", 2));
    assert_eq!(ids_of(&*log, "t", 1).await?, [7]);
    assert_eq!(log.topics().await?.len(), 1);
    Ok(())
}

/// Another schema, number of partitions or kind of cleanup is a conflict.
pub(super) async fn creating_differently_is_a_conflict<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("create-differently")?;
    log.create_topic(spec("t", 2)).await?;
    let mut other_columns = spec("t", 2);
    other_columns.schema = other_columns.schema.project(&[0, 1])?.into();
    let mut other_cleanup = spec("t", 2);
    other_cleanup.cleanup = Cleanup::Compact { key: "id".to_owned() };
    for differs in [spec("t", 3), other_columns, other_cleanup] {
        let created = log.create_topic(differs.clone()).await;
        assert_eq!(
            created.map(|_| ()).map_err(|error| error.kind()),
            Err(Kind::Conflict),
            "{differs:?}"
        );
    }
    Ok(())
}

/// Retention may differ and is taken over, over a restart too.
pub(super) async fn retention_may_be_changed<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("retention-changed")?;
    log.create_topic(spec("t", 1)).await?;
    let mut changed = spec("t", 1);
    changed.cleanup = Cleanup::Delete {
        retention_ms: Some(1000),
        retention_bytes: Some(5),
    };
    log.create_topic(changed.clone()).await?;
    let log = reopened(backend, log, "retention-changed")?;
    assert_eq!(log.topic("t").await?.map(|topic| topic.spec), Some(changed));
    Ok(())
}

pub(super) async fn a_topic_without_partitions_is_invalid<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("no-partitions")?;
    let created = log.create_topic(spec("t", 0)).await;
    assert_eq!(created.map(|_| ()).map_err(|error| error.kind()), Err(Kind::Invalid));
    Ok(())
}

/// A topic that is deleted and made again is empty and begins at 0; deleting twice succeeds.
pub(super) async fn deleting_forgets_everything<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("delete")?;
    log.create_topic(spec("t", 1)).await?;
    log.append(vec![produced("t", 0, 0..10)]).await?;
    log.delete_topic("t").await?;
    log.delete_topic("t").await?;
    assert!(log.topic("t").await?.is_none());
    log.create_topic(spec("t", 2)).await?;
    let partition = TopicPartition::new("t", 0);
    assert!(log.offsets(&partition).await?.is_empty());
    log.append(vec![produced("t", 0, [5])]).await?;
    let log = reopened(backend, log, "delete")?;
    let batches = read_all(&*log, &partition, 0).await?;
    assert_eq!(ids(&batches), [5]);
    assert_eq!(log.offsets(&partition).await?.end, batches[0].next());
    Ok(())
}

/// Topics and partitions that aren't there are named by the error.
pub(super) async fn what_is_not_there_is_unknown<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("unknown")?;
    log.create_topic(spec("t", 2)).await?;
    let unknown = TopicPartition::new("nowhere", 0);
    assert!(matches!(log.read(&unknown, 0, 1, None).await, Err(Error::UnknownTopic(name)) if name == "nowhere"));
    assert!(matches!(log.offsets(&unknown).await, Err(Error::UnknownTopic(_))));
    assert!(matches!(log.wait(&unknown, 0).await, Err(Error::UnknownTopic(_))));
    let beyond = TopicPartition::new("t", 2);
    assert!(matches!(
        log.offsets(&beyond).await,
        Err(Error::UnknownPartition {
            partition: 2,
            partitions: 2,
            ..
        })
    ));
    assert!(matches!(
        log.append(vec![produced("t", 2, [1])]).await,
        Err(Error::UnknownPartition { .. })
    ));
    Ok(())
}

/// Names of topics, owners and tables are any text.
pub(super) async fn names_may_hold_anything<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("names")?;
    for name in ["../up", "a/b", "Ünïcödé 流", "$catalog", "a.b:c*?", " ", "a\nb"] {
        log.create_topic(spec(name, 1)).await?;
        log.append(vec![produced(name, 0, [1, 2])]).await?;
        log.state(name).await?;
        log.claim(name).await?;
    }
    let log = reopened(backend, log, "names")?;
    assert_eq!(log.topics().await?.len(), 7);
    let tables = log.state_tables().await?;
    assert!(
        tables.len() == 7 && tables.iter().any(|name| name == "Ünïcödé 流"),
        "{tables:?}"
    );
    assert_eq!(ids_of(&*log, "../up", 0).await?, [1, 2]);
    Ok(())
}
