//! Aggregates: partial ones before rows move, and the rest after.
//!
//! The rows of a group must meet in one task. They do already if their partition was decided by
//! columns that are among the groups, or if there is only one; else the chain is cut, and the partial
//! states go through an internal topic that is partitioned by the groups.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{self, Expr, lit};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::GroupsAccumulatorAdapter;
use headwater_engine::plan::{
    Aggregate, ChangelogAggregate, Operator, PartialAggregate, PartialSessions, Retraction, SessionAggregate,
    SessionRows, WindowAggregate,
};
use headwater_event::op::changelog_schema;

use crate::error::{Result, SqlError, find};
use crate::plan::branch::{Branch, Key, Time};
use crate::plan::grouping::Grouping;
use crate::plan::inline::{Inlined, inline, replace};
use crate::plan::stages::Stages;
use crate::plan::windows::{Spans, WINDOW_END, WINDOW_START, Windows};

/// Aggregates that put what they are given in order themselves. (`nth_value` wants its rows in order.)
const IN_ORDER: [&str; 4] = ["first_value", "last_value", "array_agg", "string_agg"];

/// A group of an aggregate over windows.
enum Group {
    /// Start, end or last microsecond of the window.
    Window(usize),
    /// The n-th of the groups that are not about the window.
    Plain(usize),
    /// Computed from the window alone.
    OfWindow(Expr),
}

/// Functions that know of a group what they say of it.
const STATE_IS_RESULT: [&str; 9] = [
    "count", "sum", "min", "max", "bool_and", "bool_or", "bit_and", "bit_or", "bit_xor",
];

