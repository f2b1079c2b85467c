//! Aggregates: partial ones before rows move, and the rest after.
//!
//! The rows of a group must meet in one task. They do already if their partition was decided by
//! columns that are among the groups, or if there is only one; else the chain is cut, and the partial
//! states go through an internal topic that is partitioned by the groups.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{self, Expr, lit};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::GroupsAccumulatorAdapter;
use headwater_engine::plan::{
    Aggregate, ChangelogAggregate, Input, Operator, Output, PartialAggregate, Stage, TimeSource, Window,
    WindowAggregate,
};
use headwater_event::op::changelog_schema;

use crate::error::{Result, SqlError, find};
use crate::plan::chain::{Chain, Key, Part, Time};
use crate::plan::inline::{Inlined, inline, replace};
use crate::plan::windows::{WINDOW_END, WINDOW_START};

/// A group of an aggregate over windows.
enum Group {
    /// Start, end or last microsecond of the window.
    Window(usize),
    /// The n-th of the groups that are not about the window.
    Plain(usize),
    /// Computed from the window alone.
    OfWindow(Expr),
}

impl Chain<'_> {
    pub fn aggregate(&mut self, aggregate: &logical_expr::Aggregate) -> Result<()> {
        let expressions = aggregate
            .group_expr
            .iter()
            .chain(&aggregate.aggr_expr)
            .cloned()
            .collect();
        match inline(&aggregate.input, expressions).map_err(|error| self.error(&error))? {
            Some(inlined) => self.over_windows(aggregate, inlined),
            None => self.for_ever(aggregate),
        }
    }

    /// Without a window: a result that changes.
    fn for_ever(&mut self, aggregate: &logical_expr::Aggregate) -> Result<()> {
        self.node(&aggregate.input)?;
        self.refuse_changelog()?;
        let groups = self.groups(&aggregate.group_expr)?;
        let aggregates = self.aggregates(&aggregate.aggr_expr)?;
        let fields = aggregate.schema.fields();
        let stays = self.meets(&aggregate.group_expr);
        let schema = partial_schema(None, &fields[..groups.len()], &aggregates);
        let group_columns: Vec<usize> = (0..groups.len()).collect();
        self.part.operators.push(Operator::PartialAggregate(PartialAggregate {
            window: None,
            groups,
            aggregates: aggregates.clone(),
            schema: schema.clone(),
        }));
        if stays.is_none() {
            self.cut(schema, group_columns.clone());
        }
        self.part
            .operators
            .push(Operator::ChangelogAggregate(ChangelogAggregate {
                groups: group_columns.len(),
                aggregates,
                schema: changelog_schema(aggregate.schema.as_arrow()),
            }));
        self.rows.columns = aggregate.schema.as_ref().clone();
        self.rows.changelog = true;
        self.rows.times = BTreeMap::new();
        self.rows.partitioned = stays.unwrap_or(Some(group_columns.clone()));
        self.rows.key = Key::Groups {
            window: None,
            groups: group_columns
                .iter()
                .map(|&at| (fields[at].name().clone(), Some(at)))
                .collect(),
        };
        Ok(())
    }

    fn over_windows(&mut self, aggregate: &logical_expr::Aggregate, inlined: Inlined) -> Result<()> {
        let windows = inlined.windows;
        self.node(&windows.input)?;
        self.refuse_changelog()?;
        let own: Vec<Column> = windows.columns().into();
        let (group_expr, aggr_expr) = inlined.expressions.split_at(aggregate.group_expr.len());
        let (groups, plain) = self.classify(group_expr, &own)?;
        for expr in aggr_expr {
            if expr.column_refs().iter().any(|column| own.contains(column)) {
                return Err(self.about_group(
                    "an aggregate over a window's own column",
                    "it is the same for the whole group: select it as it is",
                ));
            }
        }
        let time_column = self.time_column(windows)?;
        let time_type = self.rows.columns.field(time_column).data_type().clone();
        let mut after = Vec::new();
        for filter in inlined.filters {
            let refs = filter.column_refs();
            match (
                refs.iter().all(|column| own.contains(column)),
                refs.iter().any(|column| own.contains(column)),
            ) {
                (_, false) => self.filter(&filter)?,
                (true, true) => after.push(filter),
                _ => {
                    return Err(self.about_group(
                        "a filter that compares a window's bounds with other columns",
                        "filter the result: HAVING, or a query over it",
                    ));
                }
            }
        }
        let physical = self.groups(&plain)?;
        let aggregates = self.aggregates(aggr_expr)?;
        let fields = aggregate.schema.fields();
        let plain_fields: Vec<FieldRef> = positions(&groups).into_iter().map(|at| fields[at].clone()).collect();
        let stays = self.meets(&plain);
        let schema = partial_schema(Some(()), &plain_fields, &aggregates);
        self.part.operators.push(Operator::PartialAggregate(PartialAggregate {
            window: Some((time_column, windows.window)),
            groups: physical,
            aggregates: aggregates.clone(),
            schema: schema.clone(),
        }));
        self.closes_windows();
        let cut = stays.is_none();
        if cut {
            self.cut(schema, (1..=plain.len()).collect());
        }
        let emit_changes = self.select.emit_changes;
        let temporary = window_schema(&time_type, &plain_fields, &aggregates);
        let rows = Arc::new(temporary.as_arrow().clone());
        self.part.operators.push(Operator::WindowAggregate(WindowAggregate {
            window: windows.window,
            groups: plain.len(),
            aggregates,
            schema: if emit_changes { changelog_schema(&rows) } else { rows },
            emit_changes,
        }));
        self.rows.changelog = emit_changes;
        self.rows.columns = temporary;
        self.after_windows(aggregate, &groups, &own, after)?;
        let partitioned = match stays {
            // The columns that decided the partition, where they are among the groups now.
            Some(columns) => columns.map(|columns| columns.iter().map(|&n| positions(&groups)[n]).collect()),
            None => Some(positions(&groups)),
        };
        self.rows.partitioned = partitioned.filter(|columns: &Vec<usize>| !columns.is_empty());
        self.known_of_windows(aggregate, &groups, windows.window);
        Ok(())
    }

    /// Filters on the window, and the aggregate's columns in its order.
    fn after_windows(
        &mut self,
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
            self.filter(&filter)?;
        }
        let column = |at: usize| Expr::Column(Column::new_unqualified(self.rows.columns.field(at).name()));
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
        self.project(&expressions, &aggregate.schema)
    }

    fn known_of_windows(&mut self, aggregate: &logical_expr::Aggregate, groups: &[Group], window: Window) {
        let bound = |wanted: &[usize]| {
            groups
                .iter()
                .position(|group| matches!(group, Group::Window(bound) if wanted.contains(bound)))
        };
        let bounds = [bound(&[0]), bound(&[1, 2])];
        let named = |at: usize| (aggregate.schema.field(at).name().clone(), Some(at));
        self.rows.key = Key::Groups {
            window: Some(bounds),
            groups: positions(groups).into_iter().map(named).collect(),
        };
        self.rows.times = BTreeMap::new();
        for (at, group) in groups.iter().enumerate() {
            match group {
                Group::Window(0) => self.rows.times.insert(at, Time::WindowStart(window)),
                Group::Window(_) => self.rows.times.insert(at, Time::WindowEnd),
                _ => None,
            };
        }
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

    fn refuse_changelog(&self) -> Result<()> {
        if self.rows.changelog {
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

    fn groups(&self, groups: &[Expr]) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        groups
            .iter()
            .map(|group| self.physical(&group.clone().unalias()))
            .collect()
    }

    fn aggregates(&self, expressions: &[Expr]) -> Result<Vec<Aggregate>> {
        expressions
            .iter()
            .map(|expression| self.one_aggregate(expression))
            .collect()
    }

    fn one_aggregate(&self, expression: &Expr) -> Result<Aggregate> {
        // DataFusion counts rows as `count(1)`.
        let name = expression
            .clone()
            .unalias()
            .human_display()
            .to_string()
            .replace("count(1)", "count(*)");
        if let Expr::AggregateFunction(function) = expression.clone().unalias()
            && !function.params.order_by.is_empty()
        {
            return Err(SqlError::unsupported(format!(
                "ORDER BY inside {} is not available in continuous queries",
                function.func.name()
            ))
            .at(find(&self.select.source, function.func.name()))
            .or_at_start(&self.select.source)
            .hint("order the elements where the view is read: array_sort(column)"));
        }
        let (properties, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
        let input = self.rows.columns.as_arrow();
        let lowered = LoweredAggregateBuilder::new(expression, &self.rows.columns, input, &properties, &context)
            .build()
            .map_err(|error| self.error(&error))?;
        let function = lowered.aggregate;
        Ok(Aggregate {
            name,
            arguments: function.expressions(),
            filter: lowered.filter,
            state_fields: function.state_fields().map_err(|error| self.error(&error))?,
            result_field: function.field(),
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
    fn meets(&self, groups: &[Expr]) -> Option<Option<Vec<usize>>> {
        let group_of = |column: &usize| {
            groups.iter().position(|group| match group.clone().unalias() {
                Expr::Column(group) => self.rows.columns.maybe_index_of_column(&group) == Some(*column),
                _ => false,
            })
        };
        let decide = self
            .rows
            .partitioned
            .as_ref()
            .and_then(|columns| columns.iter().map(group_of).collect());
        if decide.is_some() || self.rows.tasks == 1 {
            return Some(decide);
        }
        None
    }

    /// Ends the stage: its rows go on through an internal topic, partitioned by these columns.
    fn cut(&mut self, schema: Arc<Schema>, partition_by: Vec<usize>) {
        let topic: Arc<str> = format!("{}.{}", self.request.name, self.stages.len()).into();
        let partitions = match partition_by.as_slice() {
            [] => 1,
            _ => self.request.partitions.unwrap_or(self.rows.tasks),
        };
        let time = match self.part.input.time {
            TimeSource::None => TimeSource::None,
            _ => TimeSource::Producers {
                producers: self.rows.tasks,
            },
        };
        let input = Input {
            topic: topic.clone(),
            partitions,
            columns: (0..schema.fields().len()).collect(),
            schema,
            time,
            from_latest: false,
            idle_timeout: self.part.input.idle_timeout,
        };
        let next = Part {
            input,
            operators: Vec::new(),
        };
        let done = std::mem::replace(&mut self.part, next);
        self.stages.push(Stage {
            input: done.input,
            operators: done.operators,
            output: Output::Topic {
                topic,
                partitions,
                partition_by,
            },
        });
        self.rows.tasks = partitions;
    }
}

/// Where the groups that are not about the window are among all groups.
fn positions(groups: &[Group]) -> Vec<usize> {
    let all = groups.iter().enumerate();
    all.filter(|(_, group)| matches!(group, Group::Plain(_)))
        .map(|(at, _)| at)
        .collect()
}

/// `slice` for windows, the groups, the aggregates' states.
fn partial_schema(window: Option<()>, groups: &[FieldRef], aggregates: &[Aggregate]) -> Arc<Schema> {
    let mut fields: Vec<FieldRef> = Vec::new();
    if window.is_some() {
        fields.push(Arc::new(Field::new("slice", DataType::Int64, false)));
    }
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
