//! This process's copies of state tables, in an embedded log.
//!
//! Entries come in on two ways. All of them come back from the cluster, in their order, and are written together with the position behind
//! them ([`Copies::follow`]). What this process has committed itself is written as soon as it is committed, ahead of that position
//! ([`Copies::lead`]), so that a commit waits for nothing to come back. One rule holds both together: *of the records of a key, a copy has the
//! last*. So what was written ahead is remembered with its record until the position has passed it, and meanwhile no earlier
//! record of that key is written, nor the same one again.
//!
//! Of what is ahead nothing is left to know after a restart: all behind the position comes again, and is there before anybody reads.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use headwater_event::offset::{Offset, TopicPartition};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;

use crate::embedded::EmbeddedLog;
use crate::error::Result;
use crate::kafka::registry::KnownTable;
use crate::{Claim, Commit, Log, StateTable, StateWrite};

/// Who commits the copies.
const OWNER: &str = "copies";

/// A commit that is further ahead in a table waits until it has come back. Counted are keys, and what it takes to remember them.
const AHEAD_BYTES_MAX: usize = 16 << 20;
const KEY_BYTES: usize = 128;

/// Whoever writes blocks until it is done.
pub(super) struct Copies {
    log: Arc<EmbeddedLog>,
    claim: Claim,
    /// Those that are open, by the table's name on the cluster.
    open: RwLock<HashMap<Arc<str>, Arc<Copy>>>,
    handle: Handle,
}

struct Copy {
    table: Arc<KnownTable>,
    ahead: Mutex<Ahead>,
}

/// An entry of a table, and the record that it comes from.
pub(super) struct Entry {
    pub key: Bytes,
    pub value: Option<Bytes>,
    pub record: i64,
}

/// Entries of one table, in the order of their records.
pub(super) struct Entries {
    pub table: Arc<KnownTable>,
    pub entries: Vec<Entry>,
}

type StateEntries = Arc<[(Bytes, Option<Bytes>)]>;

/// What a copy has from behind its position.
#[derive(Default)]
struct Ahead {
    /// The position: the record after the last that was followed.
    next: i64,
    records: HashMap<Bytes, i64>,
    /// The keys of each commit, by its last record.
    commits: BTreeMap<i64, Vec<Bytes>>,
    bytes: usize,
    /// The table is there no longer.
    deleted: bool,
}

/// What a commit has written to tables, each with the number of its first record, where the records have come to stand.
pub(super) fn placed_state(
    writes: Vec<(Arc<KnownTable>, StateEntries, usize)>,
    placed: &[i64],
) -> BTreeMap<Arc<str>, Entries> {
    let mut state: BTreeMap<Arc<str>, Entries> = BTreeMap::new();
    for (table, entries, first) in writes {
        let of_table = state.entry(table.kafka.clone()).or_insert_with(|| Entries {
            table,
            entries: Vec::with_capacity(entries.len()),
        });
        let entry = |((key, value), &record): (&(Bytes, Option<Bytes>), &i64)| Entry {
            key: key.clone(),
            value: value.clone(),
            record,
        };
        of_table.entries.extend(entries.iter().zip(&placed[first..]).map(entry));
    }
    state
}

impl Copies {
    pub async fn open(log: Arc<EmbeddedLog>) -> Result<Self> {
        Ok(Self {
            claim: log.claim(OWNER).await?,
            log,
            open: RwLock::default(),
            handle: Handle::current(),
        })
    }

    /// The copy of a table, and from which record on it has to be followed if it wasn't open.
    pub async fn table(&self, table: &Arc<KnownTable>) -> Result<(Arc<dyn StateTable>, Option<i64>)> {
        let state = self.log.state(&table.copy).await?;
        let mut open = self.open.write();
        if open.contains_key(&table.kafka) {
            return Ok((state, None));
        }
        let stood = self.claim.consumed.get(&position_of(table));
        let next = stood.map_or(0, |&stood| i64::try_from(stood).unwrap_or(i64::MAX));
        let copy = Copy {
            table: table.clone(),
            ahead: Mutex::new(Ahead {
                next,
                ..Ahead::default()
            }),
        };
        open.insert(table.kafka.clone(), Arc::new(copy));
        Ok((state, Some(next)))
    }

    /// Writes what has come back, and the record after it for each table.
    pub fn follow(&self, came: &BTreeMap<Arc<str>, (Vec<Entry>, i64)>) -> Result<()> {
        let copies: Vec<_> = came
            .iter()
            .filter_map(|(kafka, (entries, next))| Some((self.open.read().get(kafka)?.clone(), entries, *next)))
            .collect();
        // In the order of the names, like everybody who holds several.
        let mut locked: Vec<_> = copies.iter().map(|(copy, ..)| copy.ahead.lock()).collect();
        let mut commit = Commit::default();
        for ((copy, entries, next), ahead) in copies.iter().zip(&locked) {
            let offset = Offset::try_from(*next).unwrap_or(0);
            commit.consumed.push((position_of(&copy.table), offset));
            commit.state.extend(ahead.newer(&copy.table, entries));
        }
        if !commit.consumed.is_empty() {
            self.handle.block_on(self.log.commit(&self.claim, commit))?;
        }
        for ((.., next), ahead) in copies.iter().zip(&mut locked) {
            ahead.pass(*next);
        }
        Ok(())
    }

