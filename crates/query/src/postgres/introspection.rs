//! What clients ask about tables and types: `psql`'s `\d`, drivers, tools.
//!
//! These statements are written for Postgres' own catalog and its dialect, so they have a parser and
//! a context of their own, from `datafusion-pg-catalog`. They are told apart by the words in them,
//! before anything else looks at them.

use std::sync::{Arc, OnceLock};

use datafusion::common::ScalarValue;
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement as PlannedStatement;
use datafusion::sql::sqlparser::ast::Statement;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use datafusion_pg_catalog::pg_catalog::context::EmptyContextProvider;
use datafusion_pg_catalog::setup_pg_catalog;
use datafusion_pg_catalog::sql::PostgresCompatibilityParser;
use futures::{StreamExt, TryStreamExt};

use crate::error::QueryError;
use crate::execution;
use crate::postgres::functions;
use crate::session::{Answer, bind};
use crate::shared::{MadeBy, Shared};
use crate::tables::catalog::DATABASE;

/// Words that only questions about the server have.
const WORDS: [&str; 10] = [
    "information_schema",
    "current_database",
    "current_schema",
    "current_schemas",
    "current_user",
    "session_user",
    "format_type",
    "regclass",
    "regtype",
    "version",
];

/// The context that answers such questions; made when the first comes.
pub struct Introspection {
    shared: Arc<Shared>,
    context: OnceLock<Result<MadeBy<SessionContext>, String>>,
    parse: OnceLock<Parse>,
}

type Parse = Box<dyn Fn(&str) -> Result<Vec<Statement>, ParserError> + Send + Sync>;

/// Whether the text asks about the server itself.
pub fn asks_about_the_server(sql: &str) -> bool {
    let Ok(tokens) = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize() else {
        return false;
    };
    let mut words = tokens.iter().filter_map(|token| match token {
        Token::Word(word) => Some(word.value.to_lowercase()),
        _ => None,
    });
    let reads = words.next().is_some_and(|first| first == "select" || first == "with");
    reads && words.any(|word| word.starts_with("pg_") || WORDS.contains(&word.as_str()))
}

impl Introspection {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            context: OnceLock::new(),
            parse: OnceLock::new(),
        }
    }

    /// The plans of a text's statements.
    pub async fn plan(&self, sql: &str) -> Result<Vec<LogicalPlan>, QueryError> {
        let parse = self.parse.get_or_init(|| {
            let parser = PostgresCompatibilityParser::new();
            Box::new(move |sql| parser.parse(sql))
        });
        let mut statements =
            parse(sql).map_err(|error| QueryError::from(datafusion::common::DataFusionError::from(error)))?;
        functions::rewrite(&mut statements);
        let context = self.context()?;
        let state = context.state();
        execution::on(&self.shared.parts.executor, async move {
            let mut plans = Vec::with_capacity(statements.len());
            for statement in statements {
                let statement = PlannedStatement::Statement(Box::new(statement));
                plans.push(state.statement_to_plan(statement).await?);
            }
            Ok(plans)
        })
        .await
    }

    /// The rows of a plan.
    pub fn rows(&self, plan: LogicalPlan, parameters: &[ScalarValue]) -> Result<Answer, QueryError> {
        let frame = DataFrame::new(self.context()?.state(), bind(plan, parameters)?);
        let rows = execution::rows(&self.shared.parts.executor, frame);
        Ok(Answer::Rows {
            schema: rows.schema(),
            rows: rows.map_err(QueryError::from).boxed(),
        })
    }

    fn context(&self) -> Result<SessionContext, QueryError> {
        let context = self.context.get_or_init(|| {
            let context = self.shared.context_apart().map_err(|error| error.to_string())?;
            setup_pg_catalog(&context, DATABASE, EmptyContextProvider).map_err(|error| error.to_string())?;
            functions::register(&context);
            Ok::<MadeBy<SessionContext>, String>(Box::new(move || context.clone()))
        });
        let context = context.as_ref().map_err(|error| QueryError::internal(error.clone()))?;
        Ok(context())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_about_the_server_are_told_apart() {
        for sql in [
            "SELECT c.relname FROM pg_catalog.pg_class c",
            "select version()",
            "SELECT 'clicks'::regclass",
            "WITH t AS (SELECT 1) SELECT * FROM information_schema.tables",
        ] {
            assert!(asks_about_the_server(sql), "{sql}");
        }
        for sql in [
            "SELECT * FROM clicks WHERE page = 'pg_class'",
            "INSERT INTO clicks VALUES ('version')",
            "SELECT 1",
            "",
        ] {
            assert!(!asks_about_the_server(sql), "{sql}");
        }
    }
}
