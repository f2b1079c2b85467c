//! A client's conversation in SQL: statements in, answers out.
//!
//! 1. A text is parsed as a whole; an error anywhere means that nothing of it is done.
//! 2. Statements that change the catalog and stand together are planned together, each against what
//!    the ones before it would make of the catalog, and applied in one step ([`ddl`]). When a text
//!    has other statements between them, all are planned before the first one is carried out.
//! 3. A SELECT is DataFusion's, over the tables of this crate, within the memory that queries have.
//!    With EMIT CHANGES it becomes a pipeline of the engine that lives as long as its reader.

mod bad_value;
mod ddl;
mod insert;
mod show;
mod state;
mod topics;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use chrono::DateTime;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::dataframe::DataFrame;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use futures::{StreamExt, TryStreamExt, stream};
use headwater_catalog::definition::Definition;
use headwater_catalog::snapshot::Snapshot;
use headwater_engine::plan::{Input, Pipeline};
use headwater_event::changes::{readable, readable_schema};
use headwater_event::offset::{Offset, TopicPartition};
use headwater_event::op::is_changelog;
use headwater_event::stored::Stored;
use headwater_problem::{Problem, ProblemKind};
use headwater_sql::error::{Kind as SqlKind, SqlError};
use headwater_sql::session::logical_plan;
use headwater_sql::statement::{Kind, Select, Statement};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::error::QueryError;
use crate::execution;
use crate::http::Rows;
use crate::http::query_string::invalid;
use crate::position::From;
use crate::shared::Shared;
use crate::taken_in::{MIN_OFFSET, taken_in};

/// What a statement gave.
pub enum Answer {
    Rows {
        schema: SchemaRef,
        rows: Rows,
    },
    /// It is done: the words for it (`CREATE STREAM`), the number of rows where there is one, and what there is to
    /// know besides.
    Done {
        tag: String,
        rows: Option<usize>,
        notice: Option<String>,
    },
    /// Rows without an end.
    Changes {
        schema: SchemaRef,
        rows: Rows,
    },
}

/// Where statements are carried out. Cheap; holds nothing between statements.
pub struct Session {
    shared: Arc<Shared>,
    context: SessionContext,
    /// Where live queries begin.
    from: From,
    /// What has to be in what is read.
    stored: Stored,
}

impl Session {
    pub fn new(shared: Arc<Shared>) -> Self {
        let context = shared.context();
        Self {
            shared,
            context,
            from: From::Latest,
            stored: Stored::default(),
        }
    }

    /// A SELECT waits until this is in what it reads.
    #[must_use]
    pub fn with(self, stored: Stored) -> Self {
        Self { stored, ..self }
    }

    /// Live queries begin here instead of now.
    #[must_use]
    pub fn live_from(self, from: From) -> Self {
        Self { from, ..self }
    }

    pub fn context(&self) -> &SessionContext {
        &self.context
    }

    /// Carries out all statements of a text. `parameters` are the values of `$1`, `$2`, …
    pub async fn execute(&self, sql: &str, parameters: &[ScalarValue]) -> Result<Vec<Answer>, QueryError> {
        let statements = headwater_sql::parse::parse(sql)?;
        self.run(&statements, parameters).await
    }

    /// Carries out statements that were parsed together.
    pub async fn run(&self, statements: &[Statement], parameters: &[ScalarValue]) -> Result<Vec<Answer>, QueryError> {
        let groups: Vec<_> = statements
            .chunk_by(|one, next| ddl::changes_catalog(one) && ddl::changes_catalog(next))
            .collect();
        if groups.len() > 1 {
            ddl::check(&self.shared, statements)?;
        }
        let mut answers = Vec::with_capacity(statements.len());
        for group in groups {
            match group {
                [statement, ..] if ddl::changes_catalog(statement) => {
                    answers.extend(ddl::apply(&self.shared, group).await?);
                }
                _ => {
                    for statement in group {
                        answers.push(self.one(statement, parameters).await?);
                    }
                }
            }
        }
        Ok(answers)
    }

