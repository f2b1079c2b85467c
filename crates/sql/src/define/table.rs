//! `CREATE TABLE`: from its columns and options to a definition that its connector accepts.

use headwater_catalog::definition::{Definition, Object, Table};
use headwater_catalog::snapshot::Snapshot;
use headwater_connect::lookup;
use headwater_connect::options::{About, Refusal};

use crate::define::column::{check_known, column};
use crate::define::options::{HTTP_PATH, route};
use crate::define::source::{CONNECTOR, of_option, refused, texts};
use crate::error::{Result, SqlError};
use crate::statement::CreateTable;

pub fn table(create: &CreateTable, snapshot: &Snapshot) -> Result<Table> {
    let mut options = texts(&create.options);
    options.remove(HTTP_PATH);
    let routed = create.options.iter().find(|option| option.key.value == HTTP_PATH);
    let http_path = routed.map(|option| route(option, &create.name.value, snapshot));
    let Some(connector) = options.remove(CONNECTOR) else {
        return Err(SqlError::invalid(
            "a table needs a connector: it is kept elsewhere, and its rows are looked up",
        )
        .at(create.name.place.clone())
        .hint(
            "WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'customers'), for example; what is kept here is a STREAM of events, \
             or a MATERIALIZED VIEW",
        ));
    };
    if let Some((_, place)) = create.columns.iter().find_map(|column| column.default.as_ref()) {
        return Err(
            SqlError::invalid("a column of a table has no DEFAULT: its rows are made elsewhere").at(place.clone()),
        );
    }
    let columns = create.columns.iter().map(column).collect::<Result<Vec<_>>>()?;
    if create.key.is_empty() {
        return Err(
            SqlError::invalid("a table needs a PRIMARY KEY, by which its rows are looked up")
                .at(create.name.place.clone())
                .hint("add to its columns: PRIMARY KEY (columns)"),
        );
    }
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    for (at, name) in create.key.iter().enumerate() {
        check_known(name, &names)?;
        if create.key[..at].iter().any(|other| other.value == name.value) {
            let message = format!("the column {} is there twice", name.value);
            return Err(SqlError::invalid(message).at(name.place.clone()));
        }
    }
    let table = Table {
        columns,
        key: create.key.iter().map(|name| name.value.clone()).collect(),
        connector,
        options,
        http_path: http_path.transpose()?,
    };
    lookup::check(&table).map_err(|refusal| placed(create, &refusal))?;
    Ok(table)
}

/// The table that takes the place of one with the same columns: it stays the same object, so that what reads from it goes on,
/// and asks the new one from now on.
pub fn in_place(new: &Definition, snapshot: &Snapshot) -> Option<Definition> {
    let existing = snapshot.get(&new.name)?;
    let (Object::Table(was), Object::Table(is)) = (&existing.object, &new.object) else {
        return None;
    };
    (was.columns == is.columns && was.key == is.key).then(|| Definition {
        id: existing.id,
        ..new.clone()
    })
}

/// The error for a table that can't be, where the statement says what is wrong.
pub fn placed(create: &CreateTable, refusal: &Refusal) -> SqlError {
    let of_column = |name: &String| create.columns.iter().find(|column| column.name.value == *name);
    let place = match &refusal.about {
        About::Column(name) => of_column(name).map(|column| &column.type_place),
        about => of_option(about, &create.options),
    };
    refused(refusal, place.unwrap_or(&create.name.place))
}
