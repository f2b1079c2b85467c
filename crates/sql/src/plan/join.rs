//! Joins: two branches that meet by key.
//!
//! 1. The equalities between the sides are the keys, [`reach`] finds how close in time the rows of a pair lie,
//!    and the rest is a filter. Without an equality all rows have one key.
//! 2. Each side's rows are laid out alike, so that one topic takes both: which side they are of, and columns
//!    that the sides share as slots where their types are equal. The keys, which decide the partition, have the same slots.
//! 3. Behind the topic one operator joins them.

pub mod null_equality;
pub mod reach;
pub mod slots;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::common::{DFSchema, JoinType, NullEquality, TableReference};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{self, Expr, LogicalPlan, lit};
use headwater_catalog::definition::StateBound;
use headwater_engine::plan::{Join, JoinKind, JoinSide, Operator, Reach};
use headwater_event::op::changelog_schema;

use crate::error::{Result, SqlError, find};
use crate::plan::branch::{Branch, Key, Rows, Time};
use crate::plan::join::null_equality::{distinct_right, without_nulls};
use crate::plan::join::reach::{Nearness, nearness};
use crate::plan::join::slots::Slots;
use crate::plan::stages::{Stages, physical};

/// A side of a join: its rows, and which of their columns are keys.
pub struct Side {
    pub branch: Branch,
    pub keys: Vec<usize>,
    /// With a reach.
    time: Option<usize>,
}

/// The rows of the other side that a row can match.
pub enum Memory {
    Near(Nearness),
    Ever,
    /// Left rows match what is there when they come, right ones nothing.
    Current,
}

