//! Statements that are parsed and planned ahead, with parameters.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use arrow_pg::datatypes::df::deserialize_parameters;
use arrow_pg::datatypes::into_pg_type;
use async_trait::async_trait;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::logical_expr::LogicalPlan;
use futures::future::BoxFuture;
use headwater_sql::statement::{Kind, Statement};
use pgwire::api::portal::{Format, Portal};
use pgwire::api::results::FieldInfo;
use pgwire::api::stmt::QueryParser;
use pgwire::api::{ClientInfo, Type};
use pgwire::error::PgWireResult;

use crate::error::QueryError;
use crate::postgres::introspection::{Introspection, asks_about_the_server};
use crate::postgres::rows::{fields, refused, told};
use crate::postgres::settings;
use crate::session::{Answer, Session};
use crate::shared::Shared;

/// A statement as a client prepared it.
#[derive(Clone)]
pub struct Prepared {
    pub sql: Arc<str>,
    what: Arc<dyn Asked>,
    /// The catalog's version that it was planned against.
    version: u64,
}

/// [`What`], behind a pointer that says that it can be sent: the compiler would prove it of every future that holds one,
/// through all of SQL's types, for seconds each time.
trait Asked: Send + Sync {
    fn what(&self) -> &What;
}

pub enum What {
    /// A question about the server.
    Introspection(LogicalPlan),
    Select(LogicalPlan),
    Insert(LogicalPlan),
    /// What has no parameters, and is not planned ahead.
    Statement(Statement, Option<Arc<Schema>>),
}

/// Prepares statements.
pub struct Preparer {
    pub shared: Arc<Shared>,
    pub introspection: Arc<Introspection>,
}

impl Preparer {
    /// `None` for a text without a statement.
    pub async fn prepare(&self, sql: &Arc<str>) -> PgWireResult<Option<Prepared>> {
        let version = self.shared.parts.catalog.snapshot().version;
        let what = self.what(sql).await.map_err(|error| told(&error, sql))?;
        Ok(what.map(|what| Prepared {
            sql: Arc::clone(sql),
            what: Arc::new(what),
            version,
        }))
    }

    fn prepare_boxed<'a>(&'a self, sql: &'a Arc<str>) -> BoxFuture<'a, PgWireResult<Option<Prepared>>> {
        Box::pin(self.prepare(sql))
    }

    /// The statement as it is now: planned again where the catalog has changed since.
    pub async fn current(&self, prepared: &Prepared) -> PgWireResult<Prepared> {
        if prepared.version == self.shared.parts.catalog.snapshot().version {
            return Ok(prepared.clone());
        }
        let again = self.prepare(&prepared.sql).await?;
        again.ok_or_else(|| refused("26000", "the statement is empty".to_owned()))
    }

    async fn what(&self, sql: &str) -> Result<Option<What>, QueryError> {
        if asks_about_the_server(sql) {
            let plan = self.introspection.plan(sql).await?.into_iter().next();
            return Ok(plan.map(What::Introspection));
        }
        let mut statements = headwater_sql::parse::parse(sql)?;
        let Some(statement) = statements.pop() else {
            return Ok(None);
        };
        if !statements.is_empty() {
            let error = headwater_sql::error::SqlError::syntax("only one statement can be prepared at a time");
            return Err(error.at(statement.source.start()).into());
        }
        let session = Session::new(Arc::clone(&self.shared));
        Ok(Some(match &statement.kind {
            Kind::Select(select) if !select.emit_changes => What::Select(session.plan_query(select).await?),
            Kind::Insert(_) => What::Insert(session.plan_insert(&statement).await?),
            _ => {
                let schema = self.schema(&session, &statement).await?;
                What::Statement(statement, schema)
            }
        }))
    }