    /// Writes what this process has committed, where it is open and not there yet. The answer says which records to wait for: those of a
    /// table in which too much is ahead, or all of them where the copies can't be written.
    pub fn lead(&self, committed: &BTreeMap<Arc<str>, Entries>) -> Vec<(Arc<str>, i64)> {
        let open = |(kafka, committed): (&Arc<str>, _)| Some((self.open.read().get(kafka)?.clone(), committed));
        let is_same = |(copy, committed): &(Arc<Copy>, &Entries)| copy.table.copy == committed.table.copy;
        let copies: Vec<_> = committed.iter().filter_map(open).filter(is_same).collect();
        let mut locked: Vec<_> = copies.iter().map(|(copy, _)| copy.ahead.lock()).collect();
        let mut commit = Commit::default();
        for ((_, Entries { table, entries }), ahead) in copies.iter().zip(&locked) {
            commit.state.extend(ahead.newer(table, entries));
        }
        let mut led = Ok(());
        if !commit.state.is_empty() {
            led = self.handle.block_on(self.log.commit(&self.claim, commit)).map(|_| ());
        }
        let mut wait = Vec::new();
        for ((copy, committed), ahead) in copies.iter().zip(&mut locked) {
            match &led {
                Ok(()) => ahead.lead(&committed.entries),
                Err(error) => tracing::warn!(%error, "state that was committed can't be copied at once"),
            }
            if (led.is_err() || ahead.bytes > AHEAD_BYTES_MAX)
                && let Some(last) = committed.entries.last()
            {
                wait.push((copy.table.kafka.clone(), last.record));
            }
        }
        wait
    }

    /// Lets go of a table that was deleted. True if it was open.
    pub fn forget(&self, table: &KnownTable) -> bool {
        let copy = self.open.write().remove(&table.kafka);
        if let Some(copy) = &copy {
            copy.ahead.lock().deleted = true;
        }
        if let Err(error) = self.handle.block_on(self.log.delete_state(&table.copy)) {
            tracing::warn!(%error, table = &*table.copy, "the copy of a deleted state table stays");
        }
        copy.is_some()
    }
}

impl Ahead {
    /// What isn't there yet.
    fn newer(&self, table: &KnownTable, entries: &[Entry]) -> Option<StateWrite> {
        let is_newer = |entry: &&Entry| {
            entry.record >= self.next && self.records.get(&entry.key).is_none_or(|&there| there < entry.record)
        };
        let newer = entries.iter().filter(is_newer);
        let entries: Arc<[_]> = newer.map(|entry| (entry.key.clone(), entry.value.clone())).collect();
        (!entries.is_empty() && !self.deleted).then(|| StateWrite {
            table: table.copy.clone(),
            entries,
        })
    }

    /// Remembers what was written ahead.
    fn lead(&mut self, entries: &[Entry]) {
        let Some(last) = entries.last().filter(|last| last.record >= self.next) else {
            return;
        };
        let keys = self.commits.entry(last.record).or_default();
        for Entry { key, record, .. } in entries {
            let there = self.records.entry(key.clone()).or_insert(*record);
            *there = (*there).max(*record);
            self.bytes += key.len() + KEY_BYTES;
            keys.push(key.clone());
        }
    }

    /// Forgets what is ahead no longer.
    fn pass(&mut self, next: i64) {
        self.next = next;
        while let Some(commit) = self.commits.first_entry().filter(|commit| *commit.key() < next) {
            for key in commit.remove() {
                self.bytes -= key.len() + KEY_BYTES;
                if self.records.get(&key).is_some_and(|&there| there < next) {
                    self.records.remove(&key);
                }
            }
        }
    }
}

fn position_of(table: &KnownTable) -> TopicPartition {
    TopicPartition::new(table.copy.clone(), 0)
}

#[cfg(test)]
mod tests {
    use headwater_event::clock::ManualClock;

    use super::*;
    use crate::embedded::options::EmbeddedOptions;

    struct Opened {
        copies: Copies,
        state: Arc<dyn StateTable>,
        from: Option<i64>,
    }

    async fn open(directory: &std::path::Path) -> Opened {
        let mut options = EmbeddedOptions::new(directory);
        options.disk_free_bytes_min = 0;
        options.expendable = true;
        let copies = Copies::open(EmbeddedLog::open(options, ManualClock::new(0)).unwrap())
            .await
            .unwrap();
        let (state, from) = copies.table(&table()).await.unwrap();
        Opened { copies, state, from }
    }

