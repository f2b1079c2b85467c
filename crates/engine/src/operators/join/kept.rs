//! Rows that are kept for ever, by side and key, in the state table (see [`crate::keyed`]).
//!
//! A group's key is the side's number and the row-encoded key. Of a side that is only added to, a row's suffix
//! is a number that grows, so that a row comes at the end of its group, and the encoded row. Of a changelog it is the
//! encoded row alone, which a retraction finds again, and equal rows are one entry. The value: how many rows it
//! stands for and how many matches it has, both `u64 BE`; empty for one without matches. The next number is the
//! only entry of a group of its own.

use bytes::{Bytes, BytesMut};

use super::side::{LEFT, Role, Side};
use super::stretch::Stretch;
use super::{Found, Memory};
use crate::error::{Error, Result};
use crate::holdings::Held;
use crate::keyed::Keyed;
use crate::operators::{Saved, StateChanges};

/// The group of the next number; sides are 0 and 1.
static NUMBERS: Bytes = Bytes::from_static(&[2]);
const NUMBER_BYTES: usize = 8;

pub struct Kept {
    rows: Keyed,
    are_changelogs: bool,
    /// Else nothing ever stands on the left.
    keeps_left: bool,
    next: u64,
}

#[derive(Clone, Copy)]
struct Counts {
    copies: u64,
    matches: u64,
}

impl Kept {
    pub fn new(are_changelogs: bool, keeps_left: bool) -> Self {
        Self {
            rows: Keyed::new(),
            are_changelogs,
            keeps_left,
            next: 0,
        }
    }

    /// The encoded row of a suffix.
    fn row<'a>(&self, suffix: &'a [u8]) -> &'a [u8] {
        match self.are_changelogs {
            true => suffix,
            false => suffix.get(NUMBER_BYTES..).unwrap_or_default(),
        }
    }

    /// Suffixes for the rows that changed, cut from one buffer.
    fn suffixes(&mut self, stretch: &Stretch) -> Vec<Bytes> {
        let mut buffer = BytesMut::with_capacity(stretch.rows.size() + NUMBER_BYTES * stretch.changes.len());
        let suffixes = stretch.changes.iter().map(|change| {
            if !self.are_changelogs {
                buffer.extend_from_slice(&self.next.to_be_bytes());
                self.next += 1;
            }
            buffer.extend_from_slice(stretch.rows.row(change.row as usize).data());
            buffer.split().freeze()
        });
        suffixes.collect()
    }
}

impl Memory for Kept {
    type Place = Bytes;

    fn held(&self) -> Held {
        self.rows.held()
    }

    fn restrict(&mut self, own: usize, stretch: &mut Stretch) -> Result<()> {
        let mut absent = Vec::new();
        for place in 0..stretch.retractions() {
            let row = stretch.changes[place].row;
            let group = self.rows.group(&stretch.keys(own)[stretch.key_of[row as usize]])?;
            let known = group.rows().get(stretch.rows.row(row as usize).data());
            let copies = known.map_or(Ok(0), |value| Ok::<_, Error>(Counts::decode(value)?.copies))? as i64;
            stretch.changes[place].copies = stretch.changes[place].copies.max(-copies);
            if copies == 0 {
                absent.push(place);
            }
        }
        stretch.leave_out(absent.into_iter());
        Ok(())
    }

    fn find(&mut self, other: &Side, stretch: &Stretch) -> Result<Found<Bytes>> {
        let keys = stretch.keys(1 - stretch.side);
        let mut starts = Vec::with_capacity(keys.len() + 1);
        let (mut copies, mut matches, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let has_rows = self.keeps_left || stretch.side == LEFT;
        for key in keys {
            starts.push(places.len());
            if !has_rows {
                continue;
            }
            for (suffix, value) in self.rows.group(key)?.rows().iter() {
                let counts = Counts::decode(value)?;
                copies.push(counts.copies);
                matches.push(counts.matches);
                places.push(suffix.clone());
            }
        }
        starts.push(places.len());
        Ok(Found {
            columns: other.decode(places.iter().map(|suffix| self.row(suffix)))?,
            times: Vec::new(),
            starts,
            copies,
            matches,
            places,
        })
    }

    fn settle(
        &mut self,
        own: &Side,
        stretch: &Stretch,
        matches: &[u64],
        other: &Side,
        found: &Found<Bytes>,
        added: &[i64],
    ) -> Result<()> {
        if !self.keeps_left && stretch.side == LEFT {
            return Ok(());
        }
        for (change, suffix) in stretch.changes.iter().zip(self.suffixes(stretch)) {
            let mut group = self.rows.group(stretch.key(change.row))?;
            let mut copies = change.copies;
            if self.are_changelogs
                && let Some(known) = group.rows().get(&suffix)
            {
                copies += Counts::decode(known)?.copies as i64;
            }
            if copies <= 0 {
                group.remove(&suffix);
                continue;
            }
            let counts = Counts {
                copies: copies as u64,
                matches: if own.role.is_counted() {
                    matches[change.row as usize]
                } else {
                    0
                },
            };
            group.put(suffix, counts.encode());
        }
        if !self.are_changelogs && !stretch.changes.is_empty() {
            let next = Bytes::copy_from_slice(&self.next.to_be_bytes());
            self.rows.group(&NUMBERS)?.put(Bytes::new(), next);
        }
        if !other.role.is_counted() {
            return Ok(());
        }
        for (key, bounds) in stretch.keys(1 - stretch.side).iter().zip(found.starts.windows(2)) {
            for row in (bounds[0]..bounds[1]).filter(|&row| added[row] != 0) {
                let counts = Counts {
                    copies: found.copies[row],
                    matches: found.matches[row].saturating_add_signed(added[row]),
                };
                self.rows.group(key)?.put(found.places[row].clone(), counts.encode());
            }
        }
        Ok(())
    }

    fn shows(&self, role: Role, matches: u64) -> bool {
        role.shows(matches)
    }

    fn changes(&mut self, changes: &mut StateChanges) -> Result<()> {
        self.rows.take_changes(changes);
        Ok(())
    }

    fn restore(&mut self, _: &[Side; 2], saved: &Saved) -> Result<()> {
        self.rows.restore(saved)?;
        let numbers = self.rows.group(&NUMBERS)?;
        if let Some(next) = numbers.rows().get(&[]) {
            self.next =
                <[u8; 8]>::try_from(&next[..]).map_or_else(|_| Err(damaged()), |next| Ok(u64::from_be_bytes(next)))?;
        }
        Ok(())
    }
}

impl Counts {
    fn encode(self) -> Bytes {
        if self.copies == 1 && self.matches == 0 {
            return Bytes::new();
        }
        [self.copies.to_be_bytes(), self.matches.to_be_bytes()].concat().into()
    }

    fn decode(value: &[u8]) -> Result<Self> {
        if value.is_empty() {
            return Ok(Self { copies: 1, matches: 0 });
        }
        let (copies, matches) = value.split_first_chunk::<8>().ok_or_else(damaged)?;
        Ok(Self {
            copies: u64::from_be_bytes(*copies),
            matches: u64::from_be_bytes(matches.try_into().map_err(|_| damaged())?),
        })
    }
}

fn damaged() -> Error {
    Error::State {
        place: "a join".to_owned(),
        what: "an entry is not of the form it was written in".to_owned(),
    }
}