impl Stages<'_> {
    pub fn join(&mut self, join: &logical_expr::Join) -> Result<Branch> {
        let (kind, is_turned) = self.kind(join)?;
        let right = distinct_right(join).map_err(|error| self.error(&error))?;
        let (left, right) = turned(is_turned, &join.left, &right);
        let mut on: Vec<(Expr, Expr)> = join.on.iter().cloned().map(|(l, r)| turned(is_turned, l, r)).collect();
        if join.null_equality == NullEquality::NullEqualsNull {
            on = without_nulls(on, left.schema(), right.schema()).map_err(|error| self.error(&error))?;
        }
        let (left, right) = (self.side_of(left)?, self.side_of(right)?);
        let changelog = left.rows.changelog || right.rows.changelog;
        let near = match changelog {
            true => None,
            false => nearness([&left.rows, &right.rows], &on, join.filter.as_ref()),
        };
        if near.is_none() {
            self.is_bounded([&left, &right])?;
        }
        if on.is_empty() {
            // All rows meet in one task.
            on.push((lit(0_i8), lit(0_i8)));
        }
        let filter = match &near {
            Some(near) => conjunction(near.rest.clone()),
            None => join.filter.clone(),
        };
        let (left_keys, right_keys): (Vec<_>, Vec<_>) = on.into_iter().unzip();
        let times = near.as_ref().map(|near| near.times.clone());
        let [left_time, right_time] = times.map_or([None, None], |times| times.map(Some));
        let mut left = self.with_keys(left, "left", left_keys, left_time)?;
        let mut right = self.with_keys(right, "right", right_keys, right_time)?;
        if near.is_some() {
            self.closes_windows(&mut left.branch);
            self.closes_windows(&mut right.branch);
        }
        if changelog {
            left.branch.make_changelog();
            right.branch.make_changelog();
        }
        let memory = near.map_or(Memory::Ever, Memory::Near);
        self.joined(kind, left, right, filter, memory, &join.schema)
    }

    /// The kind of a join, and whether its sides change places for that.
    fn kind(&self, join: &logical_expr::Join) -> Result<(JoinKind, bool)> {
        if join.null_aware {
            return Err(self
                .refused("NOT IN (SELECT …) with columns that may be NULL")
                .hint("write NOT EXISTS (SELECT … WHERE …): there a NULL equals nothing"));
        }
        Ok(match join.join_type {
            JoinType::Inner => (JoinKind::Inner, false),
            JoinType::Left => (JoinKind::Left, false),
            JoinType::Right => (JoinKind::Right, false),
            JoinType::Full => (JoinKind::Full, false),
            JoinType::LeftSemi => (JoinKind::LeftSemi, false),
            JoinType::LeftAnti => (JoinKind::LeftAnti, false),
            JoinType::RightSemi => (JoinKind::LeftSemi, true),
            JoinType::RightAnti => (JoinKind::LeftAnti, true),
            JoinType::LeftMark | JoinType::RightMark => {
                return Err(self
                    .refused("IN or EXISTS (SELECT …) below OR or NOT")
                    .hint("let it stand alone, or between ANDs"));
            }
        })
    }

    /// The branch of a side, with the columns of its plan alone.
    pub fn side_of(&mut self, plan: &LogicalPlan) -> Result<Branch> {
        let mut branch = self.node(plan)?;
        let columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
        if branch.rows.columns.fields().len() != columns.len() {
            self.project(&mut branch, &columns, plan.schema())?;
        }
        Ok(branch)
    }

    /// The rows of a result with a key are no more than its aggregate keeps anyway; all others add up for ever.
    pub fn is_bounded<const N: usize>(&self, sides: [&Branch; N]) -> Result<()> {
        if self.request.state == StateBound::Unbounded || sides.into_iter().all(changes_by_key) {
            return Ok(());
        }
        Err(self
            .about_join("this join would keep every row for ever, since a match may always come")
            .hint(
                "say how close in time they are: … AND b.time BETWEEN a.time AND a.time + INTERVAL '5' MINUTE \
                 (both the columns of a WATERMARK), join windows by window_start and window_end, meet the valid row alone: JOIN b FOR SYSTEM_TIME AS OF a.time, \
                 let rows go by their time: WITH (state_ttl = '1 day'), or let the state grow: WITH (state = 'unbounded')",
            ))
    }

    /// The branch with its keys, and its time if it needs one, among the columns.
    pub fn with_keys(&self, mut branch: Branch, side: &str, keys: Vec<Expr>, time: Option<Expr>) -> Result<Side> {
        let known = branch.rows.columns.clone();
        let mut added: Vec<Expr> = Vec::new();
        let mut place = |expression: Expr, taken: &[usize]| {
            let column = match &expression {
                Expr::Column(column) => known.maybe_index_of_column(column),
                _ => None,
            };
            column.filter(|at| !taken.contains(at)).unwrap_or_else(|| {
                added.push(expression);
                known.fields().len() + added.len() - 1
            })
        };
        let mut places = Vec::with_capacity(keys.len());
        for key in keys {
            let at = place(key, &places);
            places.push(at);
        }
        let time = time.map(|time| place(time, &[]));
        if !added.is_empty() {
            let mut expressions: Vec<Expr> = known.columns().into_iter().map(Expr::Column).collect();
            let mut fields: Vec<_> = known
                .iter()
                .map(|(table, field)| (table.cloned(), field.clone()))
                .collect();
            for (number, expression) in added.into_iter().enumerate() {
                let (_, field) =
                    logical_expr::ExprSchemable::to_field(&expression, &known).map_err(|error| self.error(&error))?;
                let name = match (&expression, side) {
                    (Expr::Literal(..), "left") => "no column".to_owned(),
                    _ => format!("{side} {number}"),
                };
                let field = Field::new(&name, field.data_type().clone(), true);
                fields.push((Some(TableReference::bare("join")), Arc::new(field)));
                expressions.push(expression);
            }
            let schema = DFSchema::new_with_metadata(fields, Default::default()).map_err(|error| self.error(&error))?;
            self.project(&mut branch, &expressions, &schema)?;
        }
        Ok(Side {
            branch,
            keys: places,
            time,
        })
    }

    pub fn joined(
        &mut self,
        kind: JoinKind,
        mut left: Side,
        mut right: Side,
        filter: Option<Expr>,
        memory: Memory,
        result: &DFSchema,
    ) -> Result<Branch> {
        let of = |side: &Side| side.branch.rows.columns.clone();
        let (left_columns, right_columns) = (of(&left), of(&right));
        let pair = left_columns.join(&right_columns).map_err(|error| self.error(&error))?;
        let filter = filter.map(|filter| physical(&filter, &pair)).transpose();
        let filter = filter.map_err(|error| self.error(&error))?;
        let has_unmatched = !matches!(kind, JoinKind::Inner | JoinKind::LeftSemi);
        let had_changes = left.branch.rows.changelog;
        let columns = match kind {
            JoinKind::LeftSemi | JoinKind::LeftAnti => left_columns,
            _ => pair,
        };
        let rows = Rows {
            columns: padded(columns, kind, left.branch.rows.columns.fields().len()),
            changelog: match memory {
                Memory::Near(_) => had_changes,
                Memory::Ever => had_changes || has_unmatched,
                Memory::Current => false,
            },
            key: Key::Nothing,
            partitioned: partitioned(kind, &left, &right),
            times: match memory {
                Memory::Current => left.branch.rows.times.clone(),
                Memory::Near(_) | Memory::Ever => times(kind, &left, &right),
            },
            tasks: left.branch.rows.tasks.max(right.branch.rows.tasks),
        };
        let reach = match (&memory, left.time, right.time) {
            (Memory::Near(near), Some(left), Some(right)) => Some(Reach {
                left,
                right,
                lower: near.lower,
                upper: near.upper,
            }),
            _ => None,
        };
        let slots = Slots::new(
            &left.branch.rows.columns,
            &left.keys,
            &right.branch.rows.columns,
            &right.keys,
        );
        slots.lay_out(&mut left.branch, 0, &slots.left);
        slots.lay_out(&mut right.branch, 1, &slots.right);
        let schema = match had_changes {
            true => changelog_schema(&slots.schema),
            false => Arc::new(slots.schema.clone()),
        };
        let by = left.keys.iter().map(|&key| slots.left[key]).collect();
        let partitions = self.request.partitions.unwrap_or(rows.tasks);
        let output = rows.columns.as_arrow();
        let output = match rows.changelog {
            true => changelog_schema(output),
            false => Arc::new(output.clone()),
        };
        let operator = Operator::Join(Join {
            left: JoinSide {
                columns: slots.left,
                keys: left.keys,
            },
            right: JoinSide {
                columns: slots.right,
                keys: right.keys,
            },
            kind,
            filter,
            reach,
            current: matches!(memory, Memory::Current),
            schema: output,
        });
        let mut branch = self.meet(vec![left.branch, right.branch], schema, by, partitions, rows);
        branch.part.operators.push(operator);
        self.without_added(branch, result)
    }

    /// Without the columns that were added for the join.
    pub fn without_added(&self, mut branch: Branch, result: &DFSchema) -> Result<Branch> {
        if branch.rows.columns.fields().len() != result.fields().len() {
            let columns: Vec<Expr> = result.columns().into_iter().map(Expr::Column).collect();
            self.project(&mut branch, &columns, result)?;
        }
        Ok(branch)
    }

    pub fn about_join(&self, message: &str) -> SqlError {
        let source = &self.select.source;
        SqlError::unsupported(message)
            .at(find(source, "join"))
            .or_at_start(source)
    }
}