    /// The columns of what a statement will answer, if it answers with rows.
    async fn schema(&self, session: &Session, statement: &Statement) -> Result<Option<Arc<Schema>>, QueryError> {
        let answer = match &statement.kind {
            Kind::Other(other) => return Ok(settings::show(other).and_then(schema_of)),
            Kind::Select(select) => return Ok(Some(session.changes_schema(select)?)),
            // These have no effect and are quickly done.
            Kind::Show(_) | Kind::ShowState(_) | Kind::Describe(_) | Kind::Explain(_) => {
                session.run(std::slice::from_ref(statement), &[]).await?
            }
            _ => return Ok(None),
        };
        Ok(answer.into_iter().next().and_then(schema_of))
    }
}

#[async_trait]
impl QueryParser for Preparer {
    type Statement = Prepared;

    async fn parse_sql<C>(&self, _client: &C, sql: &str, _types: &[Option<Type>]) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        self.prepare_boxed(&Arc::from(sql)).await
    }

    fn get_parameter_types(&self, prepared: &Prepared) -> PgWireResult<Vec<Type>> {
        let types = prepared.parameters().map_err(|error| told(&error, &prepared.sql))?;
        let of = |data_type: &Option<DataType>| data_type.as_ref().map_or(Ok(Type::UNKNOWN), into_pg_type);
        types.iter().map(of).collect()
    }

    fn get_result_schema(&self, prepared: &Prepared, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        let Some(schema) = prepared.schema() else {
            return Ok(Vec::new());
        };
        let fields = fields(&schema, format.unwrap_or(&Format::UnifiedText))?;
        Ok(fields.to_vec())
    }
}

impl Asked for What {
    fn what(&self) -> &What {
        self
    }
}

impl Prepared {
    pub fn what(&self) -> &What {
        self.what.what()
    }

    /// The types of `$1`, `$2`, … as far as they can be told.
    pub fn parameters(&self) -> Result<Vec<Option<DataType>>, QueryError> {
        let plan = match self.what() {
            What::Introspection(plan) | What::Select(plan) | What::Insert(plan) => plan,
            What::Statement(..) => return Ok(Vec::new()),
        };
        let mut types = Vec::new();
        for (name, data_type) in plan.get_parameter_types()? {
            let Some(place) = name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok()) else {
                continue;
            };
            if place == 0 || place > usize::from(u16::MAX) {
                continue;
            }
            if types.len() < place {
                types.resize(place, None);
            }
            types[place - 1] = data_type;
        }
        Ok(types)
    }

    fn schema(&self) -> Option<Arc<Schema>> {
        match self.what() {
            What::Introspection(plan) | What::Select(plan) => Some(Arc::clone(plan.schema().inner())),
            What::Insert(_) => None,
            What::Statement(_, schema) => schema.clone(),
        }
    }

    /// The values that a portal has for the parameters.
    pub fn values(&self, portal: &Portal<Self>) -> PgWireResult<Vec<ScalarValue>> {
        if let Format::Individual(formats) = &portal.parameter_format
            && formats.len() != portal.parameter_len()
        {
            let message = format!(
                "there are {} formats for {} values",
                formats.len(),
                portal.parameter_len()
            );
            return Err(refused("08P01", message));
        }
        let mut types = self.parameters().map_err(|error| told(&error, &self.sql))?;
        types.resize(portal.parameter_len().max(types.len()), None);
        // What neither side knows the type of is text.
        for (place, data_type) in types.iter_mut().enumerate() {
            let hinted = portal.statement.parameter_types.get(place).is_some_and(Option::is_some);
            if data_type.is_none() && !hinted {
                *data_type = Some(DataType::Utf8);
            }
        }
        let types: Vec<_> = types.iter().map(Option::as_ref).collect();
        let ParamValues::List(values) = deserialize_parameters(portal, &types)? else {
            return Err(refused("XX000", "parameters came by name".to_owned()));
        };
        if values.len() != portal.parameter_len() {
            let message = "a NULL parameter has a type that is not known here; cast it, as in $1::TEXT";
            return Err(refused("42P18", message.to_owned()));
        }
        Ok(values.into_iter().map(|value| value.value).collect())
    }
}

fn schema_of(answer: Answer) -> Option<Arc<Schema>> {
    match answer {
        Answer::Rows { schema, .. } | Answer::Changes { schema, .. } => Some(schema),
        Answer::Done { .. } => None,
    }
}
