//! Window functions in the order of event time: `… OVER (PARTITION BY … ORDER BY time …)`.
//!
//! A row is final, and so is all that lies before it, when the watermark has passed its time. So the order must be that
//! of the event time, and a frame ends at the current row or before it. What a function looks back to is
//! kept: some rows, the rows of some time or, for an aggregate of all rows so far, its state. Over rows that change,
//! groups are kept as a whole, and any order and frame will do.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::FieldRef;
use datafusion::common::{Column, DFSchema, ScalarValue, TableReference};
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment, WindowFunction};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{self, Expr, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition, lit};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_planner::create_window_expr_with_name;
use headwater_engine::plan::{
    ChangelogOver, EvaluateGroup, FrameReach, GroupFunction, Operator, Over, RunningAggregate, TimeSource,
    WindowFunction as Planned,
};
use headwater_event::clock::Micros;
use headwater_event::op::changelog_schema;

use crate::error::{Result, SqlError, find};
use crate::plan::branch::{Branch, Key, Time};
use crate::plan::stages::Stages;
use crate::plan::top_n::sort_options;

/// The longest month.
const MONTH_DAYS: i64 = 31;
const DAY_MICROS: Micros = 24 * 60 * 60 * 1_000_000;

impl Stages<'_> {
    pub fn over(&mut self, window: &logical_expr::Window) -> Result<Branch> {
        let mut branch = self.node(&window.input)?;
        let calls: Vec<&WindowFunction> = window.window_expr.iter().filter_map(call).collect();
        let Some((first, others)) = calls.split_first().filter(|_| calls.len() == window.window_expr.len()) else {
            return Err(self.refused("this window function"));
        };
        let params = &first.params;
        if others
            .iter()
            .any(|other| other.params.partition_by != params.partition_by || other.params.order_by != params.order_by)
        {
            return Err(self.refused("window functions of several orders at once"));
        }
        if branch.rows.changelog {
            return self.over_changes(branch, window, &calls);
        }
        let time_column = self.ordered_by_time(&branch, first)?;
        let columns = branch.rows.columns.columns();
        let stays = self.meets(&branch, &params.partition_by);
        let partition_by = self.with_columns(&mut branch, &params.partition_by)?;
        self.closes_windows(&mut branch);
        branch = self.gathered(branch, &partition_by, stays);

        let mut reads: BTreeSet<usize> = BTreeSet::from([time_column]);
        for call in &calls {
            let arguments = call.params.args.iter().chain(call.params.filter.as_deref());
            let columns = arguments.flat_map(Expr::column_refs);
            reads.extend(columns.filter_map(|column| branch.rows.columns.maybe_index_of_column(column)));
        }
        let read = reads.iter().map(|&at| {
            let (relation, field) = branch.rows.columns.qualified_field(at);
            (relation.cloned(), field.clone())
        });
        let read = DFSchema::new_with_metadata(read.collect(), HashMap::new()).map_err(|error| self.error(&error))?;
        let added = added(window);
        let functions = calls
            .iter()
            .zip(&added)
            .map(|(call, (_, field))| self.function(call, field, &read));
        let functions = functions.collect::<Result<Vec<_>>>()?;

        let schema = self.append(&branch, added)?;
        branch.part.operators.push(Operator::Over(Over {
            partition_by,
            time_column,
            time_among_reads: reads.iter().take_while(|&&at| at < time_column).count(),
            reads: reads.into_iter().collect(),
            functions,
            schema: Arc::new(schema.as_arrow().clone()),
        }));
        branch.rows.columns = schema;
        branch.rows.key = Key::Nothing;
        self.drop_computed(branch, columns, calls.len())
    }

    /// Over rows that change, groups are evaluated as a whole: any order and any frame will do.
    fn over_changes(
        &mut self,
        mut branch: Branch,
        window: &logical_expr::Window,
        calls: &[&WindowFunction],
    ) -> Result<Branch> {
        let Some(params) = calls.first().map(|call| &call.params) else {
            return Err(self.refused("this window function"));
        };
        let columns = branch.rows.columns.columns();
        let stays = self.meets(&branch, &params.partition_by);
        let mut wanted = params.partition_by.clone();
        wanted.extend(params.order_by.iter().map(|order| order.expr.clone()));
        let known = self.with_columns(&mut branch, &wanted)?;
        let (partition_by, ordered) = known.split_at(params.partition_by.len());
        let options = params.order_by.iter().map(sort_options);
        let order_by = ordered.iter().copied().zip(options).collect();
        branch = self.gathered(branch, partition_by, stays);
        // A row that changes to another group goes in one task and comes in another, and nothing keeps these in order.
        branch.rows.key.add(partition_by);

        let added = added(window);
        let functions = calls.iter().zip(&added).map(|(call, (_, field))| {
            Ok(GroupFunction {
                name: call.fun.name().to_owned(),
                evaluate: self.evaluate(call, field, &branch.rows.columns)?,
            })
        });
        let functions = functions.collect::<Result<_>>()?;
        let schema = self.append(&branch, added)?;
        branch.part.operators.push(Operator::ChangelogOver(ChangelogOver {
            partition_by: partition_by.to_vec(),
            order_by,
            functions,
            schema: changelog_schema(schema.as_arrow()),
        }));
        branch.rows.columns = schema;
        self.drop_computed(branch, columns, calls.len())
    }

    /// The rows without what was computed for the groups and the order: these columns, and the last ones.
    fn drop_computed(&self, mut branch: Branch, mut columns: Vec<Column>, added: usize) -> Result<Branch> {
        let all = branch.rows.columns.columns();
        if columns.len() + added < all.len() {
            columns.extend_from_slice(&all[all.len() - added..]);
            self.project_columns(&mut branch, &columns)?;
        }
        Ok(branch)
    }

    /// The column with the event time, if that is the order.
    fn ordered_by_time(&self, branch: &Branch, call: &WindowFunction) -> Result<usize> {
        let order = call.params.order_by.as_slice();
        let column = match order {
            [order] if order.asc => match &order.expr {
                Expr::Column(column) => branch.rows.columns.maybe_index_of_column(column),
                _ => None,
            },
            _ => None,
        };
        let time = column.and_then(|column| Some((column, *branch.rows.times.get(&column)?)));
        if let Some((column, Time::Event | Time::WindowEnd)) = time {
            return Ok(column);
        }
        if let TimeSource::None = branch.part.input.time {
            return Err(self
                .about(call, "needs event time: what it reads has no WATERMARK")
                .hint("add to the stream's columns: WATERMARK FOR time AS time - INTERVAL '5' SECOND"));
        }
        let is_time = |time: &Time| matches!(time, Time::Event | Time::WindowEnd);
        let times = branch.rows.times.iter().filter(|(_, time)| is_time(time));
        let names: Vec<_> = times
            .map(|(&at, _)| branch.rows.columns.field(at).name().as_str())
            .collect();
        Err(self
            .about(
                call,
                "must be in the order of event time: a row comes out when the WATERMARK has passed it",
            )
            .hint(match names.as_slice() {
                [] => "select the stream's time column as it is, and ORDER BY it".to_owned(),
                names => format!(
                    "ORDER BY {}; for the first rows in another order: ROW_NUMBER() … <= n",
                    names.join(" or ")
                ),
            }))
    }

    fn function(&self, call: &WindowFunction, field: &FieldRef, read: &DFSchema) -> Result<Planned> {
        let name = call.fun.name().to_owned();
        if call.params.window_frame.units == WindowFrameUnits::Groups {
            return Err(self
                .about(call, "can't have GROUPS in its frame")
                .hint("take ROWS or RANGE"));
        }
        let reach = match &call.fun {
            WindowFunctionDefinition::WindowUDF(_) if name == "row_number" => {
                let count = Expr::AggregateFunction(AggregateFunction::new_udf(
                    count_udaf(),
                    vec![lit(1i64)],
                    false,
                    None,
                    Vec::new(),
                    None,
                ));
                return self.running(&count, name, false, read);
            }
            WindowFunctionDefinition::WindowUDF(_) => self.reach_of_rows(call, &name)?,
            WindowFunctionDefinition::AggregateUDF(function) => match self.reach(call)? {
                Some(reach) => reach,
                None => {
                    let params = &call.params;
                    let aggregate = Expr::AggregateFunction(AggregateFunction::new_udf(
                        Arc::clone(function),
                        params.args.clone(),
                        params.distinct,
                        params.filter.clone(),
                        Vec::new(),
                        params.null_treatment,
                    ));
                    let with_peers = params.window_frame.units == WindowFrameUnits::Range;
                    return self.running(&aggregate, name, with_peers, read);
                }
            },
        };
        Ok(Planned::Frame {
            name,
            reach,
            evaluate: self.evaluate(call, field, read)?,
        })
    }

    /// A function over the rows of one group.
    fn evaluate(&self, call: &WindowFunction, field: &FieldRef, rows: &DFSchema) -> Result<EvaluateGroup> {
        let mut of_group = call.clone();
        of_group.params.partition_by = Vec::new();
        let (properties, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
        let built = create_window_expr_with_name(&Expr::from(of_group), field.name(), rows, &properties, &context)
            // Not every aggregate can let rows go again.
            .and_then(|built| built.create_window_fn().map(|_| built))
            .map_err(|error| self.error(&error))?;
        Ok(Arc::new(move |rows| built.evaluate(rows)))
    }

    /// An aggregate of all rows so far.
    fn running(&self, aggregate: &Expr, name: String, with_peers: bool, read: &DFSchema) -> Result<Planned> {
        let (properties, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
        let lowered = LoweredAggregateBuilder::new(aggregate, read, read.as_arrow(), &properties, &context)
            .build()
            .map_err(|error| self.error(&error))?;
        let function = lowered.aggregate;
        Ok(Planned::Running(RunningAggregate {
            name,
            arguments: function.expressions(),
            filter: lowered.filter,
            state_fields: function.state_fields().map_err(|error| self.error(&error))?,
            with_peers,
            accumulator: Arc::new(move || function.create_accumulator()),
        }))
    }

    /// How far functions look back that take a row from their frame, or from before their own.
    fn reach_of_rows(&self, call: &WindowFunction, name: &str) -> Result<FrameReach> {
        let ignores_nulls = call.params.null_treatment == Some(NullTreatment::IgnoreNulls);
        match name {
            "lag" if ignores_nulls => Err(self
                .about(call, "IGNORE NULLS may look back for ever")
                .hint("filter the NULLs away in a subquery")),
            "lag" => match call.params.args.get(1) {
                None => Ok(FrameReach::Rows(1)),
                Some(Expr::Literal(offset, _)) => match offset.to_string().parse() {
                    Ok(rows) => Ok(FrameReach::Rows(rows)),
                    Err(_) => Err(self
                        .about(call, "can't look ahead: later rows are not known yet")
                        .hint("take LAG with an offset of 0 or more")),
                },
                Some(_) => Err(self.about(call, "needs a number for its offset").hint("lag(column, 3)")),
            },
            "lead" => Err(self
                .about(call, "looks ahead, and later rows are not known yet")
                .hint("take LAG, with the roles of the rows exchanged")),
            "first_value" | "last_value" | "nth_value" => match self.reach(call)? {
                Some(reach) => Ok(reach),
                // The frame ends with the current row or its peers, which are there.
                None if name == "last_value" && !ignores_nulls => Ok(FrameReach::Rows(0)),
                None => Err(self
                    .about(call, "of all rows so far is not available in continuous queries")
                    .hint("say how far to look back: ROWS 10 PRECEDING or RANGE INTERVAL '1' HOUR PRECEDING")),
            },
            _ => Err(self
                .about(call, "is not available in continuous queries")
                .hint("available over event time: aggregates, ROW_NUMBER, LAG, FIRST_VALUE, LAST_VALUE, NTH_VALUE")),
        }
    }

    /// How far the frame goes back; `None` for all rows so far.
    fn reach(&self, call: &WindowFunction) -> Result<Option<FrameReach>> {
        let frame = &call.params.window_frame;
        let ends_now = match &frame.end_bound {
            WindowFrameBound::CurrentRow => true,
            WindowFrameBound::Preceding(_) => false,
            WindowFrameBound::Following(_) => {
                return Err(self
                    .about(call, "looks ahead, and later rows are not known yet")
                    .hint("end the frame at CURRENT ROW"));
            }
        };
        let by_time = frame.units == WindowFrameUnits::Range;
        match &frame.start_bound {
            WindowFrameBound::Preceding(bound) if bound.is_null() && ends_now => Ok(None),
            WindowFrameBound::Preceding(bound) if bound.is_null() => Err(self
                .about(
                    call,
                    "can't have a frame that begins with all rows and ends before the current one",
                )
                .hint("end the frame at CURRENT ROW, or say how far it goes back")),
            WindowFrameBound::Preceding(bound) if by_time => {
                micros(bound).map(|time| Some(FrameReach::Time(time))).ok_or_else(|| {
                    self.about(call, "needs an interval for its RANGE")
                        .hint("RANGE INTERVAL '1' HOUR PRECEDING")
                })
            }
            WindowFrameBound::Preceding(bound) => bound
                .to_string()
                .parse()
                .map(|rows| Some(FrameReach::Rows(rows)))
                .map_err(|_| self.about(call, "needs a number of ROWS").hint("ROWS 10 PRECEDING")),
            _ if by_time => Ok(Some(FrameReach::Time(0))),
            _ => Ok(Some(FrameReach::Rows(0))),
        }
    }

    fn about(&self, call: &WindowFunction, what: &str) -> SqlError {
        let name = call.fun.name();
        SqlError::unsupported(format!("{name} OVER (…) {what}"))
            .at(find(&self.select.source, name))
            .or_at_start(&self.select.source)
    }
}

fn call(expression: &Expr) -> Option<&WindowFunction> {
    match expression {
        Expr::Alias(alias) => call(&alias.expr),
        Expr::WindowFunction(function) => Some(function),
        _ => None,
    }
}

/// The columns that the functions add.
fn added(window: &logical_expr::Window) -> Vec<(Option<TableReference>, FieldRef)> {
    let all = window
        .schema
        .iter()
        .skip(window.schema.fields().len() - window.window_expr.len());
    all.map(|(relation, field)| (relation.cloned(), field.clone()))
        .collect()
}

/// No shorter than the interval, which may have months.
fn micros(interval: &ScalarValue) -> Option<Micros> {
    match interval {
        ScalarValue::IntervalMonthDayNano(Some(interval)) => {
            let days = i64::from(interval.months) * MONTH_DAYS + i64::from(interval.days);
            // Nanoseconds are rounded up.
            Some(days * DAY_MICROS + interval.nanoseconds.div_euclid(1000) + 1)
        }
        _ => None,
    }
}
