//! What a continuous query can't have (yet), found in the query as it was written, so that the error
//! names the construct and its place.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, Function, FunctionArg, FunctionArgExpr, GroupByExpr, Query, Select, SetExpr, SetOperator,
    SetQuantifier, Spanned, TableFactor, Visit, Visitor,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::error::{Result, SqlError};
use crate::statement::Source;

/// Functions whose result is another one after a restart.
const NOT_REPEATABLE: [&str; 13] = [
    "now",
    "current_timestamp",
    "current_date",
    "current_time",
    "localtimestamp",
    "localtime",
    "today",
    "random",
    "rand",
    "uuid",
    "gen_random_uuid",
    "transaction_timestamp",
    "statement_timestamp",
];

struct Check<'a> {
    source: &'a Source,
    /// Queries that are the first argument of a window function: they stand in FROM.
    in_from: Vec<Span>,
}

type Flow = ControlFlow<SqlError>;

pub fn refuse(query: &Query, source: &Source) -> Result<()> {
    match query.visit(&mut Check {
        source,
        in_from: Vec::new(),
    }) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

impl Visitor for Check<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &Query) -> Flow {
        if let Some(order_by) = query.order_by.as_ref().filter(|_| !is_distinct_on(query)) {
            return self.no(
                "ORDER BY",
                order_by.span(),
                "rows come for ever: order them where the view is read",
            );
        }
        if let Some(limit) = &query.limit_clause {
            return self.no("LIMIT", limit.span(), "limit the rows where the view is read");
        }
        if let Some(with) = query.with.as_ref().filter(|with| with.recursive) {
            return self.no("WITH RECURSIVE", with.span(), "write the steps out");
        }
        if query.fetch.is_some() || !query.locks.is_empty() || query.for_clause.is_some() {
            return self.no("FETCH or FOR", query.span(), "leave it out");
        }
        if query.settings.is_some() || query.format_clause.is_some() || !query.pipe_operators.is_empty() {
            return self.no("SETTINGS, FORMAT or |>", query.span(), "leave it out");
        }
        match query.body.as_ref() {
            SetExpr::SetOperation {
                op: SetOperator::Union, ..
            } => Flow::Continue(()),
            SetExpr::SetOperation {
                op,
                set_quantifier: SetQuantifier::AllByName,
                right,
                ..
            } => self.no(
                &format!("{op} ALL BY NAME"),
                right.span(),
                "name the columns of both queries in one order",
            ),
            SetExpr::SetOperation { .. } => Flow::Continue(()),
            SetExpr::Values(values) => self.no("VALUES", values.span(), "INSERT INTO a stream VALUES … appends rows"),
            SetExpr::Select(_) | SetExpr::Query(_) => Flow::Continue(()),
            other => self.no("this kind of query", other.span(), "write SELECT … FROM …"),
        }
    }

    fn pre_visit_select(&mut self, select: &Select) -> Flow {
        if select.from.is_empty() {
            return self.no("SELECT without FROM", select.span(), "read from a stream");
        }
        match &select.group_by {
            GroupByExpr::All(_) => return self.no("GROUP BY ALL", select.group_by.span(), "name the columns"),
            GroupByExpr::Expressions(_, modifiers) if !modifiers.is_empty() => {
                return self.no(
                    "WITH ROLLUP, CUBE or TOTALS",
                    select.group_by.span(),
                    "write GROUP BY ROLLUP (…) or CUBE (…)",
                );
            }
            GroupByExpr::Expressions(..) => {}
        }
        let odd = select.top.is_some() || select.into.is_some() || select.prewhere.is_some();
        if odd || !select.lateral_views.is_empty() || !select.connect_by.is_empty() || !select.sort_by.is_empty() {
            return self.no(
                "TOP, INTO, PREWHERE, LATERAL VIEW, CONNECT BY or SORT BY",
                select.span(),
                "leave it out",
            );
        }
        Flow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> Flow {
        let span = factor.span();
        match factor {
            TableFactor::Table { sample: Some(_), .. } => self.no("TABLESAMPLE", span, "filter with WHERE"),
            TableFactor::Table { args, .. } => {
                let first = args.as_ref().and_then(|args| args.args.first());
                if let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Subquery(query)))) = first {
                    self.in_from.push(query.span());
                }
                Flow::Continue(())
            }
            TableFactor::Derived { lateral: false, .. } | TableFactor::NestedJoin { .. } => Flow::Continue(()),
            TableFactor::Derived { .. } => self.no("LATERAL", span, "write a plain subquery"),
            TableFactor::UNNEST { .. } => self.no("UNNEST", span, "take array elements by index: column[1]"),
            TableFactor::MatchRecognize { .. } => self.no(
                "MATCH_RECOGNIZE",
                span,
                "aggregate over TUMBLE, HOP, CUMULATE or SESSION windows",
            ),
            _ => self.no(
                "this in FROM",
                span,
                "read from a stream, TUMBLE(…), HOP(…), CUMULATE(…) or SESSION(…)",
            ),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> Flow {
        // Only of what is refused: the span of a long chain goes as deep as the chain is long.
        match expr {
            Expr::Subquery(query) if self.in_from.contains(&query.span()) => Flow::Continue(()),
            Expr::Subquery(_) => self.no(
                "a subquery that stands for a value",
                expr.span(),
                "a subquery in FROM is, and so are IN (SELECT …) and EXISTS (SELECT …)",
            ),
            Expr::Function(function) => self.function(function, expr.span()),
            _ => Flow::Continue(()),
        }
    }
}

/// Its ORDER BY says which row of each group is the first.
fn is_distinct_on(query: &Query) -> bool {
    match query.body.as_ref() {
        SetExpr::Select(select) => matches!(select.distinct, Some(Distinct::On(_))),
        _ => false,
    }
}

impl Check<'_> {
    fn function(&self, function: &Function, span: Span) -> Flow {
        let name = function.name.to_string().to_lowercase();
        if NOT_REPEATABLE.contains(&name.as_str()) {
            let message = format!("{name}() gives another result after a restart: a continuous query can't have it");
            let error = SqlError::unsupported(message)
                .at(self.source.place(span))
                .hint("give the stream a column for it: DEFAULT now() and DEFAULT uuid() are filled in when the event comes in");
            return Flow::Break(error);
        }
        Flow::Continue(())
    }

    fn no(&self, construct: &str, span: Span, instead: &str) -> Flow {
        let error = SqlError::unsupported(format!("{construct} is not available in continuous queries"))
            .at(self.source.place(span))
            .hint(instead);
        Flow::Break(error)
    }
}