impl Stages<'_> {
    pub fn aggregate(&mut self, aggregate: &logical_expr::Aggregate) -> Result<Branch> {
        let grouping = self.grouping(aggregate)?;
        let groups = grouping
            .as_ref()
            .map_or(&aggregate.group_expr, |grouping| &grouping.groups);
        let expressions: Vec<Expr> = groups.iter().chain(&aggregate.aggr_expr).cloned().collect();
        let windows = inline(&aggregate.input, expressions.clone());
        if let Some(inlined) = windows.map_err(|error| self.error(&error))? {
            return self.over_windows(aggregate, inlined, grouping.as_ref());
        }
        match inline(&aggregate.input, expressions).map_err(|error| self.error(&error))? {
            Some(inlined) => self.lasting(aggregate, inlined),
            None => self.for_ever(aggregate),
        }
    }

    /// Without a window: a result that changes.
    fn for_ever(&mut self, aggregate: &logical_expr::Aggregate) -> Result<Branch> {
        let mut branch = self.node(&aggregate.input)?;
        let aggregate = &self.by_sets(&mut branch, aggregate)?;
        if branch.rows.changelog {
            return self.over_changelog(branch, aggregate);
        }
        let aggregates = self.aggregates(&branch, &aggregate.aggr_expr)?;
        let columns = aggregate.schema.as_ref().clone();
        self.merged(branch, &aggregate.group_expr, aggregates, None, columns)
    }

    /// Partial aggregates, and what merges them for ever into rows with these columns.
    pub fn merged(
        &mut self,
        mut branch: Branch,
        group_expr: &[Expr],
        aggregates: Vec<Aggregate>,
        retraction: Option<Retraction>,
        columns: DFSchema,
    ) -> Result<Branch> {
        let groups = self.groups(&branch, group_expr)?;
        let stays = self.meets(&branch, group_expr);
        let schema = partial_schema(&[], &columns.fields()[..groups.len()], &aggregates);
        let group_columns: Vec<usize> = (0..groups.len()).collect();
        branch.part.operators.push(Operator::PartialAggregate(PartialAggregate {
            window: None,
            groups,
            aggregates: aggregates.clone(),
            schema: schema.clone(),
        }));
        if stays.is_none() {
            branch = self.cut(branch, schema, group_columns.clone());
        }
        branch
            .part
            .operators
            .push(Operator::ChangelogAggregate(ChangelogAggregate {
                groups: group_columns.len(),
                aggregates,
                retraction,
                kept_in_view: None,
                schema: changelog_schema(columns.as_arrow()),
            }));
        self.grouped(&mut branch, stays, group_columns.len(), columns);
        Ok(branch)
    }

    /// What is known of the rows of groups: the group columns come first.
    pub fn grouped(&self, branch: &mut Branch, stays: Option<Option<Vec<usize>>>, groups: usize, columns: DFSchema) {
        branch.rows.changelog = true;
        branch.rows.times = BTreeMap::new();
        branch.rows.partitioned = stays.unwrap_or(Some((0..groups).collect()));
        branch.rows.key = Key::Groups {
            window: None,
            groups: (0..groups).map(Some).collect(),
        };
        branch.rows.columns = columns;
    }

    fn over_windows(
        &mut self,
        aggregate: &logical_expr::Aggregate,
        inlined: Inlined<'_, Windows>,
        grouping: Option<&Grouping>,
    ) -> Result<Branch> {
        let windows = inlined.node;
        let mut branch = self.node(&windows.input)?;
        self.refuse_changelog(&branch)?;
        let own: Vec<Column> = windows.columns().into();
        let grouped = inlined.expressions.len() - aggregate.aggr_expr.len();
        let (group_expr, aggr_expr) = inlined.expressions.split_at(grouped);
        let (mut groups, mut plain) = self.classify(group_expr, &own)?;
        self.check_window_group(&groups, &windows.spans)?;
        if let Some(grouping) = grouping {
            self.check_sets_of_windows(grouping, &groups, &windows.spans)?;
        }
        if let Spans::Sessions(sessions) = &windows.spans {
            self.check_session_groups(&plain, sessions)?;
            self.check_session_filters(&inlined.filters, &own, sessions)?;
        }
        for expr in aggr_expr {
            if expr.column_refs().iter().any(|column| own.contains(column)) {
                return Err(self.about_group(
                    "an aggregate over a window's own column",
                    "it is the same for the whole group: select it as it is",
                ));
            }
        }
        let time_column = self.time_column(&branch, windows)?;
        let time_type = branch.rows.columns.field(time_column).data_type().clone();
        let mut after = Vec::new();
        for filter in inlined.filters {
            let refs = filter.column_refs();
            match (
                refs.iter().all(|column| own.contains(column)),
                refs.iter().any(|column| own.contains(column)),
            ) {
                (_, false) => self.filter(&mut branch, &filter)?,
                (true, true) => after.push(filter),
                _ => {
                    return Err(self.about_group(
                        "a filter that compares a window's bounds with other columns",
                        "filter the result: HAVING, or a query over it",
                    ));
                }
            }
        }
        if let Some(grouping) = grouping {
            let id = aggregate.schema.field(groups.len()).data_type();
            plain = self.in_sets(&mut branch, grouping, &positions(&groups), &plain, id)?;
            groups.push(Group::Plain(plain.len() - 1));
        }
        let physical = self.groups(&branch, &plain)?;
        let mut aggregates = self.aggregates(&branch, aggr_expr)?;
        if aggregates.is_empty() && plain.is_empty() {
            // A window is there by its rows: without any column nothing would tell.
            aggregates.push(self.one_aggregate(&branch, &count(lit(1i64)))?);
        }
        let fields = aggregate.schema.fields();
        let plain_fields: Vec<FieldRef> = positions(&groups).into_iter().map(|at| fields[at].clone()).collect();
        let stays = self.meets(&branch, &plain);
        let before: &[&str] = match windows.spans {
            Spans::Aligned(_) => &["slice"],
            Spans::Sessions(_) => &["start", "last"],
        };
        let schema = partial_schema(before, &plain_fields, &aggregates);
        branch.part.operators.push(match &windows.spans {
            Spans::Aligned(window) => Operator::PartialAggregate(PartialAggregate {
                window: Some((time_column, *window)),
                groups: physical,
                aggregates: aggregates.clone(),
                schema: schema.clone(),
            }),
            Spans::Sessions(sessions) => Operator::PartialSessions(PartialSessions {
                time_column,
                gap: sessions.gap,
                groups: physical,
                aggregates: aggregates.clone(),
                schema: schema.clone(),
            }),
        });
        let lateness = self.closes_corrected_windows(&mut branch)?;
        if stays.is_none() {
            let first = before.len();
            branch = self.cut(branch, schema, (first..first + plain.len()).collect());
        }
        let temporary = window_schema(&time_type, &plain_fields, &aggregates);
        let rows = Arc::new(temporary.as_arrow().clone());
        // Of a session nothing is final before it ends, not even where it begins: its row comes then.
        let emit_changes = self.select.emit_changes && matches!(windows.spans, Spans::Aligned(_));
        let changelog = emit_changes || lateness > 0;
        let schema = if changelog { changelog_schema(&rows) } else { rows };
        branch.part.operators.push(match &windows.spans {
            Spans::Aligned(window) => Operator::WindowAggregate(WindowAggregate {
                window: *window,
                groups: plain.len(),
                aggregates,
                schema,
                emit_changes,
                lateness,
            }),
            Spans::Sessions(sessions) => Operator::SessionAggregate(SessionAggregate {
                gap: sessions.gap,
                gives: SessionRows::Ended,
                lateness,
                groups: plain.len(),
                aggregates,
                schema,
            }),
        });
        branch.rows.changelog = changelog;
        branch.rows.columns = temporary;
        self.after_windows(&mut branch, aggregate, &groups, &own, after)?;
        let partitioned = match stays {
            // The columns that decided the partition, where they are among the groups now.
            Some(columns) => columns.map(|columns| columns.iter().map(|&n| positions(&groups)[n]).collect()),
            None => Some(positions(&groups)),
        };
        branch.rows.partitioned = partitioned.filter(|columns: &Vec<usize>| !columns.is_empty());
        known_of_windows(&mut branch, &groups, &windows.spans);
        if lateness > 0 {
            // Rows may change after the watermark has passed them.
            branch.rows.times = BTreeMap::new();
        }
        Ok(branch)
    }

    /// Filters on the window, and the aggregate's columns in its order.
    fn after_windows(
        &self,
        branch: &mut Branch,
        aggregate: &logical_expr::Aggregate,
        groups: &[Group],
        own: &[Column],
        filters: Vec<Expr>,
    ) -> Result<()> {
        let start = Expr::Column(Column::new_unqualified(WINDOW_START));
        let end = Expr::Column(Column::new_unqualified(WINDOW_END));
        let last = end.clone() - lit(ScalarValue::new_interval_mdn(0, 0, 1000));
        let bounds: HashMap<Column, Expr> = own
            .iter()
            .cloned()
            .zip([start.clone(), end.clone(), last.clone()])
            .collect();
        for filter in filters {
            let filter = replace(filter, &bounds).map_err(|error| self.error(&error))?;
            self.filter(branch, &filter)?;
        }
        let column = |at: usize| Expr::Column(Column::new_unqualified(branch.rows.columns.field(at).name()));
        let mut expressions = Vec::new();
        for group in groups {
            expressions.push(match group {
                Group::Window(bound) => [&start, &end, &last][*bound].clone(),
                Group::Plain(n) => column(2 + n),
                Group::OfWindow(expr) => replace(expr.clone(), &bounds).map_err(|error| self.error(&error))?,
            });
        }
        let first = 2 + positions(groups).len();
        expressions.extend((0..aggregate.aggr_expr.len()).map(|n| column(first + n)));
        self.project(branch, &expressions, &aggregate.schema)
    }

    /// Which groups are about the window; and the others.
    fn classify(&self, group_expr: &[Expr], own: &[Column]) -> Result<(Vec<Group>, Vec<Expr>)> {
        let (mut groups, mut plain) = (Vec::new(), Vec::new());
        for expr in group_expr {
            let refs = expr.column_refs();
            let about: HashSet<bool> = refs.iter().map(|column| own.contains(column)).collect();
            groups.push(match expr {
                Expr::Column(column) if own.contains(column) => {
                    Group::Window(own.iter().position(|other| other == column).unwrap_or_default())
                }
                _ if !about.contains(&true) => {
                    plain.push(expr.clone());
                    Group::Plain(plain.len() - 1)
                }
                _ if !about.contains(&false) => Group::OfWindow(expr.clone()),
                _ => {
                    return Err(self.about_group(
                        "a group that mixes a window's bounds with other columns",
                        "group by them one by one",
                    ));
                }
            });
        }
        if !groups.iter().any(|group| matches!(group, Group::Window(_))) {
            return Err(SqlError::invalid(
                "an aggregate over windows needs window_start or window_end in its GROUP BY",
            )
            .at(find(&self.select.source, "group"))
            .or_at_start(&self.select.source)
            .hint("GROUP BY window_start, window_end, …; to aggregate without windows read from the stream itself"));
        }
        Ok((groups, plain))
    }

    /// A window's bounds are the same for all that it holds, and only when it closes is anything of it final.
    fn check_sets_of_windows(&self, grouping: &Grouping, groups: &[Group], spans: &Spans) -> Result<()> {
        if let Spans::Sessions(_) = spans {
            return Err(self.about_group(
                "GROUPING SETS, ROLLUP or CUBE of sessions",
                "make a view for each grouping",
            ));
        }
        let is_plain = |group: &Group| matches!(group, Group::Plain(_));
        let all = groups.iter().enumerate();
        match all
            .into_iter()
            .all(|(at, group)| is_plain(group) || grouping.is_everywhere(at))
        {
            true => Ok(()),
            false => Err(self.about_group(
                "a grouping set without the window's columns",
                "put them before the sets: GROUP BY window_start, window_end, ROLLUP (…)",
            )),
        }
    }

    /// What is grouped by has to tell windows apart.
    fn check_window_group(&self, groups: &[Group], spans: &Spans) -> Result<()> {
        let has_end = groups.iter().any(|group| matches!(group, Group::Window(1 | 2)));
        if !begin_together(spans) || has_end {
            return Ok(());
        }
        Err(SqlError::unsupported(
            "an aggregate over all windows of a CUMULATE that begin together is not available in continuous queries",
        )
        .at(find(&self.select.source, "group"))
        .or_at_start(&self.select.source)
        .hint("GROUP BY window_start, window_end, …"))
    }

    fn refuse_changelog(&self, branch: &Branch) -> Result<()> {
        if branch.rows.changelog {
            return Err(self.about_group(
                "an aggregate over a result that changes",
                "aggregate over the stream, or over windows whose rows are final",
            ));
        }
        Ok(())
    }

    fn about_group(&self, what: &str, hint: &str) -> SqlError {
        SqlError::unsupported(format!("{what} is not available in continuous queries"))
            .at(find(&self.select.source, "group"))
            .or_at_start(&self.select.source)
            .hint(hint)
    }

    pub fn groups(&self, branch: &Branch, groups: &[Expr]) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        groups
            .iter()
            .map(|group| self.physical(branch, &group.clone().unalias()))
            .collect()
    }

    pub fn aggregates(&self, branch: &Branch, expressions: &[Expr]) -> Result<Vec<Aggregate>> {
        expressions
            .iter()
            .map(|expression| self.one_aggregate(branch, expression))
            .collect()
    }

    pub fn one_aggregate(&self, branch: &Branch, expression: &Expr) -> Result<Aggregate> {
        // DataFusion counts rows as `count(1)`.
        let name = expression
            .clone()
            .unalias()
            .human_display()
            .to_string()
            .replace("count(1)", "count(*)");
        if let Expr::AggregateFunction(function) = expression.clone().unalias()
            && !function.params.order_by.is_empty()
            && !IN_ORDER.contains(&function.func.name())
            && !function.func.supports_within_group_clause()
        {
            return Err(SqlError::unsupported(format!(
                "ORDER BY inside {} is not available in continuous queries",
                function.func.name()
            ))
            .at(find(&self.select.source, function.func.name()))
            .or_at_start(&self.select.source)
            .hint(format!("it is in {}", IN_ORDER.join(", "))));
        }
        if let Expr::AggregateFunction(function) = expression.clone().unalias()
            && function.params.distinct
            && function.func.name() == "bit_xor"
        {
            // DataFusion can't put its partial states together.
            return Err(
                SqlError::unsupported("DISTINCT inside bit_xor is not available in continuous queries")
                    .at(find(&self.select.source, "bit_xor"))
                    .or_at_start(&self.select.source)
                    .hint("aggregate over distinct rows: FROM (SELECT DISTINCT …)"),
            );
        }
        let (properties, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
        let input = branch.rows.columns.as_arrow();
        let lowered = LoweredAggregateBuilder::new(expression, &branch.rows.columns, input, &properties, &context)
            .build()
            .map_err(|error| self.error(&error))?;
        let function = lowered.aggregate;
        let mut arguments = function.expressions();
        // What they are ordered by comes behind the arguments.
        arguments.extend(function.order_bys().iter().map(|order| Arc::clone(&order.expr)));
        Ok(Aggregate {
            name,
            arguments,
            filter: lowered.filter,
            state_fields: function.state_fields().map_err(|error| self.error(&error))?,
            result_field: function.field(),
            counts_distinct: function.is_distinct() && function.fun().name() == "count",
            state_is_result: !function.is_distinct() && STATE_IS_RESULT.contains(&function.fun().name()),
            accumulator: Arc::new(move || {
                if function.groups_accumulator_supported() {
                    return function.create_groups_accumulator();
                }
                let function = function.clone();
                Ok(Box::new(GroupsAccumulatorAdapter::new(move || {
                    function.create_accumulator()
                })))
            }),
        })
    }

    /// Whether the rows of a group are in one task already: then the groups (by number) that decide
    /// the partition, if any do.
    pub fn meets(&self, branch: &Branch, groups: &[Expr]) -> Option<Option<Vec<usize>>> {
        let group_of = |column: &usize| {
            groups.iter().position(|group| match group.clone().unalias() {
                Expr::Column(group) => branch.rows.columns.maybe_index_of_column(&group) == Some(*column),
                _ => false,
            })
        };
        let decide = branch
            .rows
            .partitioned
            .as_ref()
            .and_then(|columns| columns.iter().map(group_of).collect());
        if decide.is_some() || branch.rows.tasks == 1 {
            return Some(decide);
        }
        None
    }
}

