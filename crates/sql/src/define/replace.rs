//! What a new definition changes besides itself: what reads from a replaced object is made anew with it, since its state
//! and rows come from an object that will be there no more. It must still be able to run, and so must sources that
//! write into it.
//!
//! What a query fills, and is filled by a query again, is built beside what there is, with all that reads from it (see
//! [`headwater_catalog::successor`]). A stream that is filled from outside has no history to be built from: its place
//! is taken at once, and what reads from it begins anew.

use headwater_catalog::definition::Definition;
use headwater_catalog::snapshot::{Change, Snapshot};

use crate::define::{object, source};
use crate::error::{Kind, Result, SqlError};
use crate::parse::parse;

/// The changes that put `new` into the catalog, in the order of the flow.
pub fn changes(new: Definition, snapshot: &Snapshot) -> Result<Vec<Change>> {
    let Some(existing) = snapshot.get(&new.name) else {
        return Ok(vec![at_once(new, snapshot)]);
    };
    if existing.stream().is_some_and(|stream| stream.builtin) {
        let message = format!("{} belongs to Headwater and can't be replaced", existing.name);
        return Err(SqlError::invalid(message));
    }
    let is_beside = is_filled_alike(existing, &new);
    let replaced = existing.name.clone();
    let mut future = snapshot.future().with(&[Change::Put(new.clone())]);
    let dependents = match is_beside {
        // What only is to be replaced by something that doesn't read from it hangs together with it anyway.
        true => future_dependents(&replaced, snapshot),
        false => snapshot
            .dependents_deep(&replaced)
            .into_iter()
            .map(str::to_owned)
            .collect(),
    };
    let mut changes = vec![match is_beside {
        true => beside(existing, new.clone()),
        false => at_once(new.clone(), snapshot),
    }];
    for name in dependents {
        let Some(dependent) = snapshot.get(&name) else { continue };
        let anew = match dependent.source() {
            Some(source) => source::check(source, &new)
                .map(|()| None)
                .map_err(|refusal| refusal.to_string()),
            None => anew(dependent, &future).map(Some).map_err(|error| error.message),
        };
        let anew = anew.map_err(|why| {
            SqlError::new(
                Kind::Dependents,
                format!("{replaced} can't be replaced: {name} could no longer run, {why}"),
            )
            .hint(format!("drop {name} first"))
        })?;
        let Some(anew) = anew else { continue };
        future = future.with(&[Change::Put(anew.clone())]);
        changes.push(match is_beside && !dependent.ahead {
            true => beside(dependent, anew),
            false => at_once(anew, &snapshot.with(&changes)),
        });
    }
    Ok(changes)
}

/// In the order of the flow.
fn future_dependents(name: &str, snapshot: &Snapshot) -> Vec<String> {
    let future = snapshot.future();
    future.dependents_deep(name).into_iter().map(str::to_owned).collect()
}

/// Whether there is something to answer while the other is built.
fn is_filled_alike(existing: &Definition, new: &Definition) -> bool {
    existing.kind() == new.kind() && existing.query().is_some() && new.query().is_some()
}

fn beside(existing: &Definition, successor: Definition) -> Change {
    Change::Put(Definition {
        successor: Some(Box::new(Definition {
            ahead: true,
            ..successor
        })),
        ..existing.clone()
    })
}

/// `catalog` is what the object will find: what reads from something that is being built reads what comes of it.
fn at_once(new: Definition, catalog: &Snapshot) -> Change {
    let inputs = new.query().map_or(&[][..], |query| &query.reads);
    let ahead = inputs
        .iter()
        .filter_map(|name| catalog.get(name))
        .any(|input| input.is_building());
    Change::Put(Definition { ahead, ..new })
}

/// The latest statement of an object, planned again.
fn anew(dependent: &Definition, future: &Snapshot) -> Result<Definition> {
    let sql = &dependent.latest().sql;
    let statements = parse(sql)?;
    let [statement] = statements.as_slice() else {
        return Err(SqlError::internal(format!(
            "{} was made by no statement",
            dependent.name
        )));
    };
    let base = future.with(&[Change::Remove(dependent.name.clone())]);
    Ok(Definition::new(&dependent.name, sql, object(statement, &base)?))
}