    async fn one(&self, statement: &Statement, parameters: &[ScalarValue]) -> Result<Answer, QueryError> {
        match &statement.kind {
            Kind::Select(select) if select.emit_changes => self.changes(select).await,
            Kind::Select(select) => self.select(select, parameters).await,
            Kind::Insert(_) => insert::run(self, statement, parameters).await,
            Kind::Show(show) => show::show(&self.shared, *show).await,
            Kind::ShowState(name) => state::show(&self.shared, name.as_ref()).await,
            Kind::Describe(name) => show::describe(&self.shared, name),
            Kind::Explain(explain) => show::explain(self, explain, parameters).await,
            Kind::CreateStream(_)
            | Kind::CreateView(_)
            | Kind::CreateSource(_)
            | Kind::CreateSink(_)
            | Kind::CreateTable(_)
            | Kind::Drop(_) => Err(QueryError::internal("a change of the catalog came out of its group")),
            Kind::Other(other) => Err(SqlError::unsupported(format!("{other} is not available here"))
                .at(statement.source.start())
                .into()),
        }
    }

    async fn select(&self, select: &Select, parameters: &[ScalarValue]) -> Result<Answer, QueryError> {
        let plan = self.plan_query(select).await?;
        if !self.stored.is_empty() {
            taken_in(&self.shared, &self.read_by(&plan)?, &self.stored).await?;
        }
        self.rows(plan, parameters)
    }

