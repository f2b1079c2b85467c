//! Commits: claims, consumed offsets, state.

use std::sync::Arc;

use bytes::Bytes;
use headwater_event::offset::TopicPartition;

use super::{Backend, ids, ids_of, produced, read_all, reopened, spec};
use crate::error::{Error, Kind, Result};
use crate::{Commit, Log, StateTable, StateWrite};

fn write<const N: usize>(table: &str, entries: [(&'static str, Option<&'static str>); N]) -> StateWrite {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    StateWrite {
        table: table.into(),
        entries: entries
            .into_iter()
            .map(|(key, value)| (bytes(key), value.map(bytes)))
            .collect(),
    }
}

fn state(writes: Vec<StateWrite>) -> Commit {
    Commit {
        state: writes,
        ..Commit::default()
    }
}

fn all(table: &Arc<dyn StateTable>) -> Result<Vec<(Bytes, Bytes)>> {
    table.scan(b"").collect()
}

fn texts(entries: &[(Bytes, Bytes)]) -> Vec<(&str, &str)> {
    let text = |bytes| std::str::from_utf8(bytes).unwrap_or("not text");
    entries.iter().map(|(key, value)| (text(key), text(value))).collect()
}

/// Rows, consumed offsets and state of a commit are there together when it has returned, and
/// after a restart.
pub(super) async fn a_commit_shows_everything_together<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("commit")?;
    log.create_topic(spec("in", 1)).await?;
    log.create_topic(spec("out", 2)).await?;
    let input = TopicPartition::new("in", 0);
    let table = log.state("s").await?;
    let claim = log.claim("task").await?;
    assert!(claim.consumed.is_empty());
    let commit = Commit {
        consumed: vec![(input.clone(), 17)],
        produced: vec![produced("out", 0, [1, 2]), produced("out", 1, [3])],
        state: vec![
            write("s", [("a", Some("1"))]),
            write("made on the way", [("b", Some("2"))]),
        ],
    };
    let bases = log.commit(&claim, commit).await?;
    assert_eq!(table.get(b"a")?.as_deref(), Some(&b"1"[..]));
    drop(table);
    let log = reopened(backend, log, "commit")?;
    for (number, (base, written)) in bases.into_iter().zip([&[1, 2][..], &[3]]).enumerate() {
        let batches = read_all(&*log, &TopicPartition::new("out", number as u32), 0).await?;
        assert_eq!((batches[0].base, ids(&batches)), (base, written.to_vec()));
    }
    assert_eq!(texts(&all(&log.state("s").await?)?), [("a", "1")]);
    assert_eq!(texts(&all(&log.state("made on the way").await?)?), [("b", "2")]);
    assert_eq!(log.claim("task").await?.consumed, [(input, 17)].into());
    Ok(())
}

/// Whoever sees how far an owner is finds all that came of it, while others commit to the same partition.
pub(super) async fn what_was_consumed_has_its_output<B: Backend>(backend: &B) -> Result<()> {
    const COMMITS: u64 = 60;
    let log = backend.open("settled")?;
    log.create_topic(spec("in", 1)).await?;
    log.create_topic(spec("out", 1)).await?;
    let (input, output) = (TopicPartition::new("in", 0), TopicPartition::new("out", 0));
    let work = async |owner: &str| {
        let claim = log.claim(owner).await?;
        for number in 1..=COMMITS {
            let commit = Commit {
                consumed: vec![(input.clone(), number)],
                produced: vec![produced("out", 0, [1])],
                state: Vec::new(),
            };
            let placed = log.commit(&claim, commit).await?;
            assert!(log.known_end(&output) > placed[0]);
        }
        Ok::<_, Error>(())
    };
    let look = async {
        let mut consumed = 0;
        while consumed < COMMITS {
            consumed = log.consumed("one").await?.get(&input).copied().unwrap_or_default();
            let end = log.settled(&output).await?.end;
            let rows: usize = read_all(&*log, &output, 0)
                .await?
                .iter()
                .filter(|batch| batch.base < end)
                .map(|batch| batch.rows.num_rows())
                .sum();
            assert!(rows as u64 >= consumed, "{rows} rows of {consumed} commits");
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    futures::try_join!(work("one"), work("other"), look)?;
    Ok(())
}

/// Whoever claimed last may commit; the earlier one is told so, and changes nothing.
pub(super) async fn a_later_claim_fences_the_earlier<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("fence")?;
    log.create_topic(spec("t", 1)).await?;
    let earlier = log.claim("task").await?;
    let other = log.claim("other").await?;
    let later = log.claim("task").await?;
    assert!(later.token > earlier.token);
    let table = log.state("s").await?;
    let commit = |id| Commit {
        consumed: vec![(TopicPartition::new("t", 0), 99)],
        produced: vec![produced("t", 0, [id])],
        state: vec![write("s", [("a", Some("fenced"))])],
    };
    let fenced = log.commit(&earlier, commit(1)).await;
    assert_eq!(fenced.as_ref().map_err(Error::kind), Err(Kind::Conflict));
    assert!(ids_of(&*log, "t", 0).await?.is_empty());
    assert!(all(&table)?.is_empty());
    assert!(all(&log.state("s").await?)?.is_empty());
    log.commit(&other, commit(2)).await?;
    log.commit(&later, commit(3)).await?;
    assert_eq!(ids_of(&*log, "t", 0).await?, [2, 3]);
    Ok(())
}

/// A commit that can't be written as a whole is not written in part, and neither are its
/// neighbours harmed.
pub(super) async fn a_failed_commit_changes_nothing<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("commit-failed")?;
    log.create_topic(spec("t", 1)).await?;
    let claim = log.claim("task").await?;
    let table = log.state("s").await?;
    let bad = Commit {
        consumed: vec![(TopicPartition::new("t", 0), 1)],
        produced: vec![produced("t", 0, [1]), produced("t", 7, [2])],
        state: vec![write("s", [("a", Some("1"))])],
    };
    let good = log.append(vec![produced("t", 0, [5])]);
    let (failed, appended) = futures::join!(log.commit(&claim, bad), good);
    assert_eq!(failed.as_ref().map_err(Error::kind), Err(Kind::Invalid));
    appended?;
    assert!(all(&table)?.is_empty());
    drop(table);
    let log = reopened(backend, log, "commit-failed")?;
    assert_eq!(ids_of(&*log, "t", 0).await?, [5]);
    assert!(all(&log.state("s").await?)?.is_empty());
    assert!(log.claim("task").await?.consumed.is_empty());
    Ok(())
}