/// Whether the rows are those of a result that changes and has a key.
pub fn changes_by_key(side: &Branch) -> bool {
    side.rows.changelog && matches!(side.rows.key, Key::Groups { .. })
}

fn turned<T>(is_turned: bool, left: T, right: T) -> (T, T) {
    match is_turned {
        true => (right, left),
        false => (left, right),
    }
}

/// The columns of the result: those of a side that may have no match may be NULL. So many are on the left.
pub fn padded(columns: DFSchema, kind: JoinKind, left: usize) -> DFSchema {
    let may_be_null = |at: usize| match kind {
        JoinKind::Left => at >= left,
        JoinKind::Right => at < left,
        JoinKind::Full => true,
        JoinKind::Inner | JoinKind::LeftSemi | JoinKind::LeftAnti => false,
    };
    let fields = columns.iter().enumerate().map(|(at, (table, field))| {
        let is_nullable = field.is_nullable() || may_be_null(at);
        (
            table.cloned(),
            Arc::new(field.as_ref().clone().with_nullable(is_nullable)),
        )
    });
    // The same names as before, which were different from each other.
    DFSchema::new_with_metadata(fields.collect(), columns.metadata().clone()).unwrap_or(columns)
}

/// The columns of the result that are the keys, where they are never NULL for want of a match.
fn partitioned(kind: JoinKind, left: &Side, right: &Side) -> Option<Vec<usize>> {
    let before = left.branch.rows.columns.fields().len();
    match kind {
        JoinKind::Full => None,
        JoinKind::Right => Some(right.keys.iter().map(|key| before + key).collect()),
        _ => Some(left.keys.clone()),
    }
}

/// The times that the watermark is still about: those within reach, on sides that are there in every row.
fn times(kind: JoinKind, left: &Side, right: &Side) -> BTreeMap<usize, Time> {
    let (has_left, has_right) = match kind {
        JoinKind::Inner => (true, true),
        JoinKind::Right => (false, true),
        JoinKind::Full => (false, false),
        JoinKind::Left | JoinKind::LeftSemi | JoinKind::LeftAnti => (true, false),
    };
    let before = left.branch.rows.columns.fields().len();
    let mut times = BTreeMap::new();
    for (side, is_there, first) in [(left, has_left, 0), (right, has_right, before)] {
        let Some(time) = side.time.filter(|_| is_there) else {
            continue;
        };
        let of_rows = side.branch.rows.times.get(&time) == Some(&Time::Event);
        // Rows of a window that is within reach lie anywhere in it, and may have come long before.
        let kept = side
            .branch
            .rows
            .times
            .iter()
            .filter(|(_, kind)| (**kind == Time::Event) == of_rows);
        times.extend(kept.map(|(at, kind)| (first + at, *kind)));
    }
    times
}
