//! Rows that are kept for ever and never go, where no row's worth depends on how many matches it has: by key, see
//! [`crate::added`].

use headwater_event::room::Share;

use super::side::{LEFT, RIGHT, Role, Side};
use super::stretch::Stretch;
use super::{Found, Memory};
use crate::added::Added;
use crate::error::Result;
use crate::holdings::Held;
use crate::operators::{Saved, StateChanges};

pub struct OnlyAdded {
    sides: [Added; 2],
    /// Before it is restored, all is kept in memory.
    share: Option<Share>,
}

impl OnlyAdded {
    pub fn new() -> Self {
        Self {
            sides: [LEFT, RIGHT].map(|side| Added::new(side as u8)),
            share: None,
        }
    }
}

impl Memory for OnlyAdded {
    type Place = ();

    fn find(&mut self, other: &Side, stretch: &Stretch) -> Result<Found<()>> {
        let added = &mut self.sides[1 - stretch.side];
        let keys: Vec<&[u8]> = stretch.keys(1 - stretch.side).iter().map(|key| &key[..]).collect();
        let groups = added.find(&keys)?;
        let mut starts = Vec::with_capacity(keys.len() + 1);
        let mut rows = Vec::new();
        for group in groups {
            starts.push(rows.len());
            if let Some(group) = group {
                rows.extend(added.rows(group));
            }
        }
        starts.push(rows.len());
        Ok(Found {
            starts,
            copies: vec![1; rows.len()],
            matches: vec![0; rows.len()],
            places: vec![(); rows.len()],
            times: Vec::new(),
            columns: other.decode(rows.into_iter())?,
        })
    }

    fn settle(
        &mut self,
        _own: &Side,
        stretch: &Stretch,
        _matches: &[u64],
        _other: &Side,
        _found: &Found<()>,
        _added: &[i64],
    ) -> Result<()> {
        for change in &stretch.changes {
            let row = stretch.rows.row(change.row as usize);
            self.sides[stretch.side].add(stretch.key(change.row), row.data());
        }
        Ok(())
    }

    fn shows(&self, role: Role, matches: u64) -> bool {
        role.shows(matches)
    }

    fn held(&self) -> Held {
        let rows: u64 = self.sides.iter().map(Added::len).sum();
        Held::whole(rows as usize, self.sides.iter().map(Added::bytes).sum())
    }

    /// A side has what the other one leaves of the memory, and a quarter at least.
    fn changes(&mut self, changes: &mut StateChanges) -> Result<()> {
        let bytes_max = self.share.as_ref().map_or(usize::MAX, Share::bytes_max);
        for side in [LEFT, RIGHT] {
            let left = bytes_max.saturating_sub(self.sides[1 - side].bytes());
            self.sides[side].take_changes(left.max(bytes_max / 4), changes)?;
        }
        Ok(())
    }

    fn restore(&mut self, _: &[Side; 2], saved: &Saved) -> Result<()> {
        self.share = Some(saved.caches.share());
        self.sides
            .iter_mut()
            .try_for_each(|side| side.restore(&saved.table, saved.partition))
    }
}
