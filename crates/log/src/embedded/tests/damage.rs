//! Damaged files, full disks, directories in use: what the module promises.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use headwater_event::clock::ManualClock;
use headwater_event::offset::TopicPartition;

use super::{NOW, small};
use crate::embedded::EmbeddedLog;
use crate::error::{Error, Kind, Result};
use crate::topic::{Cleanup, TopicSpec};
use crate::{Log, Produced};

const BATCHES: u64 = 20;
const BATCH_ROWS: u64 = 100;

fn rows(from: u64) -> RecordBatch {
    let ids: Vec<i64> = (from..from + BATCH_ROWS).map(u64::cast_signed).collect();
    // Not to be compressed to nothing, and recognisable in a file.
    let texts = StringArray::from_iter_values(ids.iter().map(|id| format!("text {id} {:x}", id * 0x9e37_79b9_7f4a)));
    let columns: [(&str, ArrayRef); 2] = [("id", Arc::new(Int64Array::from(ids))), ("text", Arc::new(texts))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

fn partition() -> TopicPartition {
    TopicPartition::new("t", 0)
}

fn produced(from: u64) -> Produced {
    Produced {
        partition: partition(),
        rows: rows(from),
        progress: None,
    }
}

fn open(directory: &Path) -> Result<Arc<EmbeddedLog>> {
    let mut options = small(directory);
    options.tail_cache_bytes = 0;
    options.compression = crate::embedded::options::Compression::None;
    EmbeddedLog::open(options, ManualClock::new(NOW))
}

async fn filled(directory: &Path) -> Arc<EmbeddedLog> {
    let log = open(directory).unwrap();
    let spec = TopicSpec {
        name: "t".to_owned(),
        schema: rows(0).schema(),
        partitions: 1,
        cleanup: Cleanup::Delete {
            retention_ms: None,
            retention_bytes: None,
        },
        events: None,
    };
    log.create_topic(spec).await.unwrap();
    for batch in 0..BATCHES {
        log.append(vec![produced(batch * BATCH_ROWS)]).await.unwrap();
    }
    log
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path))
        } else {
            all.push(path)
        }
    }
    all
}

fn journal(directory: &Path) -> PathBuf {
    let is_journal = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "jnl");
    files(directory).into_iter().find(is_journal).unwrap()
}

/// Where the rows' text stands in a file.
fn find(bytes: &[u8], text: &str) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text.as_bytes())
}

fn flip(path: &Path, at: usize) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at as u64).unwrap();
}

/// Where the batches written begin, in bytes of the journal, found by their trailer.
fn journal_ends(bytes: &[u8]) -> Vec<usize> {
    let trailer = b"FJL\x03";
    bytes
        .windows(4)
        .enumerate()
        .filter(|(_, window)| window == trailer)
        .map(|(at, _)| at + 4)
        .collect()
}

/// Takes away what only a log leaves that was closed.
fn as_if_killed(directory: &Path) {
    fs::remove_file(directory.join("closed")).unwrap();
}

