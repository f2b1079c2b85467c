//! The open sessions of a task: where they are in time, what touches them, which of them end.
//!
//! A session is stretches of events of one group, each closer than the gap to the next; it ends
//! that gap after its last event. Open sessions of one group never touch. What has been aggregated
//! for a session is somewhere else, in the row that its [`Place`] names.
//!
//! * A group's sessions are a list, the latest first. New rows mostly touch the first one.
//! * Every session is filed once, under a stretch of time in which it ended when it was filed. When that
//!   time has come, it ends, or is filed anew. So a session costs nothing as long as events come.
//! * Where lateness is allowed for, a session that has ended is filed once more, under the time at which it goes. Until then
//!   it is open to what touches it, and is then a session that has not ended yet.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use headwater_event::clock::Micros;

/// So many stretches of time, to file sessions under, make up a gap.
const STRETCHES: Micros = 32;

/// Not the number of a session, of a part or of a row.
pub const NONE: u32 = u32::MAX;

/// The row with the states of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub part: u32,
    pub row: u32,
}

const NOWHERE: Place = Place { part: NONE, row: NONE };

impl Place {
    pub fn new(part: usize, row: usize) -> Self {
        Self {
            part: part as u32,
            row: row as u32,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Session {
    pub start: Micros,
    pub last: Micros,
    pub place: Place,
    /// Its row was given.
    pub has_ended: bool,
    group: u32,
    /// The next one in the group's list.
    older: u32,
}

/// What has arrived for a group: rows of one session, from `start` to `last`.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    pub group: u32,
    pub start: Micros,
    pub last: Micros,
    /// Where it is in what has arrived.
    pub row: u32,
}

/// Fragments and sessions that touch, and so are one session.
#[derive(Clone, Debug)]
pub struct Union {
    pub group: u32,
    pub start: Micros,
    pub last: Micros,
    /// Among all that have arrived.
    pub fragments: Range<usize>,
    /// Among all that are absorbed.
    pub absorbed: Range<usize>,
}

/// What the watermark does to sessions, in the order of their ends.
#[derive(Debug, Default)]
pub struct Closed {
    pub ended: Vec<Session>,
    /// Those that nothing can change any more, which ended now or before.
    pub gone: Vec<Session>,
}

pub struct Sessions {
    gap: Micros,
    lateness: Micros,
    stretch: Micros,
    each: Vec<Session>,
    free: Vec<u32>,
    /// By group: the first of its list.
    latest: Vec<u32>,
    groups_open: usize,
    filed: BTreeMap<Micros, Vec<u32>>,
}

impl Sessions {
    pub fn new(gap: Micros, lateness: Micros) -> Self {
        Self {
            gap,
            lateness,
            stretch: (gap / STRETCHES).max(1),
            each: Vec::new(),
            free: Vec::new(),
            latest: Vec::new(),
            groups_open: 0,
            filed: BTreeMap::new(),
        }
    }

    /// Groups that have an open session.
    pub fn groups_open(&self) -> usize {
        self.groups_open
    }

    pub fn place(&self, session: u32) -> Place {
        self.each[session as usize].place
    }

    /// The row of the group's latest session.
    pub fn latest(&self, group: u32) -> Option<Place> {
        let latest = self.latest.get(group as usize).copied().unwrap_or(NONE);
        (latest != NONE).then(|| self.place(latest))
    }

    /// The last session of each of the groups that have none any more.
    pub fn last_ones(&self, gone: &[Session]) -> Vec<Session> {
        let mut groups = HashSet::new();
        // They come in the order of their ends.
        let last = gone.iter().rev();
        let last = last.filter(|session| self.latest(session.group).is_none() && groups.insert(session.group));
        last.copied().collect()
    }

    pub fn has_ended(&self, session: u32) -> bool {
        self.each[session as usize].has_ended
    }

    pub fn end(&self, last: Micros) -> Micros {
        last.saturating_add(self.gap)
    }

    /// Puts together what touches: `fragments[of]`, which are one group's, ascending by start, and the
    /// group's open sessions. Adds the unions that hold a fragment, and the sessions that they absorb. Changes nothing.
    pub fn unite(&self, fragments: &[Fragment], of: Range<usize>, unions: &mut Vec<Union>, absorbed: &mut Vec<u32>) {
        let ours = &fragments[of.clone()];
        let (Some(first), group) = (ours.first(), ours.first().map_or(0, |first| first.group)) else {
            return;
        };
        let mut open: Vec<u32> = Vec::new();
        let mut next = self.latest.get(group as usize).copied().unwrap_or(NONE);
        while next != NONE && self.end(self.each[next as usize].last) > first.start {
            open.push(next);
            next = self.each[next as usize].older;
        }
        let mut place = of.start;
        let mut current: Option<Union> = None;
        while place < of.end || !open.is_empty() {
            let fragment = fragments[place..of.end].first();
            let session = open.last().map(|&number| (number, self.each[number as usize]));
            let is_fragment = match (fragment, session) {
                (Some(fragment), Some((_, session))) => fragment.start < session.start,
                (fragment, _) => fragment.is_some(),
            };
            let (start, last) = match (fragment, session) {
                (Some(fragment), _) if is_fragment => (fragment.start, fragment.last),
                (_, Some((_, session))) => (session.start, session.last),
                _ => break,
            };
            let touches = |union: &Union| start < self.end(union.last);
            let mut union = match current.take() {
                Some(union) if touches(&union) => union,
                other => {
                    other.into_iter().for_each(|union| keep(union, unions, absorbed));
                    Union {
                        group,
                        start,
                        last,
                        fragments: place..place,
                        absorbed: absorbed.len()..absorbed.len(),
                    }
                }
            };
            union.last = union.last.max(last);
            if is_fragment {
                place += 1;
                union.fragments.end = place;
            } else {
                absorbed.extend(open.pop());
                union.absorbed.end = absorbed.len();
            }
            current = Some(union);
        }
        current.into_iter().for_each(|union| keep(union, unions, absorbed));
    }

    /// Makes one session of those that the union absorbs and its fragments. Answers its number.
    pub fn settle(&mut self, union: &Union, absorbed: &[u32], place: Place) -> u32 {
        let Some((&kept, others)) = absorbed.split_first() else {
            return self.add(union.group, union.start, union.last, place);
        };
        for &other in others {
            self.remove(other);
        }
        let session = &mut self.each[kept as usize];
        (session.start, session.last, session.place) = (union.start, union.last, place);
        if std::mem::take(&mut session.has_ended) {
            // It is filed under the time at which it goes, which may be after its new end.
            return self.renewed(kept);
        }
        kept
    }

    /// The same session under a new number, filed under its end.
    fn renewed(&mut self, number: u32) -> u32 {
        let Session {
            start,
            last,
            place,
            group,
            ..
        } = self.each[number as usize];
        self.remove(number);
        self.add(group, start, last, place)
    }

    /// A session that touches none of its group's.
    pub fn add(&mut self, group: u32, start: Micros, last: Micros, place: Place) -> u32 {
        let session = Session {
            start,
            last,
            place,
            has_ended: false,
            group,
            older: NONE,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.each[number as usize] = session;
                number
            }
            None => {
                self.each.push(session);
                self.each.len() as u32 - 1
            }
        };
        if self.latest.len() <= group as usize {
            self.latest.resize(group as usize + 1, NONE);
        }
        if self.latest[group as usize] == NONE {
            self.groups_open += 1;
        }
        let older = |session: &Session| session.start < start;
        self.link(group, number, older);
        self.file(number);
        number
    }

    /// Whether an open session of the group touches this stretch of time.
    pub fn touches(&self, group: u32, start: Micros, last: Micros) -> bool {
        let mut next = self.latest.get(group as usize).copied().unwrap_or(NONE);
        while next != NONE {
            let session = &self.each[next as usize];
            if start < self.end(session.last) && session.start < self.end(last) {
                return true;
            }
            next = session.older;
        }
        false
    }

    pub fn moved(&mut self, session: u32, place: Place) {
        self.each[session as usize].place = place;
    }

    /// A session that was there before, and had ended at `watermark` or before: it is given no more.
    pub fn recall(&mut self, session: u32, watermark: Micros) {
        let session = &mut self.each[session as usize];
        session.has_ended = session.last.saturating_add(self.gap) <= watermark;
    }

    /// Ends the sessions that end at `watermark` or before, and takes those out that nothing can change any more.
    pub fn close(&mut self, watermark: Micros) -> Closed {
        let now = watermark.div_euclid(self.stretch);
        let mut closed = Closed::default();
        let mut open = Vec::new();
        while let Some(filed) = self.filed.first_entry().filter(|filed| *filed.key() <= now) {
            for number in filed.remove() {
                let session = self.each[number as usize];
                if session.place == NOWHERE {
                    self.free.push(number);
                    continue;
                }
                let end = self.end(session.last);
                if end <= watermark && !session.has_ended {
                    self.each[number as usize].has_ended = true;
                    closed.ended.push(session);
                }
                if end.saturating_add(self.lateness) > watermark {
                    open.push(number);
                    continue;
                }
                closed.gone.push(session);
                self.remove(number);
                self.free.push(number);
            }
        }
        open.into_iter().for_each(|number| self.file(number));
        for sessions in [&mut closed.ended, &mut closed.gone] {
            sessions.sort_by_key(|session| (session.last, session.group));
        }
        closed
    }

    /// The sessions' groups have new numbers, `groups` in all.
    pub fn renumber(&mut self, sessions: &[(u32, u32)], groups: usize) {
        let former = std::mem::replace(&mut self.latest, vec![NONE; groups]);
        for &(number, group) in sessions {
            let session = &mut self.each[number as usize];
            self.latest[group as usize] = former[session.group as usize];
            session.group = group;
        }
    }

    fn file(&mut self, number: u32) {
        let session = &self.each[number as usize];
        let end = self.end(session.last);
        let end = match session.has_ended {
            true => end.saturating_add(self.lateness),
            false => end,
        };
        self.filed.entry(end.div_euclid(self.stretch)).or_default().push(number);
    }

    /// Puts a session into its group's list, in front of the first that is `older`.
    fn link(&mut self, group: u32, number: u32, older: impl Fn(&Session) -> bool) {
        let mut before = NONE;
        let mut after = self.latest[group as usize];
        while after != NONE && !older(&self.each[after as usize]) {
            before = after;
            after = self.each[after as usize].older;
        }
        self.each[number as usize].older = after;
        self.set_older(group, before, number);
    }

    /// Takes a session out of its group's list. Its number stays in use as long as it is filed.
    fn remove(&mut self, number: u32) {
        let Session { group, older, .. } = self.each[number as usize];
        let mut before = NONE;
        let mut next = self.latest[group as usize];
        while next != number && next != NONE {
            before = next;
            next = self.each[next as usize].older;
        }
        self.set_older(group, before, older);
        self.each[number as usize].place = NOWHERE;
        if self.latest[group as usize] == NONE {
            self.groups_open -= 1;
        }
    }

    fn set_older(&mut self, group: u32, before: u32, older: u32) {
        match before {
            NONE => self.latest[group as usize] = older,
            before => self.each[before as usize].older = older,
        }
    }
}

/// Keeps a union that holds a fragment. The sessions of another are left alone.
fn keep(union: Union, unions: &mut Vec<Union>, absorbed: &mut Vec<u32>) {
    if union.fragments.is_empty() {
        absorbed.truncate(union.absorbed.start);
    } else {
        unions.push(union);
    }
}