    /// The streams and views that a plan reads, in subqueries too.
    fn read_by(&self, plan: &LogicalPlan) -> Result<Vec<Arc<Definition>>, QueryError> {
        let snapshot = self.shared.parts.catalog.snapshot();
        let mut read: Vec<Arc<Definition>> = Vec::new();
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && let Some(object) = snapshot.get(scan.table_name.table()).filter(|object| object.has_rows())
                && read.iter().all(|known| known.id != object.id)
            {
                read.push(Arc::clone(object));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(read)
    }

    /// The rows of a plan, parameters filled in.
    pub(crate) fn rows(&self, plan: LogicalPlan, parameters: &[ScalarValue]) -> Result<Answer, QueryError> {
        let plan = bind(plan, parameters)?;
        let frame = DataFrame::new(self.state(), plan);
        let rows = execution::rows(&self.shared.parts.executor, frame);
        Ok(Answer::Rows {
            schema: rows.schema(),
            rows: rows.map_err(QueryError::from).boxed(),
        })
    }

    /// The plan of a query, its parameters still open. Planned on the executor.
    pub(crate) async fn plan_query(&self, select: &Select) -> Result<LogicalPlan, QueryError> {
        let state = self.state();
        let select = select.clone();
        let snapshot = self.shared.parts.catalog.snapshot();
        execution::on(&self.shared.parts.executor, async move {
            let plan = logical_plan(&state, &select.query, &select.source).await;
            Ok(plan.map_err(|error| unknown_table(error, &snapshot))?)
        })
        .await
    }

    pub(crate) async fn plan_insert(&self, statement: &Statement) -> Result<LogicalPlan, QueryError> {
        insert::plan(self, statement).await
    }

    /// Carries out a planned INSERT.
    pub(crate) async fn append(&self, plan: LogicalPlan, parameters: &[ScalarValue]) -> Result<Answer, QueryError> {
        insert::append(self, plan, parameters).await
    }

    /// The columns of a live query.
    pub(crate) fn changes_schema(&self, select: &Select) -> Result<SchemaRef, QueryError> {
        let snapshot = self.shared.parts.catalog.snapshot();
        let (_, schema) = headwater_sql::plan::live_select(select, &snapshot, "live")?;
        Ok(readable_schema(&schema))
    }

    /// What a query is planned and run with; `now()` is the time at which it was asked for.
    pub(crate) fn state(&self) -> SessionState {
        let mut state = self.context.state();
        let now = DateTime::from_timestamp_micros(self.shared.parts.clock.now());
        state.execution_props_mut().query_execution_start_time = now;
        state
    }

    async fn changes(&self, select: &Select) -> Result<Answer, QueryError> {
        if !self.stored.is_empty() {
            let problem = invalid(format!("'{MIN_OFFSET}' is of no use to a query that goes on for ever"));
            return Err(problem
                .hint("ask without it: what comes later is shown when it comes")
                .into());
        }
        let permit = self.shared.live_permit()?;
        let snapshot = self.shared.parts.catalog.snapshot();
        let name = format!("live-{}", self.shared.parts.ids.uuid());
        let (pipeline, schema) = headwater_sql::plan::live_select(select, &snapshot, &name)?;
        let from = self.begin(&pipeline).await?;
        let gone = gone(&snapshot, &pipeline, self.shared.parts.catalog.subscribe());
        let mut live = self.shared.parts.engine.live(pipeline, from).await?;
        let rows = stream::poll_fn(move |context| live.poll_recv(context));
        let rows = rows.map(|rows| Ok(readable(&rows?)?));
        let rows = until(rows.boxed(), gone);
        let stop = self.shared.parts.stop.clone();
        let rows = holding(permit, rows.boxed()).take_until(stop.cancelled_owned());
        Ok(Answer::Changes {
            schema: readable_schema(&schema),
            rows: rows.boxed(),
        })
    }
}

/// DataFusion has no error of its own kind for a table that isn't there, only these words.
fn unknown_table(error: SqlError, snapshot: &Snapshot) -> SqlError {
    let name = error
        .message
        .strip_prefix("table '")
        .and_then(|rest| rest.strip_suffix("' not found"));
    let Some(name) = name.and_then(|name| name.rsplit('.').next()) else {
        return error;
    };
    SqlError::new(SqlKind::UnknownObject, format!("there is no stream or view '{name}'"))
        .did_you_mean(snapshot.nearest(name))
        .at(error.place.clone())
}

pub(crate) fn bind(plan: LogicalPlan, parameters: &[ScalarValue]) -> Result<LogicalPlan, QueryError> {
    let wanted = plan.get_parameter_names()?.len();
    if wanted == 0 && parameters.is_empty() {
        return Ok(plan);
    }
    if wanted > parameters.len() {
        let given = parameters.len();
        let message = format!("the statement has {wanted} parameters, but there are values for {given}");
        return Err(SqlError::invalid(message).into());
    }
    let values: Vec<_> = parameters.iter().cloned().map(Into::into).collect();
    Ok(plan.replace_params_with_values(&ParamValues::List(values))?)
}

impl Session {
    /// The first offsets that a live query reads of its inputs.
    async fn begin(&self, pipeline: &Pipeline) -> Result<HashMap<TopicPartition, Offset>, QueryError> {
        let mut begin = HashMap::new();
        // What was in a view before has to be known to those who put its changes together.
        let from_start = |input: &Input| pipeline.keeps_state() && is_changelog(&input.schema);
        for input in pipeline.inputs().filter(|input| !from_start(input)) {
            for number in 0..input.partitions {
                let partition = TopicPartition::new(Arc::clone(&input.topic), number);
                let offset = self.from.resolve(self.shared.parts.log.as_ref(), &partition).await?;
                begin.insert(partition, offset);
            }
        }
        Ok(begin)
    }
}

/// Returns when something that the pipeline reads is no longer what it was.
fn gone(
    snapshot: &Snapshot,
    pipeline: &Pipeline,
    mut catalog: watch::Receiver<Arc<Snapshot>>,
) -> impl Future<Output = QueryError> + Send + use<> {
    let topics: HashSet<_> = pipeline.inputs().map(|input| &*input.topic).collect();
    let read = snapshot.iter().filter(|object| topics.contains(&*object.topic()));
    let read: Vec<_> = read.cloned().collect();
    async move {
        loop {
            let now = catalog.borrow_and_update().clone();
            let is_gone = |object: &&Arc<Definition>| now.get(&object.name).is_none_or(|now| now.id != object.id);
            if let Some(Definition { name, .. }) = read.iter().find(is_gone).map(|object| &**object) {
                let problem = match now.get(name) {
                    Some(_) => Problem::new(ProblemKind::Conflict, format!("'{name}' was replaced")),
                    None => Problem::new(ProblemKind::Conflict, format!("'{name}' was dropped")),
                };
                return problem.hint("ask again, for the rows as they are").into();
            }
            if catalog.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The rows until `end`, which is the last thing that is said.
fn until(rows: Rows, end: impl Future<Output = QueryError> + Send + 'static) -> Rows {
    stream::unfold(Some((rows, Box::pin(end))), |state| async {
        let (mut rows, mut end) = state?;
        tokio::select! {
            biased;
            next = rows.next() => Some((next?, Some((rows, end)))),
            error = &mut end => Some((Err(error), None)),
        }
    })
    .boxed()
}

/// The rows, with the permit given back when they are dropped.
fn holding(permit: OwnedSemaphorePermit, rows: Rows) -> Rows {
    stream::unfold((permit, rows), |(permit, mut rows)| async {
        let next = rows.next().await?;
        Some((next, (permit, rows)))
    })
    .boxed()
}
