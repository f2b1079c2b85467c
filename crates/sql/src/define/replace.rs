//! Whether an object can be replaced: what reads from it, or writes into it, must still be able to. What reads from it
//! is made anew as well: its state and rows come from an object that is there no more.

use std::sync::Arc;

use headwater_catalog::definition::{Definition, Object};
use headwater_catalog::snapshot::{Change, Snapshot};

use crate::define::{sink, source};
use crate::error::{Kind, Result, SqlError};
use crate::plan;

/// The queries and sinks that read from an object that is replaced, in the order of the flow, to get new ids.
pub fn made_anew(name: &str, snapshot: &Snapshot) -> Vec<Definition> {
    let dependents = snapshot.dependents_deep(name).into_iter();
    let reads = |dependent: &&Arc<Definition>| dependent.query().is_some() || dependent.sink().is_some();
    let readers = dependents.filter_map(|name| snapshot.get(name).filter(reads));
    let anew = readers.map(|dependent| Definition {
        id: 0,
        ..dependent.as_ref().clone()
    });
    anew.collect()
}

/// Plans everything that depends on `existing` as if `new` were in its place.
pub fn check(existing: &Arc<Definition>, new: &Definition, snapshot: &Snapshot) -> Result<()> {
    if existing.stream().is_some_and(|stream| stream.builtin) {
        return Err(SqlError::invalid(format!(
            "{} belongs to Headwater and can't be replaced",
            existing.name
        )));
    }
    let after = snapshot.with(&[Change::Put(new.clone())]);
    for name in snapshot.dependents_deep(&existing.name) {
        let Some(dependent) = after.get(name) else {
            continue;
        };
        let runs = match &dependent.object {
            Object::Source(source) => source::check(source, new).map_err(|refusal| refusal.to_string()),
            Object::Sink(sink) => match after.get(&sink.reads) {
                Some(reads) => sink::check(sink, reads).map_err(|refusal| refusal.to_string()),
                None => Err(format!("{} is not there", sink.reads)),
            },
            Object::Stream(_) | Object::View(_) => plan::pipeline(dependent, &after)
                .map(drop)
                .map_err(|error| error.message),
        };
        if let Err(why) = runs {
            return Err(SqlError::new(
                Kind::Dependents,
                format!("{} can't be replaced: {name} could no longer run, {why}", existing.name),
            )
            .hint(format!("drop {name} first")));
        }
    }
    Ok(())
}
