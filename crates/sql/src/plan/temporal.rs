//! Temporal joins: `a JOIN b FOR SYSTEM_TIME AS OF a.time AS b ON a.key = b.key`. Each left row meets the row of `b` that
//! was valid at its time or, with `now()`, that is there when it comes.
//!
//! 1. In the query as written ([`written`]) the time becomes a condition of the join, which DataFusion's rules carry to
//!    where it is needed, and the right side a [`Versions`] node, which keeps other conditions from being asked of the right rows
//!    before the valid one is found.
//! 2. A join with such a node on its right is planned here. Other conditions are asked of the pairs.
//!    A table that is kept elsewhere is asked for rows ([`crate::plan::lookup`]).
//! 3. In place of a view, what it had at all times is read ([`view`]).

mod node;
mod view;
mod written;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::compute::SortOptions;
use datafusion::common::{Column, DFSchema, JoinType, NullEquality, TableReference};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{self, Cast, Expr, ExprSchemable, LogicalPlan, cast};
use headwater_engine::plan::{JoinKind, JoinSide, Operator, TemporalJoin};

use crate::error::{Result, SqlError};
use crate::parse::AS_OF;
use crate::plan::branch::{Branch, Key, Rows, Time};
use crate::plan::inline::replace;
use crate::plan::join::slots::Slots;
use crate::plan::join::{Memory, Side, padded};
use crate::plan::lookup::kept_elsewhere;
use crate::plan::stages::{Stages, physical, unchanged};
use crate::plan::temporal::view::{Past, scanned};

pub use node::Versions;
pub use written::{Planner, function, with_times};

/// The right side of a temporal join.
pub struct Versioned<'a> {
    pub versions: &'a Versions,
    /// What it is called, from the first name on.
    pub names: Vec<TableReference>,
    /// What is asked of its rows, in terms of the whole side.
    pub filters: Vec<Expr>,
}

impl<'a> Versioned<'a> {
    pub fn of(right: &'a LogicalPlan) -> Option<Self> {
        match right {
            LogicalPlan::Extension(extension) => Some(Self {
                versions: extension.node.as_any().downcast_ref()?,
                names: Vec::new(),
                filters: Vec::new(),
            }),
            LogicalPlan::SubqueryAlias(alias) => {
                let mut side = Self::of(&alias.input)?;
                for filter in &mut side.filters {
                    *filter = renamed(filter, &alias.alias)?;
                }
                side.names.push(alias.alias.clone());
                Some(side)
            }
            LogicalPlan::Filter(filter) => {
                let mut side = Self::of(&filter.input)?;
                side.filters.push(filter.predicate.clone());
                Some(side)
            }
            // It leaves columns out, no more.
            LogicalPlan::Projection(projection)
                if projection.expr.iter().all(|expr| matches!(expr, Expr::Column(_))) =>
            {
                Self::of(&projection.input)
            }
            _ => None,
        }
    }
}

/// The expression over columns of one table that is called something else now.
fn renamed(expression: &Expr, name: &TableReference) -> Option<Expr> {
    let columns = expression.column_refs();
    let to = |column: &Column| Expr::Column(Column::new(Some(name.clone()), column.name.clone()));
    let renamed: HashMap<Column, Expr> = columns.into_iter().map(|column| (column.clone(), to(column))).collect();
    replace(expression.clone(), &renamed).ok()
}