async fn end(log: &EmbeddedLog) -> u64 {
    log.offsets(&partition()).await.unwrap().end
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_is_cut_off_silently() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path()).await);
    let path = journal(folder.path());
    let whole = fs::read(&path).unwrap();
    let ends = journal_ends(&whole);
    let (before_last, last) = (ends[ends.len() - 2], ends[ends.len() - 1]);
    let mut torn_inside = whole.clone();
    let sector = (before_last / 512 + 2) * 512;
    torn_inside[sector..sector + 512].fill(0);
    let cuts = [before_last + 1, before_last + 13, (before_last + last) / 2, last - 1];
    let truncated = cuts.map(|cut| whole[..cut].to_vec());
    let zeroed = cuts.map(|cut| {
        let mut bytes = whole.clone();
        bytes[cut..].fill(0);
        bytes
    });
    for bytes in truncated.into_iter().chain(zeroed).chain([torn_inside]) {
        fs::write(&path, bytes).unwrap();
        as_if_killed(folder.path());
        let log = open(folder.path()).unwrap();
        assert_eq!(end(&log).await, (BATCHES - 1) * BATCH_ROWS);
        log.append(vec![produced(0)]).await.unwrap();
        drop(log);
        let log = open(folder.path()).unwrap();
        assert_eq!(end(&log).await, BATCHES * BATCH_ROWS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_torn_where_the_log_was_closed() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path()).await);
    let path = journal(folder.path());
    let whole = fs::read(&path).unwrap();
    let ends = journal_ends(&whole);
    let (before_last, last) = (ends[ends.len() - 2], ends[ends.len() - 1]);
    for cut in [0, before_last, before_last + 13, last - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        let opened = open(folder.path());
        assert!(
            matches!(&opened, Err(Error::DamagedFile { file, .. }) if *file == path),
            "cut at {cut}: {opened:?}"
        );
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(end(&open(folder.path()).unwrap()).await, BATCHES * BATCH_ROWS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_is_named_and_nothing_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path()).await);
    as_if_killed(folder.path());
    let path = journal(folder.path());
    let whole = fs::read(&path).unwrap();
    let ends = journal_ends(&whole);
    let middle = ends[ends.len() / 2];
    let last = ends[ends.len() - 1];
    // A start, an item's tag, lengths, a value, an end; and in the last batch.
    for at in [
        0,
        middle,
        middle + 1,
        middle + 13,
        middle + 24,
        middle + 30,
        middle + 600,
        middle - 1,
        last - 400,
    ] {
        flip(&path, at);
        let damaged = fs::read(&path).unwrap();
        let opened = open(folder.path());
        assert!(
            matches!(&opened, Err(Error::DamagedFile { file, .. }) if *file == path),
            "byte {at}: {opened:?}"
        );
        assert!(
            fs::read(&path).unwrap() == damaged,
            "byte {at}: the journal was changed"
        );
        flip(&path, at);
    }
    assert_eq!(end(&open(folder.path()).unwrap()).await, BATCHES * BATCH_ROWS);
}

