//! Batches: appending and reading.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::try_join_all;
use headwater_event::clock::Clock;
use headwater_event::offset::TopicPartition;
use headwater_event::watermark::Progress;

use super::{Backend, ids, ids_of, produced, read_all, reopened, rows, spec};
use crate::error::{Error, Kind, Result};
use crate::{Log, Produced};

/// Offsets of a partition increase, and those of one batch follow each other.
pub(super) async fn offsets_increase_without_overlap<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("offsets")?;
    log.create_topic(spec("t", 2)).await?;
    let first = log.append(vec![produced("t", 0, 0..3), produced("t", 1, 0..1)]).await?;
    let second = log.append(vec![produced("t", 0, 3..5), produced("t", 0, 5..6)]).await?;
    assert!(
        second[0] >= first[0] + 3 && second[1] >= second[0] + 2,
        "{first:?} {second:?}"
    );
    let log = reopened(backend, log, "offsets")?;
    let third = log.append(vec![produced("t", 0, 6..7)]).await?;
    assert!(third[0] > second[1], "{second:?} {third:?}");
    let partition = TopicPartition::new("t", 0);
    let batches = read_all(&*log, &partition, 0).await?;
    let bases: Vec<_> = batches.iter().map(|batch| batch.base).collect();
    assert_eq!(bases, [first[0], second[0], second[1], third[0]]);
    assert_eq!(ids(&batches), (0..7).collect::<Vec<_>>());
    let ends = log.offsets(&partition).await?;
    assert!(ends.start <= first[0] && ends.end > third[0]);
    Ok(())
}

/// Rows, NULLs, progress and the time of the append come back as they were, over a restart too.
pub(super) async fn what_was_appended_comes_back<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("round-trip")?;
    log.create_topic(spec("t", 1)).await?;
    let partition = TopicPartition::new("t", 0);
    let progress = Progress {
        producer: 3,
        watermark: Some(-5),
        idle: true,
    };
    // The second is a slice, and large enough that it pays to compress it.
    let appended = [rows(0..10), rows(0..5000).slice(100, 4000)];
    for rows in &appended {
        let batch = Produced {
            partition: partition.clone(),
            rows: rows.clone(),
            progress: Some(progress),
        };
        log.append(vec![batch]).await?;
    }
    let at = backend.clock().now();
    let log = reopened(backend, log, "round-trip")?;
    let batches = read_all(&*log, &partition, 0).await?;
    assert_eq!(batches.len(), 2);
    for (batch, rows) in batches.iter().zip(appended) {
        assert_eq!(batch.rows, rows);
        assert_eq!(batch.progress, Some(progress));
        // Not every back end is more precise.
        assert_eq!(batch.appended / 1000, at / 1000);
    }
    Ok(())
}

/// Rows before `from` in the first batch are left out.
pub(super) async fn reading_starts_in_the_middle_of_a_batch<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("middle")?;
    log.create_topic(spec("t", 1)).await?;
    let bases = log
        .append(vec![produced("t", 0, 0..10), produced("t", 0, 10..20)])
        .await?;
    let partition = TopicPartition::new("t", 0);
    for _ in 0..2 {
        let from = bases[0] + 4;
        let batches = read_all(&*log, &partition, from).await?;
        assert_eq!(batches[0].base, from);
        assert_eq!(ids(&batches), (4..20).collect::<Vec<_>>());
        let batches = read_all(&*log, &partition, bases[1] + 9).await?;
        assert_eq!(ids(&batches), [19]);
    }
    let log = reopened(backend, log, "middle")?;
    let batches = read_all(&*log, &partition, bases[1] + 3).await?;
    assert_eq!((batches[0].base, ids(&batches)), (bases[1] + 3, (13..20).collect()));
    let beyond = log.offsets(&partition).await?.end + 1000;
    assert!(log.read(&partition, beyond, 1, None).await?.is_empty());
    Ok(())
}