/// Each owner has its own offsets; a commit changes those that it names; a deleted topic's are gone.
pub(super) async fn consumed_offsets_are_kept_per_owner<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("consumed")?;
    log.create_topic(spec("t", 3)).await?;
    log.create_topic(spec("u", 1)).await?;
    let partition = |number| TopicPartition::new("t", number);
    let commit = |consumed: Vec<_>| Commit {
        consumed,
        ..Commit::default()
    };
    let a = log.claim("a").await?;
    let ab = log.claim("ab").await?;
    log.commit(
        &a,
        commit(vec![
            (partition(0), 1),
            (partition(1), 2),
            (TopicPartition::new("u", 0), 9),
        ]),
    )
    .await?;
    log.commit(&ab, commit(vec![(partition(0), 3)])).await?;
    log.commit(&a, commit(vec![(partition(1), 4)])).await?;
    log.delete_topic("u").await?;
    assert_eq!(log.consumed("ab").await?, [(partition(0), 3)].into());
    assert!(log.consumed("never seen").await?.is_empty());
    let log = reopened(backend, log, "consumed")?;
    assert_eq!(log.consumed("a").await?, [(partition(0), 1), (partition(1), 4)].into());
    assert_eq!(
        log.claim("a").await?.consumed,
        [(partition(0), 1), (partition(1), 4)].into()
    );
    assert_eq!(log.claim("ab").await?.consumed, [(partition(0), 3)].into());
    Ok(())
}

/// Releasing forgets what was consumed, and fences whoever still works in the owner's name.
pub(super) async fn a_released_owner_starts_anew<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("release")?;
    log.create_topic(spec("t", 1)).await?;
    let claim = log.claim("task").await?;
    let commit = Commit {
        consumed: vec![(TopicPartition::new("t", 0), 5)],
        ..Commit::default()
    };
    log.commit(&claim, commit.clone()).await?;
    log.release("task").await?;
    log.release("never seen").await?;
    assert_eq!(
        log.commit(&claim, commit).await.map_err(|error| error.kind()),
        Err(Kind::Conflict)
    );
    let log = reopened(backend, log, "release")?;
    let again = log.claim("task").await?;
    assert!(again.consumed.is_empty() && again.token > claim.token);
    Ok(())
}

/// The last entry of a key wins, within one commit and over several that are waiting together.
pub(super) async fn the_last_value_of_a_key_wins<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("last-wins")?;
    let claim = log.claim("task").await?;
    let within = write(
        "s",
        [
            ("a", Some("1")),
            ("b", Some("1")),
            ("a", None),
            ("a", Some("2")),
            ("b", None),
        ],
    );
    log.commit(&claim, state(vec![within])).await?;
    assert_eq!(texts(&all(&log.state("s").await?)?), [("a", "2")]);
    let (first, second, third) = futures::join!(
        log.commit(&claim, state(vec![write("s", [("c", Some("1"))])])),
        log.commit(&claim, state(vec![write("s", [("c", None), ("d", Some("1"))])])),
        log.commit(&claim, state(vec![write("s", [("d", Some("2"))])])),
    );
    first?;
    second?;
    third?;
    let log = reopened(backend, log, "last-wins")?;
    assert_eq!(texts(&all(&log.state("s").await?)?), [("a", "2"), ("d", "2")]);
    Ok(())
}

