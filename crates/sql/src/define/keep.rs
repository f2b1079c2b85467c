//! `start = 'state'`: what replaces a query goes on where that is, with what it has kept, if that means the same to it.
//!
//! It is the same object then, with its id, and so with its topics, its state and its position; its query is another one from
//! the next row on. What state tables are called hangs on the places of operators, so these are written down as they were.

use headwater_catalog::definition::{Definition, Object, Query, View};
use headwater_catalog::snapshot::{Change, Snapshot};
use headwater_engine::plan::Stage;

use crate::define::options::FROM_STATE;
use crate::plan::{pipeline, shape};
use crate::statement::{Kind, OptionValue, Statement, StatementOption};

/// Whether a statement asks for the state of what it replaces.
pub fn asks(statement: &Statement) -> bool {
    let options = match &statement.kind {
        Kind::CreateStream(create) => &create.options,
        Kind::CreateView(create) => &create.options,
        _ => return false,
    };
    let is_asked = |option: &StatementOption| {
        option.key.value == "start" && matches!(&option.value, OptionValue::Text(text) if text == FROM_STATE)
    };
    options.iter().any(is_asked)
}

/// What becomes of `new` if it is to go on with the state of something that is there: see [`kept`].
pub fn asked(statement: &Statement, new: &Definition, snapshot: &Snapshot) -> Option<Result<Definition, String>> {
    let existing = snapshot.get(&new.name).filter(|_| asks(statement))?;
    Some(kept(existing, new, snapshot))
}

/// The definition that goes on in the place of `existing`, or why there can be none.
pub fn kept(existing: &Definition, new: &Definition, snapshot: &Snapshot) -> Result<Definition, String> {
    let (Some(former), true) = (existing.query(), existing.kind() == new.kind()) else {
        return Err(format!("{} was no {} that a query fills", new.name, new.kind()));
    };
    let is_ahead = |name: &String| snapshot.get(name).is_some_and(|input| input.is_building());
    if existing.is_building() || former.reads.iter().any(is_ahead) {
        return Err(format!("{} is being built, or reads from what is", new.name));
    }
    same_object(existing, new)?;
    let goes_on = |tables| Query {
        start: former.start,
        tables,
        ..new.query().unwrap_or(former).clone()
    };
    let with = |query| Definition {
        id: existing.id,
        object: with_query(&new.object, query),
        ..new.clone()
    };
    let plan = |definition: &Definition| pipeline(definition, snapshot).map_err(|error| error.message);
    let old = plan(existing)?;
    let kept = with(goes_on(old.stages.iter().map(Stage::all_tables).collect()));
    shape::fits(&old, &plan(&kept)?)?;
    same_for_readers(existing, &kept, snapshot)?;
    Ok(kept)
}

/// What reads from it may be planned on what it is made of.
fn same_for_readers(existing: &Definition, kept: &Definition, snapshot: &Snapshot) -> Result<(), String> {
    let after = snapshot.with(&[Change::Put(kept.clone())]);
    let planned = |reader: &Definition, snapshot| Some(format!("{:?}", pipeline(reader, snapshot).ok()?));
    for name in snapshot.dependents_deep(&existing.name) {
        let reader = snapshot.get(name).filter(|reader| reader.query().is_some());
        if reader.is_some_and(|reader| planned(reader, snapshot) != planned(reader, &after)) {
            return Err(format!("{name} reads what it is made of"));
        }
    }
    Ok(())
}

/// But for its query and its route.
fn same_object(existing: &Definition, new: &Definition) -> Result<(), String> {
    let names = |definition: &Definition| {
        let columns = definition.columns().iter();
        columns.map(|column| column.name.clone()).collect::<Vec<_>>()
    };
    let (were, are) = (names(existing), names(new));
    if were != are {
        return Err(format!(
            "its columns were {}, and would be {}",
            were.join(", "),
            are.join(", ")
        ));
    }
    if existing.columns() != new.columns() {
        return Err("the types of its columns would be others".to_owned());
    }
    let Some(query) = existing.query() else { return Ok(()) };
    let bare = |object: &Object| match with_query(object, query.clone()) {
        Object::View(view) => Object::View(View {
            http_path: None,
            ..view
        }),
        other => other,
    };
    match bare(&existing.object) == bare(&new.object) {
        true => Ok(()),
        false => Err("its key or its options would be others".to_owned()),
    }
}

fn with_query(object: &Object, query: Query) -> Object {
    let mut object = object.clone();
    match &mut object {
        Object::Stream(stream) => stream.query = Some(query),
        Object::View(view) => view.query = query,
        Object::Source(_) | Object::Sink(_) | Object::Table(_) => {}
    }
    object
}