/// At least one batch, and none after the bytes are passed.
pub(super) async fn reading_stops_after_bytes_max<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("bytes-max")?;
    log.create_topic(spec("t", 1)).await?;
    for batch in 0..20 {
        log.append(vec![produced("t", 0, batch * 100..batch * 100 + 100)])
            .await?;
    }
    let log = reopened(backend, log, "bytes-max")?;
    let partition = TopicPartition::new("t", 0);
    assert_eq!(log.read(&partition, 0, 0, None).await?.len(), 1);
    let some = log.read(&partition, 0, 10_000, None).await?.len();
    assert!((2..20).contains(&some), "{some} batches");
    assert_eq!(log.read(&partition, 0, usize::MAX, None).await?.len(), 20);
    Ok(())
}

/// The selected columns, with the rest of the batch as it was.
pub(super) async fn columns_are_selected<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("columns")?;
    log.create_topic(spec("t", 1)).await?;
    log.append(vec![produced("t", 0, 0..3000)]).await?;
    let partition = TopicPartition::new("t", 0);
    let check = async |log: &B::Log| -> Result<()> {
        for columns in [vec![0, 2], vec![1], vec![0, 1, 2], vec![]] {
            let read = log.read(&partition, 10, usize::MAX, Some(&columns)).await?;
            assert_eq!(read[0].rows, rows(10..3000).project(&columns)?, "{columns:?}");
        }
        Ok(())
    };
    check(&log).await?;
    let log = reopened(backend, log, "columns")?;
    check(&log).await
}

pub(super) async fn columns_out_of_order_are_invalid<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("columns-invalid")?;
    log.create_topic(spec("t", 1)).await?;
    log.append(vec![produced("t", 0, 0..3)]).await?;
    let partition = TopicPartition::new("t", 0);
    for columns in [vec![1, 0], vec![0, 0], vec![3]] {
        let read = log.read(&partition, 0, 1, Some(&columns)).await;
        assert_eq!(
            read.map(|_| ()).map_err(|error| error.kind()),
            Err(Kind::Invalid),
            "{columns:?}"
        );
    }
    Ok(())
}

/// A batch without rows takes one offset, so that its reader gets past it.
pub(super) async fn progress_alone_takes_one_offset<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("progress")?;
    log.create_topic(spec("t", 1)).await?;
    let partition = TopicPartition::new("t", 0);
    let progress = Some(Progress {
        producer: 0,
        watermark: None,
        idle: false,
    });
    let alone = Produced {
        partition: partition.clone(),
        rows: rows([]),
        progress,
    };
    let bases = log.append(vec![alone.clone(), produced("t", 0, [1]), alone]).await?;
    let log = reopened(backend, log, "progress")?;
    let batches = read_all(&*log, &partition, 0).await?;
    assert_eq!(batches.len(), 3);
    assert_eq!(batches[1].base, bases[1]);
    assert_eq!(batches[0].next(), bases[0] + 1);
    assert_eq!(
        (batches[0].progress, batches[1].progress, batches[2].progress),
        (progress, None, progress)
    );
    assert_eq!(log.offsets(&partition).await?.end, batches[2].next());
    Ok(())
}

/// Rows in another schema are refused; the same columns with other metadata are not.
pub(super) async fn rows_must_fit_the_schema<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("schema")?;
    log.create_topic(spec("t", 1)).await?;
    let mut wrong = produced("t", 0, [1]);
    wrong.rows = wrong.rows.project(&[0, 2])?;
    let appended = log.append(vec![produced("t", 0, [0]), wrong]).await;
    assert!(matches!(appended, Err(Error::SchemaDiffers { .. })), "{appended:?}");
    assert_eq!(ids_of(&*log, "t", 0).await?, [0_i64; 0]);
    let mut marked = produced("t", 0, [1]);
    let with_metadata = marked
        .rows
        .schema()
        .as_ref()
        .clone()
        .with_metadata([("a".into(), "b".into())].into());
    marked.rows = marked.rows.with_schema(with_metadata.into())?;
    log.append(vec![marked]).await?;
    assert_eq!(ids_of(&*log, "t", 0).await?, [1]);
    Ok(())
}