/// A key that is too long is refused, and the next commit is as good as ever.
pub(super) async fn a_key_has_a_limit<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("long-key")?;
    let claim = log.claim("task").await?;
    let table = log.state("s").await?;
    let long = StateWrite {
        table: "s".into(),
        entries: [(Bytes::from(vec![b'k'; 1 << 17]), None)].into(),
    };
    let refused = log.commit(&claim, state(vec![long])).await;
    assert_eq!(refused.map_err(|error| error.kind()), Err(Kind::Invalid));
    log.commit(&claim, state(vec![write("s", [("a", Some("1"))])])).await?;
    assert_eq!(texts(&all(&table)?), [("a", "1")]);
    Ok(())
}

/// Scans are in the order of the keys' bytes; an empty key is a key.
pub(super) async fn state_is_read_in_order<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("state-order")?;
    let claim = log.claim("task").await?;
    let entries = [
        ("b", Some("4")),
        ("", Some("0")),
        ("ab", Some("2")),
        ("a", Some("1")),
        ("b\u{0}", Some("5")),
    ];
    log.commit(
        &claim,
        state(vec![write("s", entries), write("other", [("aa", Some("x"))])]),
    )
    .await?;
    let log = reopened(backend, log, "state-order")?;
    let table = log.state("s").await?;
    assert_eq!(
        texts(&all(&table)?),
        [("", "0"), ("a", "1"), ("ab", "2"), ("b", "4"), ("b\u{0}", "5")]
    );
    let prefixed: Vec<_> = table.scan(b"a").collect::<Result<_>>()?;
    assert_eq!(texts(&prefixed), [("a", "1"), ("ab", "2")]);
    let from: Vec<_> = table.scan_from(b"aa").collect::<Result<_>>()?;
    assert_eq!(texts(&from), [("ab", "2"), ("b", "4"), ("b\u{0}", "5")]);
    let keys = ["b", "nothing", "", "a"].map(|key| Bytes::from_static(key.as_bytes()));
    let values = table.get_many(&keys)?;
    let values: Vec<_> = values.iter().map(Option::as_deref).collect();
    assert_eq!(values, [Some(&b"4"[..]), None, Some(b"0"), Some(b"1")]);
    Ok(())
}

/// A scan that has begun doesn't see later commits.
pub(super) async fn a_scan_sees_one_instant<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("scan")?;
    let claim = log.claim("task").await?;
    log.commit(&claim, state(vec![write("s", [("a", Some("1")), ("b", Some("1"))])]))
        .await?;
    let table = log.state("s").await?;
    let scan = table.scan(b"");
    log.commit(
        &claim,
        state(vec![write("s", [("a", None), ("b", Some("2")), ("c", Some("2"))])]),
    )
    .await?;
    let before: Vec<_> = scan.collect::<Result<_>>()?;
    assert_eq!(texts(&before), [("a", "1"), ("b", "1")]);
    assert_eq!(texts(&all(&table)?), [("b", "2"), ("c", "2")]);
    Ok(())
}

pub(super) async fn a_deleted_state_table_is_empty_when_it_is_made_again<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("state-deleted")?;
    let claim = log.claim("task").await?;
    log.commit(&claim, state(vec![write("s", [("a", Some("1"))])])).await?;
    log.delete_state("s").await?;
    log.delete_state("s").await?;
    assert!(log.state_tables().await?.is_empty());
    assert!(all(&log.state("s").await?)?.is_empty());
    log.commit(&claim, state(vec![write("s", [("b", Some("2"))])])).await?;
    let log = reopened(backend, log, "state-deleted")?;
    assert_eq!(texts(&all(&log.state("s").await?)?), [("b", "2")]);
    Ok(())
}

/// A claim is newer than all before it, and they are of no more use.
pub(super) async fn tokens_increase_over_a_restart<B: Backend>(backend: &B) -> Result<()> {
    let log = backend.open("tokens")?;
    let before = log.claim("task").await?;
    let log = reopened(backend, log, "tokens")?;
    let after = log.claim("task").await?;
    assert!(after.token > before.token);
    assert!(log.commit(&before, Commit::default()).await.is_err());
    Ok(())
}