fn known_of_windows(branch: &mut Branch, groups: &[Group], spans: &Spans) {
    let bound = |wanted: &[usize]| {
        groups
            .iter()
            .position(|group| matches!(group, Group::Window(bound) if wanted.contains(bound)))
    };
    let start = bound(&[0]).filter(|_| !begin_together(spans));
    let bounds = [start, bound(&[1, 2])];
    branch.rows.key = Key::Groups {
        window: Some(bounds),
        groups: positions(groups).into_iter().map(Some).collect(),
    };
    branch.rows.times = BTreeMap::new();
    for (at, group) in groups.iter().enumerate() {
        match (group, spans) {
            (Group::Window(0), Spans::Aligned(window)) => branch.rows.times.insert(at, Time::WindowStart(*window)),
            // A session may be as long as it likes: its row comes any time after its start.
            (Group::Window(0), Spans::Sessions(_)) => None,
            (Group::Window(_), _) => branch.rows.times.insert(at, Time::WindowEnd),
            _ => None,
        };
    }
}

/// Whether several windows have one start, as those of a CUMULATE.
fn begin_together(spans: &Spans) -> bool {
    matches!(spans, Spans::Aligned(window) if window.step < window.size)
}

/// Where the groups that are not about the window are among all groups.
fn positions(groups: &[Group]) -> Vec<usize> {
    let all = groups.iter().enumerate();
    all.filter(|(_, group)| matches!(group, Group::Plain(_)))
        .map(|(at, _)| at)
        .collect()
}

