//! `state_ttl` of a stream's rows that meet a result that changes: they come, and go when the watermark is so far beyond their time, and
//! their pairs with them. So the result is the join of the other side with the rows of that time.

use std::sync::Arc;

use datafusion::logical_expr::{Expr, Extension, Join, LogicalPlan};
use headwater_engine::plan::{Expire, Operator};
use headwater_event::op::changelog_schema;

use crate::error::{Result, SqlError};
use crate::plan::branch::{Branch, Key};
use crate::plan::stages::Stages;
use crate::plan::ttl::node::Lasting;
use crate::plan::ttl::{Bounds, Planned, external, joined};

impl Bounds<'_> {
    /// The join, whose rows on one side only come and on the other change. `right` is its right side.
    pub fn with_rows_that_go(
        &mut self,
        join: &Join,
        right: &LogicalPlan,
        sides: &[(Branch, String); 2],
    ) -> Planned<LogicalPlan> {
        let mut plans = Vec::with_capacity(sides.len());
        for (plan, side) in [join.left.as_ref(), right].into_iter().zip(sides) {
            plans.push(match side.0.rows.changelog {
                true => plan.clone(),
                false => self.going(plan, side)?,
            });
        }
        let (Some(right), Some(left)) = (plans.pop(), plans.pop()) else {
            return Ok(LogicalPlan::Join(join.clone()));
        };
        self.bounded += 1;
        joined(join, left, right, join.filter.clone())
    }

    fn going(&mut self, plan: &LogicalPlan, side: &(Branch, String)) -> Planned<LogicalPlan> {
        let Some((input, Expr::Column(time))) = self.timed(plan)? else {
            return Err(external(self.without_time(side)));
        };
        let ttl = self.ttl;
        Ok(LogicalPlan::Extension(Extension {
            node: Arc::new(Lasting { input, time, ttl }),
        }))
    }
}

impl Stages<'_> {
    /// Rows that go again.
    pub fn expiring(&mut self, lasting: &Lasting) -> Result<Branch> {
        let mut branch = self.node(&lasting.input)?;
        let time = &lasting.time;
        let time_column = branch.rows.columns.maybe_index_of_column(time);
        let time_column = time_column
            .ok_or_else(|| SqlError::internal(format!("the time column {} is not among the rows", time.name)))?;
        self.closes_windows(&mut branch);
        branch.part.operators.push(Operator::Expire(Expire {
            time_column,
            ttl: lasting.ttl,
            schema: changelog_schema(branch.rows.columns.as_arrow()),
        }));
        branch.rows.changelog = true;
        branch.rows.times.clear();
        // Where each came from, which is not among its columns.
        branch.rows.key = Key::Groups {
            window: None,
            groups: vec![None],
        };
        Ok(branch)
    }
}
