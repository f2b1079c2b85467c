//! Rows in the state table by the hash of their key: linear hashing (Litwin 1980), with entries that are only added.
//!
//! What is [put](Buckets::put) there at once is one entry for each bucket that it concerns, under the number of the
//! bucket and that of the *load*. As the bytes grow, buckets are split in the order of their numbers, so that one has
//! [`BUCKET_BYTES`] on average: those whose turn it is are read, and written anew with what is added to them.
//! A load splits about as much as it brings, however much is there, and a row is rewritten about once whenever
//! their number doubles.
//!
//! Rows of one key that are many in one load have an entry of their own, which the bucket refers to, so that its
//! other keys don't suffer.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use headwater_log::StateTable;

use super::list::{self, Item, Listed};
use super::{Kind, Names};
use crate::error::Result;

/// A look-up reads so much; an entry has as much of it as memory has of the whole.
const BUCKET_BYTES: u64 = 16 << 10;
/// Rows of one key that take more have an entry of their own.
const APART_BYTES: usize = 4 << 10;
/// Such an entry is cut at about this, so that none is too large for a log.
const APART_BYTES_MAX: usize = 1 << 20;

/// What is in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    /// None before the first load.
    pub count: u64,
    /// In all buckets, without what is apart.
    pub bytes: u64,
    /// The number of the next one.
    pub load: u64,
}

/// Groups on their way into buckets.
#[derive(Default)]
pub struct Load {
    list: Vec<u8>,
    /// By hash: where in the list a group begins and ends.
    groups: Vec<(u64, Range<usize>)>,
    /// By hash, because two keys may share one, and number.
    apart: BTreeMap<(u64, u64), Vec<u8>>,
}

type Written = Vec<(Bytes, Option<Bytes>)>;

impl Buckets {
    /// The bucket of a hash.
    pub fn bucket(self, hash: u64) -> u64 {
        bucket(hash, self.count)
    }

