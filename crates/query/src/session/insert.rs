//! `INSERT INTO stream VALUES …` and `INSERT INTO stream SELECT …`: rows that DataFusion computes,
//! appended as one by the same pipeline that takes events.
//!
//! A column that the statement doesn't name isn't handed on at all, so that the pipeline fills in
//! its default; one that it names with NULL stays NULL.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::FieldRef;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue, TableReference};
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::parser::Statement as PlannedStatement;
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use futures::TryStreamExt;
use headwater_catalog::definition::Definition;
use headwater_catalog::snapshot::nearest;
use headwater_gateway::ingest::error::IngestError;
use headwater_sql::error::SqlError;
use headwater_sql::session::logical_plan;
use headwater_sql::statement::{Insert, Kind, Name, Source, Statement};

use crate::error::QueryError;
use crate::execution;
use crate::session::{Answer, Session, bad_value, bind};

pub async fn run(session: &Session, statement: &Statement, parameters: &[ScalarValue]) -> Result<Answer, QueryError> {
    let insert = insert(statement)?;
    let definition = stream(session, statement)?;
    let done = async { append(session, plan_of(session, insert, &statement.source).await?, parameters).await };
    match done.await {
        Ok(answer) => Ok(answer),
        Err(error) => Err(bad_value::blame(session, statement, &definition, parameters, error).await),
    }
}

/// The plan of an INSERT as DataFusion makes it; its parameters have the types of their columns.
pub async fn plan(session: &Session, statement: &Statement) -> Result<LogicalPlan, QueryError> {
    stream(session, statement)?;
    plan_of(session, insert(statement)?, &statement.source).await
}

fn insert(statement: &Statement) -> Result<&Insert, QueryError> {
    match &statement.kind {
        Kind::Insert(insert) => Ok(insert),
        _ => Err(QueryError::internal("not an INSERT")),
    }
}

/// The stream that the rows go into, which must have the columns that are named, and values for each.
fn stream(session: &Session, statement: &Statement) -> Result<Arc<Definition>, QueryError> {
    let insert = insert(statement)?;
    let snapshot = session.shared.parts.catalog.snapshot();
    let name = &insert.stream;
    match snapshot.get(&name.value) {
        Some(definition) if definition.stream().is_some() => {
            check_columns(insert, definition)?;
            bad_value::check_lengths(insert, &statement.source, definition)?;
            Ok(Arc::clone(definition))
        }
        Some(other) => {
            let message = format!("'{}' is a {}, and rows go into streams", name.value, other.kind());
            Err(SqlError::invalid(message).at(name.place.clone()).into())
        }
        None => {
            let message = format!("there is no stream '{}'", name.value);
            Err(SqlError::new(headwater_sql::error::Kind::UnknownObject, message)
                .did_you_mean(snapshot.nearest(&name.value))
                .at(name.place.clone())
                .into())
        }
    }
}

/// `source` is what places in the query refer to.
pub async fn plan_of(session: &Session, insert: &Insert, source: &Source) -> Result<LogicalPlan, QueryError> {
    let planned = PlannedStatement::Statement(Box::new(as_sql(insert)?));
    let (state, query, source) = (session.state(), insert.query.clone(), source.clone());
    execution::on(&session.shared.parts.executor, async move {
        match state.statement_to_plan(planned).await {
            Ok(plan) => Ok(plan),
            Err(error) => {
                // If it is the query that is wrong, its own plan says so with the place.
                logical_plan(&state, &query, &source).await?;
                Err(error.into())
            }
        }
    })
    .await
}

/// The columns that are named must be the stream's.
fn check_columns(insert: &Insert, stream: &Definition) -> Result<(), SqlError> {
    let known = || stream.columns().iter().map(|column| column.name.as_str());
    match insert
        .columns
        .iter()
        .find(|name| !known().any(|column| column == name.value))
    {
        None => Ok(()),
        Some(name) => {
            let message = format!("there is no column '{}' in {}", name.value, stream.name);
            Err(SqlError::new(headwater_sql::error::Kind::UnknownColumn, message)
                .did_you_mean(nearest(&name.value, known()))
                .at(name.place.clone()))
        }
    }
}