/// What says where in time they belong, the groups, the aggregates' states.
pub fn partial_schema(before: &[&str], groups: &[FieldRef], aggregates: &[Aggregate]) -> Arc<Schema> {
    let before = before
        .iter()
        .map(|name| Arc::new(Field::new(*name, DataType::Int64, false)));
    let mut fields: Vec<FieldRef> = before.collect();
    fields.extend(groups.iter().cloned());
    fields.extend(
        aggregates
            .iter()
            .flat_map(|aggregate| aggregate.state_fields.iter().cloned()),
    );
    Arc::new(Schema::new(fields))
}

/// The window's bounds, the groups, the results; under names that can't be confused.
fn window_schema(time: &DataType, groups: &[FieldRef], aggregates: &[Aggregate]) -> DFSchema {
    let mut fields: Vec<FieldRef> = vec![
        Arc::new(Field::new(WINDOW_START, time.clone(), false)),
        Arc::new(Field::new(WINDOW_END, time.clone(), false)),
    ];
    let renamed = |field: &FieldRef, name: String| Arc::new(field.as_ref().clone().with_name(name));
    fields.extend(
        groups
            .iter()
            .enumerate()
            .map(|(n, field)| renamed(field, format!("group {n}"))),
    );
    fields.extend(
        aggregates
            .iter()
            .enumerate()
            .map(|(n, aggregate)| renamed(&aggregate.result_field, format!("result {n}"))),
    );
    DFSchema::from_unqualified_fields(fields.into(), HashMap::new()).unwrap_or_else(|_| DFSchema::empty())
}
