//! CREATE and DROP: statements that stand together change the catalog in one step, or not at all.
//!
//! 1. Plan all of them, each against the catalog as the ones before it would leave it.
//! 2. Apply the changes to the version that they were planned against. If somebody else was faster,
//!    plan again.
//! 3. Wait until the new version is in effect, so that the next statement finds it running.

use std::sync::Arc;

use headwater_catalog::definition::{Definition, Start};
use headwater_catalog::snapshot::{Change, Snapshot};
use headwater_catalog::store::Error as CatalogError;
use headwater_sql::define;
use headwater_sql::error::SqlError;
use headwater_sql::statement::{Kind, Name, ObjectKind, Statement};

use crate::error::QueryError;
use crate::session::{Answer, topics};
use crate::shared::Shared;

/// How often changes are planned again because somebody else changed the catalog meanwhile.
const ATTEMPTS_MAX: usize = 10;

pub fn changes_catalog(statement: &Statement) -> bool {
    matches!(
        statement.kind,
        Kind::CreateStream(_)
            | Kind::CreateView(_)
            | Kind::CreateSource(_)
            | Kind::CreateSink(_)
            | Kind::CreateTable(_)
            | Kind::Drop(_)
    )
}

/// Plans the changes among the statements without applying them.
pub fn check(shared: &Shared, statements: &[Statement]) -> Result<(), QueryError> {
    plan(statements, &shared.parts.catalog.snapshot())?;
    Ok(())
}

pub async fn apply(shared: &Arc<Shared>, statements: &[Statement]) -> Result<Vec<Answer>, QueryError> {
    let catalog = &shared.parts.catalog;
    let mut attempt = 1;
    let (version, notices) = loop {
        let snapshot = catalog.snapshot();
        let mut planned = plan(statements, &snapshot)?;
        if let Some(settled) = topics::settled(shared, statements, &changes_of(&planned)).await? {
            planned = plan(&settled, &snapshot)?;
        }
        let changes = changes_of(&planned);
        look(shared, statements, &changes, &snapshot).await?;
        let notices = notices(statements, &planned);
        if changes.is_empty() {
            break (snapshot.version, notices);
        }
        match catalog.apply(snapshot.version, changes).await {
            Ok(version) => break (version, notices),
            Err(CatalogError::Conflict { .. }) if attempt < ATTEMPTS_MAX => attempt += 1,
            Err(error) => return Err(error.into()),
        }
    };
    in_effect(shared, version).await?;
    forget_views(shared);
    let done = |(statement, notice)| Answer::Done {
        tag: tag(statement).to_owned(),
        rows: None,
        notice,
    };
    Ok(statements.iter().zip(notices).map(done).collect())
}

/// What a statement changes.
struct Planned {
    changes: Vec<Change>,
    /// Why it doesn't go on with the state of what it replaces, if it was to.
    why_anew: Option<String>,
}

/// What each of the statements changes, in their order. Statements that aren't changes are left out.
fn plan(statements: &[Statement], snapshot: &Snapshot) -> Result<Vec<Planned>, SqlError> {
    let mut all = Vec::new();
    let mut working = snapshot.clone();
    for statement in statements.iter().filter(|statement| changes_catalog(statement)) {
        let why_anew = define::why_not_kept(statement, &working)?;
        let changes = define::changes(statement, &working)?;
        working = working.with(&changes);
        all.push(Planned { changes, why_anew });
    }
    Ok(all)
}

fn changes_of(planned: &[Planned]) -> Vec<Change> {
    planned.iter().flat_map(|planned| planned.changes.clone()).collect()
}

fn notices(statements: &[Statement], planned: &[Planned]) -> Vec<Option<String>> {
    let notices = statements.iter().zip(planned);
    notices.map(|(statement, planned)| notice(statement, planned)).collect()
}