/// Appends the rows of an INSERT's plan.
pub async fn append(session: &Session, plan: LogicalPlan, parameters: &[ScalarValue]) -> Result<Answer, QueryError> {
    let LogicalPlan::Dml(insert) = plan else {
        return Err(QueryError::internal("an INSERT was planned as something else"));
    };
    let stream = insert.table_name.table().to_owned();
    let batch = rows(session, (*insert.input).clone(), parameters).await?;
    let inserted = if batch.num_rows() == 0 {
        0
    } else {
        session.shared.parts.ingest.append(&stream, batch).await?.accepted
    };
    Ok(Answer::Done {
        tag: "INSERT".to_owned(),
        rows: Some(inserted),
        notice: None,
    })
}

/// What is to be appended.
pub async fn rows(
    session: &Session,
    input: LogicalPlan,
    parameters: &[ScalarValue],
) -> Result<RecordBatch, QueryError> {
    let rows = named_columns(with_nulls(bind(input, parameters)?)?);
    let frame = DataFrame::new(session.state(), rows);
    let bytes_max = session.shared.options.insert_bytes_max;
    let mut rows = execution::rows(&session.shared.parts.executor, frame);
    let schema = rows.schema();
    let mut batches = Vec::new();
    let mut bytes = 0;
    while let Some(batch) = rows.try_next().await? {
        bytes += batch.get_array_memory_size();
        if bytes > bytes_max {
            return Err(IngestError::TooLarge { bytes_max }.into());
        }
        batches.push(batch);
    }
    Ok(concat_batches(&schema, &batches)?)
}

/// Lets NULLs through `VALUES`, whose columns DataFusion makes NOT NULL where the stream's are: the
/// pipeline refuses them in better words.
fn with_nulls(plan: LogicalPlan) -> datafusion::common::Result<LogicalPlan> {
    let plan = plan.transform_up(|node| match node {
        LogicalPlan::Values(mut values) => {
            let nullable = |(relation, field): (Option<&TableReference>, &FieldRef)| {
                let field = field.as_ref().clone().with_nullable(true);
                (relation.cloned(), Arc::new(field))
            };
            let fields = values.schema.iter().map(nullable).collect();
            values.schema = Arc::new(DFSchema::new_with_metadata(fields, HashMap::new())?);
            Ok(Transformed::yes(LogicalPlan::Values(values)))
        }
        other => Ok(Transformed::yes(other.recompute_schema()?)),
    });
    Ok(plan?.data)
}

/// Leaves out the columns that the planner filled up with NULL because the statement doesn't name them.
fn named_columns(plan: LogicalPlan) -> LogicalPlan {
    let LogicalPlan::Projection(projection) = &plan else {
        return plan;
    };
    let named: Vec<Expr> = projection
        .expr
        .iter()
        .filter(|expression| !expression.column_refs().is_empty())
        .cloned()
        .collect();
    if named.len() == projection.expr.len() {
        return plan;
    }
    let narrowed = datafusion::logical_expr::Projection::try_new(named, projection.input.clone());
    narrowed.map_or(plan, LogicalPlan::Projection)
}

/// The statement in sqlparser's words.
fn as_sql(insert: &Insert) -> Result<ast::Statement, QueryError> {
    let mut template = Parser::parse_sql(&GenericDialect {}, "INSERT INTO s VALUES (1)")
        .map_err(|error| QueryError::internal(error.to_string()))?;
    let Some(ast::Statement::Insert(mut sql)) = template.pop() else {
        return Err(QueryError::internal("the parser no longer knows INSERT"));
    };
    sql.table = ast::TableObject::TableName(object(&insert.stream));
    sql.columns = insert.columns.iter().map(object).collect();
    sql.source = Some(insert.query.clone());
    Ok(ast::Statement::Insert(sql))
}

/// Names have their final case already.
fn object(name: &Name) -> ast::ObjectName {
    ast::ObjectName::from(vec![ast::Ident::with_quote('"', &name.value)])
}
