//! Temporal joins in the query as it was written, after [`crate::parse`] has made `$as_of(…)` of `FOR SYSTEM_TIME AS OF`.
//!
//! `a JOIN $as_of((SELECT * FROM b), a.time) AS b ON …` gets the condition `$as_of(a.time, b.time)`, with the column that
//! holds the event time of `b`.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result as Planned, exec_err};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{
    ColumnarValue, Extension, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, Join,
    JoinConstraint, JoinOperator, ObjectName, Query, Select, SetExpr, Spanned, TableAlias, TableFactor, TableWithJoins,
    VisitMut, VisitorMut,
};
use headwater_catalog::definition::Definition;
use headwater_catalog::snapshot::Snapshot;

use crate::define::source::not_readable;
use crate::error::{Result, SqlError};
use crate::parse::{AS_OF, normalize};
use crate::plan::branch::Time;
use crate::plan::scan::event_times;
use crate::plan::tables::unknown_object;
use crate::plan::temporal::Versions;
use crate::plan::temporal::view::time_of_view;
use crate::plan::windows::Use;
use crate::statement::Source;

/// `$as_of(…)` in FROM.
struct AsOf {
    /// `(SELECT * FROM name)`.
    table: Box<Query>,
    name: Ident,
    /// Nothing for the present.
    time: Option<Expr>,
}

impl AsOf {
    fn of(factor: &TableFactor) -> Option<Self> {
        let TableFactor::Table {
            name, args: Some(args), ..
        } = factor
        else {
            return None;
        };
        let called = name.0.first()?.as_ident()?;
        let mut arguments = args.args.iter().map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
            _ => None,
        });
        let (Expr::Subquery(table), true) = (arguments.next()??, called.value == AS_OF) else {
            return None;
        };
        Some(Self {
            name: named(table)?,
            table: table.clone(),
            time: arguments.next().flatten().cloned(),
        })
    }
}

/// The name in `SELECT * FROM name`.
fn named(query: &Query) -> Option<Ident> {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return None;
    };
    match &select.from.first()?.relation {
        TableFactor::Table { name, .. } => name.0.last()?.as_ident().cloned(),
        _ => None,
    }
}

/// Gives the joins of a query the condition that says which row is valid.
pub fn with_times(query: &mut Query, snapshot: &Snapshot, source: &Source) -> Result<()> {
    match query.visit(&mut Times { snapshot, source }) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Times<'a> {
    snapshot: &'a Snapshot,
    source: &'a Source,
}

impl VisitorMut for Times<'_> {
    type Break = SqlError;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
        control(select.from.iter_mut().try_for_each(|tables| self.tables(tables)))
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => control(self.tables(table_with_joins)),
            _ => ControlFlow::Continue(()),
        }
    }
}

fn control(result: Result<()>) -> ControlFlow<SqlError> {
    result.map_or_else(ControlFlow::Break, ControlFlow::Continue)
}