/// One append over several topics is there in all of them, or in none.
pub(super) async fn appending_to_several_topics_is_atomic<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("several")?;
    log.create_topic(spec("a", 1)).await?;
    log.create_topic(spec("b", 2)).await?;
    log.append(vec![produced("a", 0, [1]), produced("b", 1, [2])]).await?;
    let failed = log.append(vec![produced("a", 0, [3]), produced("c", 0, [4])]).await;
    assert!(matches!(failed, Err(Error::UnknownTopic(_))));
    let log = reopened(backend, log, "several")?;
    assert_eq!(ids_of(&*log, "a", 0).await?, [1]);
    assert_eq!(ids_of(&*log, "b", 1).await?, [2]);
    assert!(log.append(Vec::new()).await?.is_empty());
    Ok(())
}

/// The first batch appended at a time or later; the end where there is none.
pub(super) async fn time_finds_its_batch<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("time")?;
    log.create_topic(spec("t", 1)).await?;
    let partition = TopicPartition::new("t", 0);
    let start = backend.clock().now();
    assert_eq!(
        log.offset_at(&partition, start).await?,
        log.offsets(&partition).await?.end
    );
    let mut bases = Vec::new();
    for batch in 0..20_i64 {
        // Batches of different sizes, and two of each time.
        let ids = 0..1 + batch * 7 % 40;
        bases.extend(
            log.append(vec![produced("t", 0, ids.clone()), produced("t", 0, ids)])
                .await?,
        );
        backend.clock().advance(Duration::from_secs(10));
    }
    let log = reopened(backend, log, "time")?;
    let second = 1_000_000;
    assert_eq!(log.offset_at(&partition, start - second).await?, bases[0]);
    for (append, base) in bases.iter().step_by(2).enumerate() {
        let at = start + append as i64 * 10 * second;
        assert_eq!(log.offset_at(&partition, at).await?, *base);
        assert_eq!(log.offset_at(&partition, at - 1).await?, *base);
        assert_eq!(log.offset_at(&partition, at - 9 * second).await?, *base);
    }
    let end = log.offsets(&partition).await?.end;
    assert_eq!(log.offset_at(&partition, start + 1000 * second).await?, end);
    Ok(())
}

/// Everything that many tasks append at once is there once, in the order of each task.
pub(super) async fn many_writers_lose_and_double_nothing<B: Backend>(backend: &B) -> Result<()> {
    const WRITERS: i64 = 16;
    const APPENDS: i64 = 25;
    let log = backend.open("writers")?;
    log.create_topic(spec("t", 2)).await?;
    let writer = |writer: i64| {
        let log = log.clone();
        async move {
            for append in 0..APPENDS {
                let id = writer * 1000 + append * 2;
                let partition = (append % 2) as u32;
                log.append(vec![produced("t", partition, id..id + 2)]).await?;
            }
            Ok::<_, Error>(())
        }
    };
    try_join_all((0..WRITERS).map(writer)).await?;
    let log = reopened(backend, log, "writers")?;
    let mut seen = HashSet::new();
    for partition in 0..2 {
        let batches = read_all(&*log, &TopicPartition::new("t", partition), 0).await?;
        assert!(batches.windows(2).all(|pair| pair[0].next() <= pair[1].base));
        let ids = ids(&batches);
        for writer in 0..WRITERS {
            let own: Vec<_> = ids.iter().filter(|&&id| id / 1000 == writer).collect();
            assert!(own.is_sorted(), "the appends of one task are out of order: {own:?}");
        }
        seen.extend(ids.iter().copied());
        assert_eq!(
            ids.len() as i64,
            WRITERS * APPENDS + if partition == 0 { WRITERS } else { -WRITERS }
        );
    }
    assert_eq!(seen.len() as i64, WRITERS * APPENDS * 2);
    Ok(())
}
