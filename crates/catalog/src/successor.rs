//! Objects that are built beside what they replace, and take its place when they have caught up.
//!
//! 1. An object that a query fills stays what it is when it is replaced; the new definition is its successor, with an
//!    id of its own. What reads from it, all the way down, gets a successor as well: the same statement, planned on
//!    the successors of what it reads. So there is one [`Snapshot::future`], in which every successor has its place.
//! 2. What hangs together is swapped together, in one change of the catalog ([`Snapshot::building`],
//!    [`Snapshot::swapped`]): nobody ever sees a part of it.
//! 3. A new object that reads from one with a successor reads the successor from the first row on. It is `ahead`, and
//!    belongs to those that are swapped together, though there is nothing that it replaces.
//!
//! All of it is in the catalog, so that a restart goes on building.

use std::sync::Arc;

use crate::definition::Definition;
use crate::snapshot::{Change, Snapshot};

impl Snapshot {
    /// The catalog as it will be: every successor in the place of what it replaces.
    #[must_use]
    pub fn future(&self) -> Self {
        let mut future = self.clone();
        for object in future.objects.values_mut().filter(|object| object.is_building()) {
            *object = Arc::new(arrived(object));
        }
        future.find_routes();
        future
    }

    /// The names of what is being built, in groups that are swapped together: objects that read from one another, as
    /// they are or as they will be.
    pub fn building(&self) -> Vec<Vec<&str>> {
        let mut groups: Vec<Vec<&Definition>> = Vec::new();
        for object in self.iter().filter(|object| object.is_building()) {
            let (mut joined, apart): (Vec<_>, Vec<_>) = groups
                .into_iter()
                .partition(|group| group.iter().any(|other| hang_together(object, other)));
            joined.push(vec![object]);
            groups = apart;
            groups.push(joined.concat());
        }
        let names = groups
            .into_iter()
            .map(|group| group.into_iter().map(|object| object.name.as_str()).collect());
        names.collect()
    }

    /// What puts these in the place of what they replace.
    pub fn swapped(&self, names: &[String]) -> Vec<Change> {
        let objects = names.iter().filter_map(|name| self.get(name));
        objects.map(|object| Change::Put(arrived(object))).collect()
    }
}

/// The object as it will be once everything that it reads is there.
fn arrived(object: &Definition) -> Definition {
    Definition {
        successor: None,
        ahead: false,
        ..object.latest().clone()
    }
}

fn hang_together(one: &Definition, other: &Definition) -> bool {
    let reads = |one: &Definition, other: &Definition| {
        let needs = one.needs().iter().chain(one.latest().needs());
        needs.into_iter().any(|name| *name == other.name)
    };
    reads(one, other) || reads(other, one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::{Object, Query, Start, StateBound, View};

    fn view(name: &str, reads: &[&str]) -> Definition {
        let query = Query {
            sql: String::new(),
            reads: reads.iter().map(|&name| name.to_owned()).collect(),
            start: Start::Earliest,
            state: StateBound::Bounded,
            allowed_lateness: 0,
            state_ttl: None,
            tables: Vec::new(),
        };
        let view = View {
            columns: Vec::new(),
            key: None,
            partitions: 1,
            http_path: None,
            query,
        };
        Definition::new(name, "", Object::View(view))
    }

    fn with_successor(snapshot: &Snapshot, successor: Definition) -> Snapshot {
        let present = snapshot.get(&successor.name).unwrap().as_ref().clone();
        snapshot.with(&[Change::Put(Definition {
            successor: Some(Box::new(Definition {
                ahead: true,
                ..successor
            })),
            ..present
        })])
    }

    #[test]
    fn what_hangs_together_now_or_later_is_swapped_together() {
        let all = [view("a", &[]), view("b", &["a"]), view("c", &[]), view("d", &["c"])];
        let snapshot = Snapshot::default().with(&all.map(Change::Put));
        // b no longer reads from a, and does until it is swapped.
        let snapshot = with_successor(&snapshot, view("b", &[]));
        let snapshot = with_successor(&snapshot, view("a", &[]));
        let snapshot = with_successor(&snapshot, view("d", &["c"]));
        assert_eq!(snapshot.building(), [vec!["a", "b"], vec!["d"]]);

        let group = ["a".to_owned(), "b".to_owned()];
        let after = snapshot.with(&snapshot.swapped(&group));
        assert_eq!(after.building(), [vec!["d"]]);
        let id = |name: &str| after.get(name).unwrap().id;
        assert_eq!(
            (id("a"), id("b")),
            (6, 5),
            "an id is that of the change that made the successor"
        );
        assert_eq!(after.future().get("d").unwrap().id, 7);
        assert_eq!(id("d"), 4);
    }
}