impl Times<'_> {
    fn tables(&self, tables: &mut TableWithJoins) -> Result<()> {
        if AsOf::of(&tables.relation).is_some() {
            return Err(self.misplaced(&tables.relation));
        }
        tables.joins.iter_mut().try_for_each(|join| self.join(join))
    }

    fn join(&self, join: &mut Join) -> Result<()> {
        let Some(as_of) = AsOf::of(&join.relation) else {
            return Ok(());
        };
        let misplaced = self.misplaced(&join.relation);
        let constraint = match &mut join.join_operator {
            JoinOperator::Join(constraint)
            | JoinOperator::Inner(constraint)
            | JoinOperator::Left(constraint)
            | JoinOperator::LeftOuter(constraint) => constraint,
            _ => return Err(misplaced),
        };
        let JoinConstraint::On(condition) = constraint else {
            return Err(misplaced);
        };
        let name = normalize(&as_of.name);
        let Some(definition) = self.snapshot.get(&name) else {
            return Err(unknown_object(&name, self.snapshot).at(self.source.place(as_of.name.span)));
        };
        let alias = self.alias(&mut join.relation, &as_of.name)?;
        let Some(time) = as_of.time else {
            return self.has_current_rows(definition, &as_of.name);
        };
        let of_right = Ident::with_quote('"', self.time_of(definition, &as_of.name)?);
        let call = call(time, Expr::CompoundIdentifier(vec![alias, of_right]));
        let written = std::mem::replace(condition, Expr::value(datafusion::sql::sqlparser::ast::Value::Null));
        *condition = Expr::BinaryOp {
            left: Box::new(Expr::Nested(Box::new(written))),
            op: BinaryOperator::And,
            right: Box::new(call),
        };
        Ok(())
    }

    /// What the right side is called, by its own name if it was given no other.
    fn alias(&self, relation: &mut TableFactor, name: &Ident) -> Result<Ident> {
        let TableFactor::Table { alias, .. } = relation else {
            return Err(SqlError::internal("a table function that is no table"));
        };
        let alias = alias.get_or_insert_with(|| TableAlias {
            explicit: true,
            name: name.clone(),
            columns: Vec::new(),
            at: None,
        });
        if !alias.columns.is_empty() {
            return Err(
                SqlError::unsupported("the columns behind FOR SYSTEM_TIME AS OF keep their names")
                    .at(self.source.place(alias.name.span))
                    .hint("name them in the SELECT: SELECT b.price AS rate"),
            );
        }
        Ok(alias.name.clone())
    }

    /// The column of the right side from whose time on a row is valid.
    fn time_of(&self, definition: &Definition, name: &Ident) -> Result<String> {
        let place = || self.source.place(name.span);
        if definition.table().is_some() {
            return Err(SqlError::unsupported(format!(
                "{} is kept elsewhere, and what its rows were at a time isn't known",
                definition.name
            ))
            .at(place())
            .hint("look them up as they are when a row comes: FOR SYSTEM_TIME AS OF now()"));
        }
        if let Some(query) = definition.query().filter(|_| definition.view().is_some()) {
            return time_of_view(definition, self.snapshot)?.map_err(|why| {
                SqlError::unsupported(format!(
                    "{} {why}, so it isn't known which of its rows was valid at a time",
                    definition.name
                ))
                .at(place())
                .hint(format!(
                    "a view of the last row of each key is known at all times: SELECT DISTINCT ON (key) … ORDER BY key, time DESC, with the column of \
                     the stream's WATERMARK; or join what its rows come from ({}), or the rows as they stand: FOR SYSTEM_TIME AS OF now()",
                    query.reads.join(", ")
                ))
            });
        }
        let times = event_times(definition, self.snapshot)?;
        let of = |wanted: Time| {
            times
                .iter()
                .filter(move |(_, time)| **time == wanted)
                .map(|(at, _)| *at)
        };
        let column = match of(Time::Event).collect::<Vec<_>>().as_slice() {
            [] => of(Time::WindowEnd).next(),
            [only] => Some(*only),
            several => {
                let names: Vec<_> = several
                    .iter()
                    .map(|&at| definition.columns()[at].name.as_str())
                    .collect();
                return Err(SqlError::invalid(format!(
                    "{} has several columns with event time: {}",
                    definition.name,
                    names.join(", ")
                ))
                .at(place())
                .hint("make a derived stream with the one from which on a row is valid, and join that"));
            }
        };
        column.map(|at| definition.columns()[at].name.clone()).ok_or_else(|| {
            SqlError::invalid(format!(
                "{} has no WATERMARK, so it is never known which of its rows was valid at a time",
                definition.name
            ))
            .at(place())
            .hint("add to its columns: WATERMARK FOR time AS time - INTERVAL '5' SECOND")
        })
    }

    fn has_current_rows(&self, definition: &Definition, name: &Ident) -> Result<()> {
        if definition.view().is_some() || definition.table().is_some() {
            return Ok(());
        }
        if let Some(error) = not_readable(definition) {
            return Err(error.at(self.source.place(name.span)));
        }
        let object = &definition.name;
        Err(
            SqlError::unsupported(format!("{object} is a stream, which has no current rows"))
                .at(self.source.place(name.span))
                .hint(format!(
                    "take the time of the left side, FOR SYSTEM_TIME AS OF a.time, or a view of the last rows: \
                 CREATE MATERIALIZED VIEW … AS SELECT DISTINCT ON (key) * FROM {object} ORDER BY key, time DESC"
                )),
        )
    }

    fn misplaced(&self, relation: &TableFactor) -> SqlError {
        SqlError::unsupported("FOR SYSTEM_TIME AS OF stands on the right of a JOIN or LEFT JOIN with ON")
            .at(self.source.place(relation.span()))
            .hint("FROM a JOIN b FOR SYSTEM_TIME AS OF a.time AS b ON a.key = b.key")
    }
}

fn call(left: Expr, right: Expr) -> Expr {
    let argument = |time| FunctionArg::Unnamed(FunctionArgExpr::Expr(time));
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::with_quote('"', AS_OF)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: vec![argument(left), argument(right)],
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// Plans `$as_of(…)` in FROM.
#[derive(Debug)]
pub struct Planner {
    pub usage: Use,
}

impl RelationPlanner for Planner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Planned<RelationPlanning> {
        let Some(as_of) = AsOf::of(&relation) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        if self.usage == Use::OneOff {
            let error = SqlError::unsupported("FOR SYSTEM_TIME AS OF is for continuous queries")
                .hint(
                    "asked once, a row's match is the last one before it: \
                     JOIN b ON b.key = a.key AND b.time <= a.time QUALIFY ROW_NUMBER() OVER (PARTITION BY a.id ORDER BY b.time DESC) = 1",
                );
            return Err(DataFusionError::External(Box::new(error)));
        }
        let TableFactor::Table { alias, .. } = relation else {
            return Err(DataFusionError::Internal(
                "a table function that is no table".to_owned(),
            ));
        };
        let input = context.plan(TableFactor::Derived {
            lateral: false,
            subquery: as_of.table,
            alias: None,
            sample: None,
        })?;
        let versions = Versions {
            input,
            current: as_of.time.is_none(),
        };
        let plan = LogicalPlan::Extension(Extension {
            node: Arc::new(versions),
        });
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

/// The condition of a temporal join. It is planned for, and never evaluated.
pub fn function() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Condition {
        signature: Signature::any(2, Volatility::Immutable),
    }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Condition {
    signature: Signature,
}

impl ScalarUDFImpl for Condition {
    fn name(&self) -> &str {
        AS_OF
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Planned<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Planned<ColumnarValue> {
        exec_err!("FOR SYSTEM_TIME AS OF stands with a join")
    }
}
