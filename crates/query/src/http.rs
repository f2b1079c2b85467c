//! The HTTP routes that answer: SQL, rows of views, events of streams, live, the catalog.
//!
//! | route | answers |
//! |---|---|
//! | `POST /v1/sql` | what the statements say |
//! | `GET /v1/views/{view}` | one row by its key, or rows |
//! | `GET /v1/tables/{table}` | the row of a table elsewhere by its key |
//! | `GET /v1/views/{view}/live` | changes of a view, by WebSocket or SSE |
//! | `GET /v1/streams/{stream}/events` | events from the log, with their places |
//! | `GET /v1/streams/{stream}/live` | the same as they come, by WebSocket or SSE |
//! | `GET /v1/catalog` | streams, views, sources and sinks |

mod catalog;
pub(crate) mod events;
mod live;
mod message;
pub(crate) mod query_string;
pub(crate) mod rows;
mod sql;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use headwater_catalog::definition::{Definition, Object};
use headwater_catalog::snapshot::Snapshot;
use headwater_problem::{Problem, ProblemKind};

use crate::shared::Shared;

pub use rows::Rows;
pub use view::{path_request, view_request};

pub fn router(shared: Arc<Shared>) -> Router {
    let sql_bytes_max = shared.options.sql_bytes_max;
    Router::new()
        .route("/v1/sql", post(sql::run).layer(DefaultBodyLimit::max(sql_bytes_max)))
        .route("/v1/views/{view}", get(view::rows))
        .route("/v1/tables/{table}", get(view::table_row))
        .route("/v1/views/{view}/live", get(live::view))
        .route("/v1/streams/{stream}/events", get(events::read))
        .route("/v1/streams/{stream}/live", get(live::stream))
        .route("/v1/catalog", get(catalog::list))
        .with_state(shared)
}

fn not_of_kind(found: &Definition, kind: ProblemKind, wanted: &str) -> Problem {
    let name = &found.name;
    let problem = Problem::new(kind, format!("'{name}' is a {}, not a {wanted}", found.kind()));
    match &found.object {
        Object::Stream(_) => problem.hint(format!("its events are at /v1/streams/{name}/events")),
        Object::View(_) => problem.hint(format!("its rows are at /v1/views/{name}")),
        Object::Source(source) => problem.hint(format!("what it brings is in the stream {}", source.stream)),
        Object::Sink(sink) => problem.hint(format!("what it takes elsewhere is in {}", sink.reads)),
        Object::Table(_) => problem.hint(format!(
            "its rows, which are kept elsewhere, are by their keys at /v1/tables/{name}"
        )),
    }
}

/// The view of this name, or what to say where there is none.
pub(crate) fn find_view<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Arc<Definition>, Problem> {
    match snapshot.get(name) {
        Some(definition) if definition.view().is_some() => Ok(definition),
        Some(other) => Err(not_of_kind(other, ProblemKind::UnknownView, "view")),
        None => Err(Problem::unknown(
            ProblemKind::UnknownView,
            "view",
            name,
            snapshot.nearest(name),
        )),
    }
}

/// The table elsewhere of this name, or what to say where there is none.
fn find_table<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Arc<Definition>, Problem> {
    match snapshot.get(name) {
        Some(definition) if definition.table().is_some() => Ok(definition),
        Some(other) => Err(not_of_kind(other, ProblemKind::NotFound, "table")),
        None => Err(Problem::unknown(
            ProblemKind::NotFound,
            "table",
            name,
            snapshot.nearest(name),
        )),
    }
}

/// The view, or table elsewhere, of this name, or what to say where there is none.
pub(crate) fn find_rows<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Arc<Definition>, Problem> {
    let table = snapshot.get(name).filter(|definition| definition.table().is_some());
    table.map_or_else(|| find_view(snapshot, name), Ok)
}

/// The stream of this name, or what to say where there is none.
fn find_stream<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Arc<Definition>, Problem> {
    match snapshot.get(name) {
        Some(definition) if definition.stream().is_some() => Ok(definition),
        Some(other) => Err(not_of_kind(other, ProblemKind::UnknownStream, "stream")),
        None => Err(Problem::unknown(
            ProblemKind::UnknownStream,
            "stream",
            name,
            snapshot.nearest(name),
        )),
    }
}
