//! Whether an object can be replaced: what reads from it must still be able to.

use std::sync::Arc;

use headwater_catalog::definition::Definition;
use headwater_catalog::snapshot::{Change, Snapshot};

use crate::error::{Kind, Result, SqlError};
use crate::plan;

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
        if let Err(error) = plan::pipeline(dependent, &after) {
            return Err(SqlError::new(
                Kind::Dependents,
                format!(
                    "{} can't be replaced: {name} could no longer run, {}",
                    existing.name, error.message
                ),
            )
            .hint(format!("drop {name} first")));
        }
    }
    Ok(())
}