    /// Hands the rows of keys to `take`, with the place of the key among `keys`. The keys are of one bucket.
    pub fn read(
        self,
        table: &dyn StateTable,
        names: Names,
        keys: &HashMap<&[u8], (u64, usize)>,
        number: u64,
        take: &mut impl FnMut(usize, &[u8]),
    ) -> Result<()> {
        for entry in table.scan(&names.of(Kind::Bucket, &[number])) {
            let (_, value) = entry?;
            for listed in list::groups(&value) {
                let listed = listed?;
                let Some(&(hash, place)) = keys.get(listed.key) else {
                    continue;
                };
                for item in listed.items() {
                    match item {
                        Item::Row(row) => take(place, row),
                        Item::Elsewhere(load) => {
                            read_apart(table, names, (hash, load), listed.key, |row| take(place, row))?
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes a load, and splits buckets as they have to be.
    pub fn put(
        &mut self,
        table: Option<&dyn StateTable>,
        names: Names,
        mut new: Load,
        written: &mut Written,
    ) -> Result<()> {
        let before = self.count;
        let load = self.load;
        self.load += 1;
        self.bytes += new.list.len() as u64;
        self.count = self.count.max(self.bytes.div_ceil(BUCKET_BYTES)).max(1);

        let mut contents: HashMap<u64, Vec<u8>> = HashMap::new();
        let split: HashSet<u64> = match before {
            0 => HashSet::new(),
            _ => (before..self.count).map(|bucket| ancestor(bucket, before)).collect(),
        };
        if let Some(table) = table {
            for number in split {
                self.take_bucket(table, names, number, &mut contents, written)?;
            }
        }
        new.groups.sort_unstable_by_key(|(hash, _)| self.bucket(*hash));
        for groups in new
            .groups
            .chunk_by(|(one, _), (other, _)| self.bucket(*one) == self.bucket(*other))
        {
            let content = contents.entry(self.bucket(groups[0].0)).or_default();
            content.reserve_exact(groups.iter().map(|(_, place)| place.len()).sum());
            groups
                .iter()
                .for_each(|(_, place)| content.extend_from_slice(&new.list[place.clone()]));
        }
        let entry = |(number, list): (u64, Vec<u8>)| (names.of(Kind::Bucket, &[number, load]), Some(list.into()));
        written.extend(contents.into_iter().map(entry));
        let apart = |((hash, part), list): ((u64, u64), Vec<u8>)| {
            let name = names.of(Kind::Apart, &[hash, load, part]);
            (name, Some(list.into()))
        };
        written.extend(new.apart.into_iter().map(apart));
        Ok(())
    }

    /// Takes all out of a bucket, and puts it into those where it belongs.
    fn take_bucket(
        self,
        table: &dyn StateTable,
        names: Names,
        number: u64,
        contents: &mut HashMap<u64, Vec<u8>>,
        written: &mut Written,
    ) -> Result<()> {
        for entry in table.scan(&names.of(Kind::Bucket, &[number])) {
            let (key, value) = entry?;
            for listed in list::groups(&value) {
                let listed = listed?;
                let content = contents.entry(self.bucket(names.hash(listed.key))).or_default();
                list::put_listed(content, listed);
            }
            written.push((key, None));
        }
        Ok(())
    }
}

impl Load {
    /// Adds rows of a key. A key comes once.
    pub fn add<'a>(&mut self, load: u64, hash: u64, key: &[u8], rows: impl Iterator<Item = &'a [u8]>) {
        let start = self.list.len();
        list::put_key(&mut self.list, key);
        let mut parts = 0;
        for row in rows {
            list::put_row(&mut self.list, row);
            if self.list.len() - start > APART_BYTES_MAX {
                self.set_apart((hash, parts), start);
                parts += 1;
                list::put_key(&mut self.list, key);
            }
        }
        if parts > 0 || self.list.len() - start > APART_BYTES {
            self.set_apart((hash, parts), start);
            list::put_key(&mut self.list, key);
            list::put_elsewhere(&mut self.list, load);
        }
        list::put_end(&mut self.list);
        self.groups.push((hash, start..self.list.len()));
    }

    /// Moves the group that was begun at `start`.
    fn set_apart(&mut self, name: (u64, u64), start: usize) {
        list::put_end(&mut self.list);
        let apart = self.apart.entry(name).or_default();
        apart.extend_from_slice(&self.list[start..]);
        self.list.truncate(start);
    }
}

fn read_apart(
    table: &dyn StateTable,
    names: Names,
    (hash, load): (u64, u64),
    key: &[u8],
    mut take: impl FnMut(&[u8]),
) -> Result<()> {
    let mut is_there = false;
    for entry in table.scan(&names.of(Kind::Apart, &[hash, load])) {
        let (_, value) = entry?;
        for listed in list::groups(&value) {
            let listed = listed?;
            if listed.key == key {
                is_there = true;
                list_rows(listed).for_each(&mut take);
            }
        }
    }
    if !is_there {
        return Err(list::damaged());
    }
    Ok(())
}

/// Where there is nothing but rows.
pub fn list_rows(listed: Listed<'_>) -> impl Iterator<Item = &[u8]> {
    listed.items().filter_map(|item| match item {
        Item::Row(row) => Some(row),
        Item::Elsewhere(_) => None,
    })
}

/// The bucket of a hash among so many: the lowest bits, and one less where that bucket is still to be split off.
fn bucket(hash: u64, count: u64) -> u64 {
    let mask = count.max(1).next_power_of_two() - 1;
    match hash & mask {
        there if there < count => there,
        later => later & (mask >> 1),
    }
}

/// Where the rows of a bucket are as long as there are `count`, and it isn't one of them.
fn ancestor(number: u64, count: u64) -> u64 {
    bucket(number, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gets_its_rows_from_its_ancestor_alone() {
        for (before, after) in [(1, 2), (1, 7), (3, 4), (4, 5), (5, 8), (5, 33), (6, 6), (100, 300)] {
            let split: HashSet<u64> = (before..after).map(|number| ancestor(number, before)).collect();
            for hash in 0..5_000u64 {
                let (was, is) = (bucket(hash, before), bucket(hash, after));
                assert!(was < before && is < after, "{hash}: {was} of {before}, {is} of {after}");
                assert!(
                    was == is || split.contains(&was),
                    "{hash} moves from {was} to {is} of {after}"
                );
            }
        }
    }
}