impl Stages<'_> {
    pub fn temporal_join(&mut self, join: &logical_expr::Join, side: Versioned<'_>) -> Result<Branch> {
        let kind = match join.join_type {
            JoinType::Inner => JoinKind::Inner,
            JoinType::Left => JoinKind::Left,
            _ => return Err(self.misplaced_versions()),
        };
        if join.null_equality == NullEquality::NullEqualsNull {
            return Err(self
                .about_as_of("the keys of FOR SYSTEM_TIME AS OF are compared by =, and a NULL equals nothing")
                .hint("write = in place of IS NOT DISTINCT FROM"));
        }
        if join.on.is_empty() {
            return Err(self
                .about_as_of("FOR SYSTEM_TIME AS OF needs a column on each side that are equal: it is for them that a row is valid")
                .hint("JOIN … FOR SYSTEM_TIME AS OF a.time AS b ON a.key = b.key"));
        }
        let left = self.side_of(&join.left)?;
        if left.rows.changelog {
            return Err(self
                .about_as_of("the rows before FOR SYSTEM_TIME AS OF change, so they have no one time to meet others at")
                .hint("join a stream with it, and aggregate behind the join; or leave FOR SYSTEM_TIME out"));
        }
        if let Some(table) = kept_elsewhere(&side.versions.input) {
            return self.lookup_join(join, kind, left, side, &table);
        }
        let view = scanned(&side.versions.input).filter(|_| !side.versions.current);
        let (mut right, past) = match view {
            Some((scan, definition)) => {
                let (branch, past) = self.past_of(scan, definition)?;
                (branch, Some(past))
            }
            None => (self.node(&side.versions.input)?, None),
        };
        for name in side.names {
            let renamed = DFSchema::try_from_qualified_schema(name, right.rows.columns.as_arrow());
            right.rows.columns = renamed.map_err(|error| self.error(&error))?;
        }
        let mut conditions = side.filters;
        conditions.extend(join.filter.clone().into_iter().flat_map(split_conjunction_owned));
        if side.versions.current {
            return self.join_current(join, kind, left, right, conditions);
        }
        let times = conditions.iter().position(|condition| times_of(condition).is_some());
        let Some([left_time, right_time]) = times.and_then(|at| times_of(&conditions.swap_remove(at))) else {
            return Err(self.misplaced_versions());
        };
        self.has_time(&left.rows, &left_time)?;
        self.has_time(&right.rows, &right_time)?;
        let right_time = self.of_type(&left.rows, &left_time, &right.rows, right_time)?;
        let mut on = join.on.clone();
        let mut order = None;
        if let Some(past) = past {
            on = self.on_key(&past, &right, on, &mut conditions)?;
            let is_shown = past
                .is_shown
                .map(|at| Column::from(right.rows.columns.qualified_field(at)));
            conditions.extend(is_shown.map(Expr::Column));
            order = Some(past.order);
        }
        let (mut left_keys, mut right_keys): (Vec<_>, Vec<_>) = on.into_iter().unzip();
        // The times share a column too.
        left_keys.push(Expr::Column(left_time));
        right_keys.push(right_time);
        let mut left = self.with_keys(left, "left", left_keys, None)?;
        let mut right = self.with_keys(right, "right", right_keys, None)?;
        self.closes_windows(&mut left.branch);
        self.closes_windows(&mut right.branch);
        self.joined_by_time(kind, left, right, conjunction(conditions), order, &join.schema)
    }

    /// The equalities that make the key of a view. All others are asked of the valid row.
    fn on_key(
        &self,
        past: &Past,
        right: &Branch,
        mut on: Vec<(Expr, Expr)>,
        conditions: &mut Vec<Expr>,
    ) -> Result<Vec<(Expr, Expr)>> {
        let mut keys = Vec::with_capacity(past.key.len());
        for (_, at) in &past.key {
            let is_of = |(_, key): &(Expr, Expr)| at.is_some() && unchanged(key, &right.rows.columns) == *at;
            let Some(place) = on.iter().position(is_of) else {
                let names: Vec<_> = past.key.iter().map(|(name, _)| name.as_str()).collect();
                return Err(self
                    .about_as_of("FOR SYSTEM_TIME AS OF needs all columns of the view's key, as they are, to be equal to something of the left side")
                    .hint(format!("the key is {}", names.join(", "))));
            };
            keys.push(on.remove(place));
        }
        conditions.extend(on.into_iter().map(|(left, right)| left.eq(right)));
        Ok(keys)
    }

    /// Left rows meet the rows of a view as they stand.
    fn join_current(
        &mut self,
        join: &logical_expr::Join,
        kind: JoinKind,
        mut left: Branch,
        mut right: Branch,
        conditions: Vec<Expr>,
    ) -> Result<Branch> {
        self.is_bounded([&right])?;
        if right.rows.changelog {
            left.make_changelog();
        }
        right.rows.times.clear();
        let (left_keys, right_keys): (Vec<_>, Vec<_>) = join.on.iter().cloned().unzip();
        let left = self.with_keys(left, "left", left_keys, None)?;
        let right = self.with_keys(right, "right", right_keys, None)?;
        self.joined(
            kind,
            left,
            right,
            conjunction(conditions),
            Memory::Current,
            &join.schema,
        )
    }

    /// The last of each side's keys is its time. Of several right rows of one time the last in the order is valid; without
    /// one, the greatest.
    fn joined_by_time(
        &mut self,
        kind: JoinKind,
        mut left: Side,
        mut right: Side,
        filter: Option<Expr>,
        order: Option<Vec<(usize, SortOptions)>>,
        result: &DFSchema,
    ) -> Result<Branch> {
        let columns = left.branch.rows.columns.join(&right.branch.rows.columns);
        let columns = columns.map_err(|error| self.error(&error))?;
        let filter = filter.map(|filter| physical(&filter, &columns)).transpose();
        let filter = filter.map_err(|error| self.error(&error))?;
        let slots = Slots::new(
            &left.branch.rows.columns,
            &left.keys,
            &right.branch.rows.columns,
            &right.keys,
        );
        slots.lay_out(&mut left.branch, 0, &slots.left);
        slots.lay_out(&mut right.branch, 1, &slots.right);
        let time = left.keys.pop().unwrap_or_default();
        right.keys.pop();
        let before = &left.branch.rows;
        let of_rows = before.times.get(&time) == Some(&Time::Event);
        // A row comes out when the watermark has passed this time, which may be long after that of a window within it.
        let times = before
            .times
            .iter()
            .filter(|(_, kind)| (**kind == Time::Event) == of_rows);
        let rows = Rows {
            columns: padded(columns, kind, before.columns.fields().len()),
            changelog: false,
            key: Key::Nothing,
            partitioned: Some(left.keys.clone()),
            times: times.map(|(at, kind)| (*at, *kind)).collect(),
            tasks: before.tasks.max(right.branch.rows.tasks),
        };
        let by = left.keys.iter().map(|&key| slots.left[key]).collect();
        let partitions = self.request.partitions.unwrap_or(rows.tasks);
        let greatest = || (0..slots.right.len()).map(|at| (at, SortOptions::default())).collect();
        let order = order.unwrap_or_else(greatest);
        let operator = Operator::TemporalJoin(TemporalJoin {
            version_order: order
                .into_iter()
                .map(|(at, options)| (slots.right[at], options))
                .collect(),
            time_column: slots.left[time],
            left: JoinSide {
                columns: slots.left,
                keys: left.keys,
            },
            right: JoinSide {
                columns: slots.right,
                keys: right.keys,
            },
            keeps_unmatched: kind == JoinKind::Left,
            filter,
            schema: Arc::new(rows.columns.as_arrow().clone()),
        });
        let schema = Arc::new(slots.schema);
        let mut branch = self.meet(vec![left.branch, right.branch], schema, by, partitions, rows);
        branch.part.operators.push(operator);
        self.without_added(branch, result)
    }

    fn has_time(&self, rows: &Rows, column: &Column) -> Result<()> {
        let at = rows.columns.maybe_index_of_column(column);
        if at.is_some_and(|at| matches!(rows.times.get(&at), Some(Time::Event | Time::WindowEnd))) {
            return Ok(());
        }
        let error = self.about_as_of(&format!(
            "the WATERMARK is not for {}, so it is never known which row was valid then",
            column.name
        ));
        let known = rows
            .times
            .iter()
            .filter(|(_, time)| matches!(time, Time::Event | Time::WindowEnd));
        let names: Vec<_> = known.map(|(&at, _)| rows.columns.field(at).name().as_str()).collect();
        Err(match names.as_slice() {
            [] => error.hint("FOR SYSTEM_TIME AS OF takes the column of the left stream's WATERMARK, as it is"),
            names => error.hint(format!("columns with event time here: {}", names.join(", "))),
        })
    }

    /// The right time in the type of the left one.
    fn of_type(&self, left: &Rows, left_time: &Column, right: &Rows, right_time: Column) -> Result<Expr> {
        let type_of = |rows: &Rows, time: &Column| Expr::Column(time.clone()).get_type(&rows.columns);
        let types = type_of(left, left_time).and_then(|left| Ok((left, type_of(right, &right_time)?)));
        let (wanted, given) = types.map_err(|error| self.error(&error))?;
        let time = Expr::Column(right_time);
        Ok(if wanted == given { time } else { cast(time, wanted) })
    }

    pub fn misplaced_versions(&self) -> SqlError {
        self.about_as_of("FOR SYSTEM_TIME AS OF stands on the right of a JOIN or LEFT JOIN with ON, with nothing but that join's columns")
            .hint("FROM a JOIN b FOR SYSTEM_TIME AS OF a.time AS b ON a.key = b.key; put more joins around it as a subquery")
    }

    pub fn about_as_of(&self, message: &str) -> SqlError {
        let source = &self.select.source;
        SqlError::unsupported(message)
            .at(crate::error::find(source, "system_time"))
            .or_at_start(source)
    }
}

/// The times of both sides, if this is the condition that [`with_times`] added.
fn times_of(condition: &Expr) -> Option<[Column; 2]> {
    let Expr::ScalarFunction(call) = condition else {
        return None;
    };
    let times = call.args.iter().map(column).collect::<Option<Vec<_>>>()?;
    (call.func.name() == AS_OF).then(|| times.try_into().ok())?
}

fn column(expression: &Expr) -> Option<Column> {
    match expression {
        Expr::Column(column) => Some(column.clone()),
        Expr::Alias(alias) => column(&alias.expr),
        Expr::Cast(Cast { expr, .. }) => column(expr),
        _ => None,
    }
}