    fn table() -> Arc<KnownTable> {
        Arc::new(KnownTable {
            kafka: "s".into(),
            copy: "s#1".into(),
        })
    }

    fn entries(entries: &[(&'static str, &'static str, i64)]) -> Vec<Entry> {
        let entry = |&(key, value, record): &(&'static str, &'static str, i64)| Entry {
            key: key.into(),
            value: (!value.is_empty()).then(|| value.into()),
            record,
        };
        entries.iter().map(entry).collect()
    }

    impl Opened {
        fn follow(&self, came: &[(&'static str, &'static str, i64)], next: i64) {
            let came = BTreeMap::from([("s".into(), (entries(came), next))]);
            tokio::task::block_in_place(|| self.copies.follow(&came)).unwrap();
        }

        fn lead(&self, committed: &[(&'static str, &'static str, i64)]) -> Vec<(Arc<str>, i64)> {
            let committed = Entries {
                table: table(),
                entries: entries(committed),
            };
            tokio::task::block_in_place(|| self.copies.lead(&BTreeMap::from([("s".into(), committed)])))
        }

        fn has(&self, key: &str) -> Option<String> {
            let value = self.state.get(key.as_bytes()).unwrap()?;
            Some(String::from_utf8(value.to_vec()).unwrap())
        }
    }

    fn some(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    /// Whatever is written first, of a key's records the last is there.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_last_record_of_a_key_wins() {
        let folder = tempfile::tempdir().unwrap();
        let opened = open(folder.path()).await;
        assert_eq!(opened.from, Some(0));
        opened.follow(&[("a", "theirs", 3)], 4);
        assert!(
            opened
                .lead(&[("a", "ours", 10), ("b", "", 11), ("c", "1", 12), ("c", "2", 13)])
                .is_empty()
        );
        assert_eq!((opened.has("a"), opened.has("c")), (some("ours"), some("2")));
        // What others wrote before comes later, and so do others of our own commits.
        opened.follow(&[("a", "theirs", 8), ("b", "theirs", 9)], 10);
        opened.lead(&[("a", "ours, earlier", 6), ("c", "earlier", 7)]);
        assert_eq!(
            (opened.has("a"), opened.has("b"), opened.has("c")),
            (some("ours"), None, some("2"))
        );
        // What comes back is there already; what others wrote after it is not.
        opened.follow(&[("a", "ours", 10), ("b", "", 11), ("c", "1", 12), ("c", "2", 13)], 14);
        opened.follow(&[("a", "theirs again", 16)], 17);
        assert_eq!((opened.has("a"), opened.has("c")), (some("theirs again"), some("2")));
        // What has come back before is not written anew.
        opened.lead(&[("a", "ours", 15)]);
        assert_eq!(opened.has("a"), some("theirs again"));
        let ahead = opened.copies.open.read()["s"].clone();
        let ahead = ahead.ahead.lock();
        assert!(ahead.records.is_empty() && ahead.commits.is_empty() && ahead.bytes == 0);
    }

    /// A position is that of what was followed: all behind it comes again.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_ahead_does_not_move_the_position() {
        let folder = tempfile::tempdir().unwrap();
        let opened = open(folder.path()).await;
        opened.follow(&[("a", "1", 4)], 5);
        opened.lead(&[("a", "2", 9)]);
        drop(opened);
        let opened = open(folder.path()).await;
        assert_eq!((opened.from, opened.has("a")), (Some(5), some("2")));
        // Earlier records come first, and are corrected before anybody reads.
        opened.follow(&[("a", "theirs", 7), ("a", "2", 9)], 10);
        assert_eq!(opened.has("a"), some("2"));
    }

    /// A commit waits when too much is ahead, and no longer once it has come back; in a table that was deleted there is nothing to write.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_ahead_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let opened = open(folder.path()).await;
        let many: Vec<_> = (0..(AHEAD_BYTES_MAX / KEY_BYTES) as i64)
            .map(|record| ("k", "v", record))
            .collect();
        let last = many.len() as i64 - 1;
        assert_eq!(opened.lead(&many), [("s".into(), last)]);
        opened.follow(&many, last + 1);
        assert!(opened.lead(&[("k", "w", last + 1)]).is_empty());
        assert_eq!(opened.has("k"), some("w"));
        let (log, copy) = (opened.copies.log.clone(), opened.copies.open.read()["s"].clone());
        assert!(tokio::task::block_in_place(|| opened.copies.forget(&table())));
        assert!(opened.lead(&[("k", "x", last + 2)]).is_empty());
        // Nor for whoever had begun before.
        assert!(
            copy.ahead
                .lock()
                .newer(&table(), &entries(&[("k", "x", last + 2)]))
                .is_none()
        );
        assert!(log.state_tables().await.unwrap().is_empty());
    }
}