/// What became of the object that a CREATE made or replaced, and of those that read from it.
fn notice(statement: &Statement, planned: &Planned) -> Option<String> {
    let (name, or_replace) = match &statement.kind {
        Kind::CreateStream(create) => (&create.name.value, create.or_replace),
        Kind::CreateView(create) => (&create.name.value, create.or_replace),
        Kind::CreateSource(create) => (&create.name.value, create.or_replace),
        Kind::CreateSink(create) => (&create.name.value, create.or_replace),
        Kind::CreateTable(create) => (&create.name.value, create.or_replace),
        _ => return None,
    };
    let changes = &planned.changes;
    let Some(Change::Put(object)) = changes.first() else {
        return Some(match or_replace {
            true => format!("{name} is there in these words already: nothing was changed"),
            false => format!("there is something of the name {name} already: nothing was changed"),
        });
    };
    let others: Vec<_> = changes.iter().skip(1).map(Change::name).collect();
    let with = match others.as_slice() {
        [] => String::new(),
        others => format!(", and with it {}", others.join(", ")),
    };
    if object.table().is_some() && object.id != 0 {
        return Some(format!(
            "{name} is another table with the same columns: what reads from it goes on, and asks this one from now on"
        ));
    }
    if object.id != 0 && object.successor.is_none() {
        return Some(format!(
            "{name} goes on with what it has kept: the new query is that of the rows from now on"
        ));
    }
    let Some(successor) = &object.successor else {
        return (!others.is_empty()).then(|| format!("made anew at once{with}"));
    };
    let query = successor.query()?;
    let from = match query.start {
        Start::Earliest => format!("from the start of {}", query.reads.join(" and ")),
        Start::Latest => "from now on".to_owned(),
    };
    let why = planned.why_anew.as_ref();
    let why = why.map_or(String::new(), |why| {
        format!(", because its state can't be kept ({why})")
    });
    Some(format!(
        "built anew {from}{with}{why}; until that has caught up, {name} answers as it was"
    ))
}

/// Looks whether what new sources read from is there, where new sinks write to, and which tables are asked for rows.
async fn look(
    shared: &Shared,
    statements: &[Statement],
    changes: &[Change],
    snapshot: &Snapshot,
) -> Result<(), SqlError> {
    let after = snapshot.with(changes);
    let made = |name: &Name| {
        let is_new = |change: &Change| matches!(change, Change::Put(new) if new.name == name.value);
        after.get(&name.value).filter(|_| changes.iter().any(is_new))
    };
    for statement in statements {
        match &statement.kind {
            Kind::CreateSource(create) => {
                let source = made(&create.name).and_then(|definition| definition.source());
                if let (Some(source), Some(into)) = (source, after.get(&create.stream.value)) {
                    let found = shared.parts.sources.look(source, into);
                    found.map_err(|refusal| define::source::placed(create, &refusal))?;
                }
            }
            Kind::CreateSink(create) => {
                let sink = made(&create.name).and_then(|definition| definition.sink());
                if let (Some(sink), Some(reads)) = (sink, after.get(&create.reads.value)) {
                    let found = shared.parts.sinks.look(sink, reads).await;
                    found.map_err(|refusal| define::sink::placed(create, &refusal))?;
                }
            }
            Kind::CreateTable(create) => {
                let table = made(&create.name).and_then(|definition| definition.table());
                if let Some(table) = table {
                    let sinks = after.iter().filter_map(|definition| definition.sink());
                    let found = shared.parts.lookups.look(table, sinks).await;
                    found.map_err(|refusal| define::table::placed(create, &refusal))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// What Postgres' clients expect to be told.
pub fn tag(statement: &Statement) -> &'static str {
    match &statement.kind {
        Kind::CreateStream(_) => "CREATE STREAM",
        Kind::CreateView(_) => "CREATE MATERIALIZED VIEW",
        Kind::CreateSource(_) => "CREATE SOURCE",
        Kind::CreateSink(_) => "CREATE SINK",
        Kind::CreateTable(_) => "CREATE TABLE",
        Kind::Drop(drop) => match drop.object {
            ObjectKind::Stream => "DROP STREAM",
            ObjectKind::View => "DROP MATERIALIZED VIEW",
            ObjectKind::Source => "DROP SOURCE",
            ObjectKind::Sink => "DROP SINK",
            ObjectKind::Table => "DROP TABLE",
        },
        _ => "OK",
    }
}

async fn in_effect(shared: &Shared, version: u64) -> Result<(), QueryError> {
    let mut applied = shared.parts.applied.clone();
    let timeout = shared.options.apply_timeout;
    tokio::select! {
        reached = applied.wait_for(|applied| *applied >= version) => match reached {
            Ok(_) => Ok(()),
            Err(_) => Err(QueryError::internal("the server is stopping")),
        },
        () = shared.parts.clock.sleep(timeout) => Err(QueryError::NotApplied {
            version,
            seconds: timeout.as_secs(),
        }),
    }
}

/// Views that are gone or replaced need not stay open.
fn forget_views(shared: &Shared) {
    let snapshot = shared.parts.catalog.snapshot();
    let is_current = |view: &Definition| snapshot.get(&view.name).is_some_and(|current| current.id == view.id);
    shared.views.retain(is_current);
}