/// The folder of tables, after everything was written there.
async fn flushed(directory: &Path) -> Arc<EmbeddedLog> {
    let log = filled(directory).await;
    let topic = log.open_topic("t").unwrap();
    topic.stored.batches.rotate_memtable_and_wait().unwrap();
    topic.stored.index.rotate_memtable_and_wait().unwrap();
    drop(topic);
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_batch_is_named_and_the_others_are_read() {
    let folder = tempfile::tempdir().unwrap();
    drop(flushed(folder.path()).await);
    let text = format!("text {} ", 7 * BATCH_ROWS + 50);
    let holds = |path: &PathBuf| path.extension().is_none() && find(&fs::read(path).unwrap(), &text).is_some();
    let table = files(folder.path()).into_iter().find(holds).unwrap();
    flip(&table, find(&fs::read(&table).unwrap(), &text).unwrap());
    let log = open(folder.path()).unwrap();
    let (mut at, mut read_rows, mut damaged) = (0, 0, Vec::new());
    while at < end(&log).await {
        match log.read(&partition(), at, 1 << 20, None).await {
            Ok(batches) => {
                for batch in batches {
                    assert_eq!(batch.rows, rows(batch.base));
                    read_rows += batch.rows.num_rows() as u64;
                    at = batch.next();
                }
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::Corrupt);
                let Error::Damaged {
                    partition: named,
                    base,
                    next,
                    ..
                } = error
                else {
                    panic!("{error}")
                };
                assert_eq!(named, partition());
                damaged.push(base);
                at = next;
            }
        }
    }
    // A block may hold two batches of this size.
    assert!(damaged.contains(&(7 * BATCH_ROWS)) && damaged.len() <= 2, "{damaged:?}");
    assert_eq!(read_rows + damaged.len() as u64 * BATCH_ROWS, BATCHES * BATCH_ROWS);
    log.append(vec![produced(0)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_is_an_error_at_open() {
    let folder = tempfile::tempdir().unwrap();
    drop(flushed(folder.path()).await);
    let holds = |path: &PathBuf| path.extension().is_none() && find(&fs::read(path).unwrap(), "text 7").is_some();
    let table = files(folder.path()).into_iter().find(holds).unwrap();
    let away = folder.path().join("away");
    fs::rename(&table, &away).unwrap();
    let opened = open(folder.path());
    assert_eq!(
        opened.as_ref().map(|_| ()).map_err(Error::kind),
        Err(Kind::Corrupt),
        "{opened:?}"
    );
    fs::rename(&away, &table).unwrap();
    assert_eq!(end(&open(folder.path()).unwrap()).await, BATCHES * BATCH_ROWS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_writing_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path()).await);
    let free = Arc::new(AtomicU64::new(10 << 20));
    let mut options = small(folder.path());
    options.disk_free_bytes_min = 1 << 20;
    let told = free.clone();
    options.free_space = Arc::new(move |_| Ok(told.load(Ordering::Relaxed)));
    let clock = ManualClock::new(NOW);
    let log = EmbeddedLog::open(options, clock.clone()).unwrap();
    log.append(vec![produced(0)]).await.unwrap();
    free.store(1 << 19, Ordering::Relaxed);
    clock.advance(std::time::Duration::from_secs(1));
    for _ in 0..2 {
        let full = log.append(vec![produced(0)]).await.unwrap_err();
        assert!(
            matches!(full, Error::DiskFull { free_bytes, .. } if free_bytes == 1 << 19),
            "{full}"
        );
        assert_eq!(full.kind(), Kind::Unavailable);
    }
    assert!(!log.read(&partition(), 0, 1, None).await.unwrap().is_empty());
    assert_eq!(end(&log).await, (BATCHES + 1) * BATCH_ROWS);
    free.store(10 << 20, Ordering::Relaxed);
    log.append(vec![produced(0)]).await.unwrap();
    assert_eq!(end(&log).await, (BATCHES + 2) * BATCH_ROWS);
}

#[test]
fn a_directory_is_opened_once_and_in_a_known_format() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    assert!(matches!(open(folder.path()), Err(Error::InUse { .. })));
    drop(log);
    let format = folder.path().join("format");
    fs::write(&format, "999\n").unwrap();
    assert!(matches!(
        open(folder.path()),
        Err(Error::NewerFormat {
            found: 999,
            known: 1,
            ..
        })
    ));
    fs::write(&format, "what").unwrap();
    assert!(matches!(open(folder.path()), Err(Error::DamagedFile { file, .. }) if file == format));
    fs::remove_file(&format).unwrap();
    assert!(matches!(open(folder.path()), Err(Error::DamagedFile { file, .. }) if file == format));
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(open(&file), Err(Error::Io { path, .. }) if path == file));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_log_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let log = filled(folder.path()).await;
    let partition = partition();
    let waiting = log.wait(&partition, u64::MAX);
    let closing = async { log.close() };
    let (waited, ()) = futures::join!(waiting, closing);
    assert!(matches!(waited, Err(Error::Closed)));
    assert!(matches!(log.append(vec![produced(0)]).await, Err(Error::Closed)));
    assert!(matches!(log.read(&partition, 0, 1, None).await, Err(Error::Closed)));
    assert!(log.memory_used() > 0 && log.bytes_used() > 0);
}

/// A log whose content can be made again begins anew where it can't be trusted: where it is damaged, or was open when the machine went down.
/// A process that was killed leaves it as it is.
#[tokio::test(flavor = "multi_thread")]
async fn an_expendable_log_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let mut options = small(folder.path());
        options.expendable = true;
        EmbeddedLog::open(options, ManualClock::new(NOW)).unwrap()
    };
    let fill = async |log: &EmbeddedLog| {
        let claim = log.claim("owner").await.unwrap();
        let write = crate::StateWrite {
            table: "s".into(),
            entries: [(b"key".as_slice().into(), Some(b"value".as_slice().into()))].into(),
        };
        let commit = crate::Commit {
            state: vec![write],
            ..crate::Commit::default()
        };
        log.commit(&claim, commit).await.unwrap();
    };
    let is_filled = async || {
        let table = open().state("s").await.unwrap();
        table.get(b"key").unwrap().is_some()
    };
    let machine_went_down = || fs::write(folder.path().join("boot"), "another start").unwrap();
    fill(&open()).await;
    assert!(is_filled().await, "it was closed");
    machine_went_down();
    assert!(is_filled().await, "it was closed before the machine went down");
    as_if_killed(folder.path());
    assert!(is_filled().await, "only the process was killed");
    as_if_killed(folder.path());
    machine_went_down();
    assert!(!is_filled().await, "nothing says what of it was on the disk");
    fill(&open()).await;
    flip(&journal(folder.path()), 100);
    assert!(!is_filled().await, "it is damaged");
    fill(&open()).await;
    assert!(is_filled().await);
}
