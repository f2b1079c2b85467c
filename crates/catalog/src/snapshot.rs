//! The catalog as of one version, and changes to it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::definition::Definition;
use crate::store::Objects;

#[allow(
    clippy::large_enum_variant,
    reason = "a few at a time, and nearly all are of the large kind"
)]
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Creates the object, or replaces the one of the same name. What has a name and a successor stays what it is.
    Put(Definition),
    Remove(String),
}

/// All objects as of one version. Never changes.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub version: u64,
    pub(crate) objects: Objects,
    /// The objects that have a route of the user's choosing, by its path.
    routes: HashMap<String, Arc<Definition>>,
}

impl Change {
    pub fn name(&self) -> &str {
        match self {
            Self::Put(definition) => &definition.name,
            Self::Remove(name) => name,
        }
    }
}

impl Snapshot {
    pub fn get(&self, name: &str) -> Option<&Arc<Definition>> {
        self.objects.get(name)
    }

    /// All objects by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Definition>> {
        self.objects.values()
    }

    /// The objects that need `name`, directly, as they are or as they will be.
    pub fn dependents(&self, name: &str) -> Vec<&str> {
        let needs = |object: &Definition| object.needs().iter().any(|needed| needed == name);
        self.iter()
            .filter(|object| needs(object) || needs(object.latest()))
            .map(|object| object.name.as_str())
            .collect()
    }

    /// `name`'s dependents and theirs, each after everything that it reads, without `name` itself.
    pub fn dependents_deep(&self, name: &str) -> Vec<&str> {
        let mut found = Vec::new();
        let mut next = vec![name];
        while let Some(name) = next.pop() {
            for dependent in self.dependents(name) {
                // A later sighting moves it behind whatever else it depends on.
                found.retain(|&known| known != dependent);
                found.push(dependent);
                next.push(dependent);
            }
        }
        found
    }

    /// The object whose name is spelled most like `name`, if one is close enough to be meant.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        nearest(name, self.objects.keys().map(String::as_str))
    }

    /// The object that has `path` as its route.
    pub fn by_http_path(&self, path: &str) -> Option<&Arc<Definition>> {
        self.routes.get(path)
    }

    /// What the catalog would be after `changes`: to plan the later statements of a file.
    #[must_use]
    pub fn with(&self, changes: &[Change]) -> Self {
        let changes = self.with_ids(changes.to_vec());
        self.at_version(self.version + changes.len() as u64, changes)
    }

    /// The changes, with an id for every definition that has none, or its successor: the offset after the
    /// change's own row, which is never used again because offsets aren't.
    pub(crate) fn with_ids(&self, mut changes: Vec<Change>) -> Vec<Change> {
        for (change, id) in changes.iter_mut().zip(self.version + 1..) {
            let Change::Put(definition) = change else { continue };
            if definition.id == 0 {
                definition.id = id;
            } else if let Some(successor) = definition.successor.as_mut().filter(|successor| successor.id == 0) {
                successor.id = id;
            }
        }
        changes
    }

    pub(crate) fn at_version(&self, version: u64, changes: Vec<Change>) -> Self {
        let mut after = self.clone();
        after.version = version;
        for change in changes {
            match change {
                Change::Put(definition) => {
                    after.objects.insert(definition.name.clone(), Arc::new(definition));
                }
                Change::Remove(name) => {
                    after.objects.remove(&name);
                }
            }
        }
        after.find_routes();
        after
    }

    pub(crate) fn find_routes(&mut self) {
        let objects = self.objects.values();
        self.routes = objects
            .filter_map(|object| Some((object.http_path()?.to_owned(), Arc::clone(object))))
            .collect();
    }
}

/// The candidate that differs from `name` by the fewest edits, if they are at most a third of it.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = (name.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (edits(name, candidate), candidate))
        .filter(|&(edits, _)| edits <= most)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many characters have to be added, removed or replaced to make one of the other: Levenshtein distance, by the usual dynamic program over one row.
pub fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, in_a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &in_b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(in_a != in_b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_a_likely_typo() {
        let names = ["clicks", "page_clicks", "dead_letters"];
        assert_eq!(nearest("clicsk", names.into_iter()), Some("clicks"));
        assert_eq!(nearest("page_click", names.into_iter()), Some("page_clicks"));
        assert_eq!(nearest("orders", names.into_iter()), None);
    }
}
