//! Rows of random keys, with commits and restarts, against a map.

use std::collections::BTreeMap;

use headwater_event::clock::ManualClock;
use headwater_log::memory::MemoryLog;
use headwater_log::{Commit, Log, StateWrite};

use super::*;

const PARTITION: u32 = 3;

async fn opened(log: &dyn Log) -> [Added; 2] {
    let table = log.state("rows").await.unwrap();
    [0, 1].map(|side| {
        let mut added = Added::new(side);
        added.restore(&table, PARTITION).unwrap();
        added
    })
}

async fn commit(log: &dyn Log, sides: &mut [Added; 2], bytes_max: usize) {
    let mut changes = StateChanges {
        partition: PARTITION,
        entries: Vec::new(),
    };
    for side in sides {
        side.take_changes(bytes_max, &mut changes).unwrap();
    }
    let state = vec![StateWrite {
        table: "rows".into(),
        entries: changes.entries.into(),
    }];
    let claim = log.claim("owner").await.unwrap();
    let commit = Commit {
        state,
        ..Commit::default()
    };
    log.commit(&claim, commit).await.unwrap();
}

fn found(added: &mut Added, keys: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    let groups = added.find(&keys).unwrap();
    let rows = groups.into_iter().map(|group| {
        let mut rows: Vec<Vec<u8>> = match group {
            Some(group) => added.rows(group).map(<[u8]>::to_vec).collect(),
            None => Vec::new(),
        };
        rows.sort();
        rows
    });
    rows.collect()
}

/// The next of a sequence of numbers that look random.
fn next(seed: &mut u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

fn one_in(count: u64, seed: &mut u64) -> bool {
    next(seed).is_multiple_of(count)
}

/// Rows of these keys, half of them of the first one if it is hot, looked up in between. What is in the table at last.
async fn play(seed: u64, keys: u64, rows: usize, bytes_max: usize, is_hot: bool) -> (u64, usize) {
    let log = MemoryLog::new(ManualClock::new(0));
    let mut sides = opened(&*log).await;
    let mut expected = [BTreeMap::new(), BTreeMap::new()];
    let mut random = seed;
    let key = |number: u64| format!("key {number}").into_bytes();
    for number in 0..rows {
        let side = usize::from(one_in(4, &mut random));
        let of = match is_hot && one_in(2, &mut random) {
            true => 0,
            false => next(&mut random) % keys,
        };
        let row = format!("{number} {}", "row ".repeat((next(&mut random) % 20) as usize)).into_bytes();
        sides[side].add(&key(of), &row);
        expected[side].entry(key(of)).or_insert_with(Vec::new).push(row);
        if one_in(100, &mut random) {
            commit(&*log, &mut sides, bytes_max).await;
        }
        if one_in(2_000, &mut random) {
            commit(&*log, &mut sides, bytes_max).await;
            sides = opened(&*log).await;
        }
        if one_in(50, &mut random) {
            let side = (next(&mut random) % 2) as usize;
            let mut asked: Vec<_> = (0..10).map(|_| key(next(&mut random) % keys)).collect();
            asked.sort();
            asked.dedup();
            for (key, rows) in asked.iter().zip(found(&mut sides[side], &asked)) {
                assert_rows(&expected[side], key, rows, seed);
            }
        }
    }
    commit(&*log, &mut sides, bytes_max).await;
    let mut sides = opened(&*log).await;
    let asked: Vec<_> = (0..keys + 10).map(key).collect();
    for (side, expected) in sides.iter_mut().zip(&expected) {
        assert_eq!(side.len(), expected.values().map(|rows| rows.len() as u64).sum::<u64>());
        for (key, rows) in asked.iter().zip(found(side, &asked)) {
            assert_rows(expected, key, rows, seed);
        }
    }
    let entries = log.state("rows").await.unwrap().scan(&[]).count();
    (sides[0].buckets.count, entries)
}

fn assert_rows(expected: &BTreeMap<Vec<u8>, Vec<Vec<u8>>>, key: &[u8], rows: Vec<Vec<u8>>, seed: u64) {
    let mut expected = expected.get(key).cloned().unwrap_or_default();
    expected.sort();
    assert_eq!(rows, expected, "of {} with seed {seed}", String::from_utf8_lossy(key));
}

#[tokio::test]
async fn rows_are_found_wherever_they_are() {
    for seed in 0..6 {
        for (keys, bytes_max) in [
            (5, 20_000),
            (300, 0),
            (300, 60_000),
            (5_000, 200_000),
            (5_000, usize::MAX),
        ] {
            play(seed, keys, 8_000, bytes_max, seed % 2 == 0).await;
        }
    }
}

#[tokio::test]
async fn many_rows_are_few_entries() {
    let (buckets, entries) = play(1, 20_000, 40_000, 400_000, false).await;
    assert!((20..200).contains(&buckets), "{buckets}");
    assert!(entries < 4_000, "{entries}");
    let (buckets, _) = play(1, 20_000, 10_000, 100_000_000, false).await;
    assert_eq!(buckets, 0);
}

#[tokio::test]
async fn what_one_key_brings_at_once_is_cut() {
    let log = MemoryLog::new(ManualClock::new(0));
    let mut sides = opened(&*log).await;
    let rows = (0..3_000u32).map(|number| [&number.to_be_bytes()[..], &[7; 1_500]].concat());
    let rows: Vec<_> = rows.collect();
    rows.iter().for_each(|row| sides[0].add(b"key", row));
    commit(&*log, &mut sides, 0).await;
    sides[0].add(b"other", b"row");
    commit(&*log, &mut sides, 0).await;
    let mut sides = opened(&*log).await;
    let longest = log.state("rows").await.unwrap().scan(&[]);
    assert!(longest.map(|entry| entry.unwrap().1.len()).max() < Some(2 << 20));
    assert_eq!(sides[0].buckets.count, 1);
    let found = found(&mut sides[0], &[b"key".to_vec(), b"other".to_vec()]);
    assert_eq!(found, [rows, vec![b"row".to_vec()]]);
}

/// Without which a key that is in half of all rows would make its bucket slow for all others.
#[tokio::test]
async fn the_rows_of_a_hot_key_are_apart() {
    let log = MemoryLog::new(ManualClock::new(0));
    let mut sides = opened(&*log).await;
    for number in 0..30_000u64 {
        let key = if number % 2 == 0 { 0 } else { number }.to_be_bytes();
        sides[0].add(&key, &[7; 60]);
        if number % 100 == 0 {
            commit(&*log, &mut sides, 1_000_000).await;
        }
    }
    let table = log.state("rows").await.unwrap();
    let longest = table.scan(&sides[0].names.of(Kind::Bucket, &[]));
    let longest = longest.map(|entry| entry.unwrap().1.len()).max();
    assert!(longest.is_some_and(|bytes| bytes < 100_000), "{longest:?}");
    assert!(table.scan(&sides[0].names.of(Kind::Apart, &[])).count() > 0);
}
