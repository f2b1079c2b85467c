//! A continuous query in words: its stages, by what rows meet, what each operator keeps and until when.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use headwater_catalog::definition::{Definition, Object, Sink};
use headwater_catalog::snapshot::{Change, Snapshot};
use headwater_connect::sinks;
use headwater_engine::plan::{
    Aggregate, GroupingSet, Input, Join, JoinKind, LateRows, Lookup, Operator, Output, Pipeline, Reach, SessionRows,
    Stage, TemporalJoin, TimeSource, TopN, ViewKey,
};
use headwater_event::op::OP_COLUMN;
use headwater_schema::types::type_name;

use crate::define::define;
use crate::error::{Result, SqlError};
use crate::plan;
use crate::statement::{Kind, Statement};
use crate::time::{describe, describe_window};

/// Lines about a `CREATE` or a `SELECT … EMIT CHANGES`. (A one-off `SELECT` is for DataFusion to explain.)
///
/// # Errors
/// What keeps the statement from running; any other statement.
pub fn explain(statement: &Statement, snapshot: &Snapshot) -> Result<Vec<String>> {
    match &statement.kind {
        Kind::Explain(explain) => self::explain(&explain.statement, snapshot),
        Kind::Select(select) if select.emit_changes => {
            let (pipeline, schema) = plan::live_select(select, snapshot, "live")?;
            let names = visible(&schema);
            let mut lines = vec![format!("live query: {}", names.join(", "))];
            lines.extend(stages(&pipeline));
            Ok(lines)
        }
        Kind::CreateStream(create) => created(&create.name.value, statement, snapshot),
        Kind::CreateView(create) => created(&create.name.value, statement, snapshot),
        Kind::CreateSource(create) => created(&create.name.value, statement, snapshot),
        Kind::CreateSink(create) => created(&create.name.value, statement, snapshot),
        Kind::CreateTable(create) => created(&create.name.value, statement, snapshot),
        _ => Err(SqlError::invalid("only continuous queries have stages to explain").at(statement.source.start())),
    }
}

/// Lines about a pipeline.
pub fn stages(pipeline: &Pipeline) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, stage) in pipeline.stages.iter().enumerate() {
        lines.push(format!("stage {number}: {}", plain(&input(&stage.input))));
        lines.extend(
            stage
                .operators
                .iter()
                .map(|operator| format!("  {}", plain(&self::operator(operator)))),
        );
        lines.push(format!("  to {}", output(stage)));
    }
    lines
}

/// What an operator does, and what it keeps, and until when.
pub fn kept(operator: &Operator) -> (String, String) {
    let words = plain(&self::operator(operator));
    match words.rsplit_once("; ") {
        Some((what, keeps)) => (what.to_owned(), keeps.to_owned()),
        None => (words, String::new()),
    }
}

fn created(name: &str, statement: &Statement, snapshot: &Snapshot) -> Result<Vec<String>> {
    // As if it were not there: what is explained is the statement, not whether it may be run twice.
    let without = snapshot.with(&[Change::Remove(name.to_owned())]);
    let Some((definition, _)) = define(statement, &without)? else {
        return Err(SqlError::internal(format!("{name} is there although it was removed")));
    };
    let after = without.with(&[Change::Put(Definition {
        ahead: true,
        ..definition
    })]);
    let definition = after
        .get(name)
        .ok_or_else(|| SqlError::internal(format!("{name} is not there")))?;
    let mut lines = vec![head(definition)];
    if let Some(sink) = definition.sink() {
        lines.extend(delivery(sink, &after));
    }
    if definition.query().is_some() {
        lines.extend(stages(&plan::pipeline(definition, &after)?));
    }
    Ok(lines)
}

fn head(definition: &Definition) -> String {
    if let Some(source) = definition.source() {
        return format!(
            "source {} into {}: {}{}",
            definition.name,
            source.stream,
            source.connector,
            listed(&source.options)
        );
    }
    if let Some(sink) = definition.sink() {
        return format!(
            "sink {} from {}: {}{}",
            definition.name,
            sink.reads,
            sink.connector,
            listed(&sink.options)
        );
    }
    let columns: Vec<_> = definition
        .columns()
        .iter()
        .map(|column| format!("{} {}", column.name, type_name(&column.data_type, column.json)))
        .collect();
    let detail = match &definition.object {
        Object::Stream(stream) => {
            let by = match stream.partition_by.as_slice() {
                [] => String::new(),
                columns => format!(" by {}", columns.join(", ")),
            };
            let watermark = stream.watermark.as_ref().map_or(String::new(), |watermark| {
                format!(", watermark {} - {}", watermark.column, describe(watermark.delay))
            });
            let topic = stream.topic.as_ref();
            let topic = topic.map_or(String::new(), |topic| format!(", bound to the topic {topic}"));
            format!("{} partitions{by}{watermark}{topic}", stream.partitions)
        }
        Object::View(view) => match view.key.as_deref() {
            None => "rows without a key".to_owned(),
            Some([]) => "one row".to_owned(),
            Some(key) => format!("key {}", key.join(", ")),
        },
        Object::Table(table) => format!(
            "key {}: {}{}",
            table.key.join(", "),
            table.connector,
            listed(&table.options)
        ),
        Object::Source(_) | Object::Sink(_) => String::new(),
    };
    format!(
        "{} {} ({}), {detail}",
        definition.kind(),
        definition.name,
        columns.join(", ")
    )
}

fn listed(options: &BTreeMap<String, String>) -> String {
    options
        .iter()
        .map(|(key, value)| format!(", {key} = {value}"))
        .collect()
}

/// What a sink reads, and what it promises.
fn delivery(sink: &Sink, snapshot: &Snapshot) -> Vec<String> {
    let Some(reads) = snapshot.get(&sink.reads) else {
        return Vec::new();
    };
    let what = match reads.view() {
        Some(_) => "changes",
        None => "events",
    };
    // It was opened when it was defined.
    let guarantee = sinks::open(sink, reads).map(|sink| sink.guarantee());
    let reads = format!("  reads the {what} of {}, from the first that is kept on", sink.reads);
    std::iter::once(reads)
        .chain(guarantee.ok().map(|guarantee| format!("  delivers {guarantee}")))
        .collect()
}

fn input(input: &Input) -> String {
    let names: Vec<_> = input.schema.fields().iter().map(|field| field.name()).collect();
    let time = match &input.time {
        TimeSource::None => String::new(),
        TimeSource::Rows {
            column,
            delay,
            lateness,
            late,
        } => {
            let late = match late {
                LateRows::Keep => "",
                LateRows::Drop => ", late rows are counted",
                LateRows::DeadLetter { .. } => ", late rows go to dead_letters",
            };
            let allowed = match *lateness {
                0 => String::new(),
                lateness => format!(", {} of lateness are allowed", describe(lateness)),
            };
            format!("; watermark {} - {}{allowed}{late}", names[*column], describe(*delay))
        }
        TimeSource::Producers { producers } => format!("; watermark from {producers} tasks"),
    };
    format!(
        "reads {} ({} partitions): {}{time}",
        input.topic,
        input.partitions,
        visible(&input.schema).join(", ")
    )
}

fn operator(operator: &Operator) -> String {
    match operator {
        Operator::Filter(filter) => format!("filter {}", filter.predicate),
        Operator::Project(project) => {
            let fields = project.schema.fields().iter().zip(&project.expressions);
            let columns: Vec<_> = fields
                .filter(|(field, _)| field.name() != OP_COLUMN)
                .map(|(field, expression)| named(&plain(&expression.to_string()), field.name()))
                .collect();
            format!("project {}", columns.join(", "))
        }
        Operator::AssignWindows(assign) => format!("assign windows: {}", describe_window(assign.window)),
        Operator::GroupingSets(sets) => {
            let groups: Vec<_> = sets.groups.iter().map(ToString::to_string).collect();
            let of = |set: &GroupingSet| {
                let within = groups.iter().zip(&set.groups).filter(|(_, is_in)| **is_in);
                format!("({})", list(within.map(|(group, _)| group.as_str())))
            };
            let each: Vec<_> = sets.sets.iter().map(of).collect();
            format!("each row once for each of {}", each.join(", "))
        }
        Operator::PartialAggregate(partial) => {
            let window = partial
                .window
                .map_or(String::new(), |(_, window)| format!(", {}", describe_window(window)));
            let by = by(&partial.aggregates, &partial.groups, &window);
            format!("aggregate in part {by}; kept until the epoch ends")
        }
        Operator::WindowAggregate(aggregate) => format!(
            "aggregate windows {}: {}; kept until {}the watermark passes the window's end{}",
            describe_window(aggregate.window),
            names(&aggregate.aggregates),
            after(aggregate.lateness),
            corrected(aggregate.lateness)
        ),
        Operator::PartialSessions(partial) => {
            let session = format!(", SESSION {}", describe(partial.gap));
            let by = by(&partial.aggregates, &partial.groups, &session);
            format!("aggregate in part {by}; kept until the epoch ends")
        }
        Operator::SessionAggregate(aggregate) if aggregate.gives == SessionRows::Latest => format!(
            "aggregate groups: {}; each is kept until the watermark is {} beyond its last row",
            names(&aggregate.aggregates),
            describe(aggregate.gap)
        ),
        Operator::SessionAggregate(aggregate) => format!(
            "aggregate sessions SESSION {}: {}; kept until {}the watermark reaches the session's end{}",
            describe(aggregate.gap),
            names(&aggregate.aggregates),
            after(aggregate.lateness),
            corrected(aggregate.lateness)
        ),
        Operator::ChangelogAggregate(aggregate) if aggregate.groups == 0 => {
            format!("aggregate for ever: {}; keeps one state", names(&aggregate.aggregates))
        }
        Operator::ChangelogAggregate(aggregate) if aggregate.kept_in_view.is_some() => format!(
            "aggregate for ever: {}; the view's rows are its state",
            names(&aggregate.aggregates)
        ),
        Operator::ChangelogAggregate(aggregate) => {
            format!(
                "aggregate for ever: {}; keeps one state for each group",
                names(&aggregate.aggregates)
            )
        }
        Operator::RetractingAggregate(aggregate) => format!(
            "aggregate again when a row comes or goes: {}; keeps every row",
            names(&aggregate.aggregates)
        ),
        Operator::Join(join) => join_in_words(join),
        Operator::TemporalJoin(join) => temporal_join(join),
        Operator::Lookup(lookup) => looked_up(lookup),
        Operator::TopN(top) => first_rows(top),
        Operator::Over(over) => format!(
            "{} over the time {}{}; rows are kept until the watermark passes, then what later ones look back to",
            list(over.functions.iter().map(|function| function.name())),
            over.schema.field(over.time_column).name(),
            of_groups(&over.schema, &over.partition_by)
        ),
        Operator::ChangelogOver(over) => format!(
            "{} over groups that change{}; keeps every row",
            list(over.functions.iter().map(|function| function.name.as_str())),
            of_groups(&over.schema, &over.partition_by)
        ),
        Operator::Expire(expire) => format!(
            "rows for a time; each is kept until the watermark is {} beyond it",
            describe(expire.ttl)
        ),
        Operator::Copies(_) => "each row as often as it is counted".to_owned(),
        Operator::NumberCopies(_) => "number equal rows; keeps one count for each row".to_owned(),
    }
}

/// How long after the watermark.
fn after(lateness: i64) -> String {
    match lateness {
        0 => String::new(),
        lateness => format!("{} after ", describe(lateness)),
    }
}

fn corrected(lateness: i64) -> &'static str {
    match lateness {
        0 => "",
        _ => ", and corrected until then",
    }
}

fn join_in_words(join: &Join) -> String {
    let kind = match join.kind {
        JoinKind::Inner => "join",
        JoinKind::Left => "left join",
        JoinKind::Right => "right join",
        JoinKind::Full => "full join",
        JoinKind::LeftSemi => "keep rows with a match",
        JoinKind::LeftAnti => "keep rows without a match",
    };
    let keys: Vec<_> = join
        .left
        .keys
        .iter()
        .map(|&key| join.schema.field(key).name().as_str())
        .collect();
    let filter = join.filter.as_ref().map_or(String::new(), |filter| {
        format!(", where {}", plain(&filter.to_string()))
    });
    let kept = match join.reach {
        None if join.current => "with the right rows as they stand; keeps every right row".to_owned(),
        None => "keeps every row".to_owned(),
        Some(Reach { lower: 0, upper: 0, .. }) => "at the same time; kept until the watermark passes it".to_owned(),
        Some(Reach { lower, upper, .. }) => format!(
            "right rows from {} to {}; kept until the watermark passes that",
            distance(lower),
            distance(upper)
        ),
    };
    format!("{kind} by {}{filter}; {kept}", keys.join(", "))
}

fn temporal_join(join: &TemporalJoin) -> String {
    let kind = if join.keeps_unmatched { "left join" } else { "join" };
    let name = |key: &usize| join.schema.field(*key).name().as_str();
    let filter = join.filter.as_ref().map_or(String::new(), |filter| {
        format!(", where {}", plain(&filter.to_string()))
    });
    let time = join.left.columns.iter().position(|column| *column == join.time_column);
    format!(
        "{kind} by {} with the row valid at {}{filter}; rows are kept until the watermark passes, then the newest right one of each key",
        list(join.left.keys.iter().map(name)),
        time.as_ref().map_or("its time", name),
    )
}

fn looked_up(lookup: &Lookup) -> String {
    let kind = if lookup.keeps_unmatched { "left join" } else { "join" };
    let name = |key: &usize| lookup.schema.field(*key).name().as_str();
    let filter = lookup.filter.as_ref().map_or(String::new(), |filter| {
        format!(", where {}", plain(&filter.to_string()))
    });
    format!(
        "{kind} by {} with the row that {} has when it is looked up{filter}; keeps nothing",
        list(lookup.keys.iter().map(name)),
        lookup.table
    )
}

fn distance(micros: i64) -> String {
    match micros {
        0 => "the same time".to_owned(),
        before if before < 0 => format!("{} before", describe(-before)),
        after => format!("{} after", describe(after)),
    }
}

fn first_rows(top: &TopN) -> String {
    let order = top.order_by.iter().map(|(column, options)| {
        let direction = if options.descending { " DESC" } else { "" };
        format!("{}{direction}", top.schema.field(*column).name())
    });
    let order = order.collect::<Vec<_>>();
    let order = match order.as_slice() {
        [] => String::new(),
        order => format!(" in the order of {}", order.join(", ")),
    };
    let rows = match top.limit {
        1 => "row".to_owned(),
        limit => format!("{limit} rows"),
    };
    let kept = match top.closes_by {
        _ if top.kept_in_view.is_some() => "the view's rows are its state",
        Some(_) => "kept until the watermark passes the window's end",
        None => "keeps these, or every row where rows may go again",
    };
    let groups = of_groups(&top.schema, &top.partition_by);
    format!("the first {rows}{groups}{order}; {kept}")
}

fn of_groups(schema: &SchemaRef, columns: &[usize]) -> String {
    match columns {
        [] => String::new(),
        columns => format!(
            " by {}",
            list(columns.iter().map(|&at| schema.field(at).name().as_str()))
        ),
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// The columns that people see: all but the operation.
fn visible(schema: &SchemaRef) -> Vec<&str> {
    let names = schema.fields().iter().map(|field| field.name().as_str());
    names.filter(|name| *name != OP_COLUMN).collect()
}

fn named(expression: &str, name: &str) -> String {
    match expression == plain(name) {
        true => expression.to_owned(),
        false => format!("{expression} AS {name}"),
    }
}

/// The text without what only planners need: a column's place behind its name, `count(*)` in their words.
pub fn plain(text: &str) -> String {
    let mut pieces = text.split('@');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.trim_start_matches(|character: char| character.is_ascii_digit()) {
            rest if rest.len() < piece.len() => plain.push_str(rest),
            _ => {
                plain.push('@');
                plain.push_str(piece);
            }
        }
    }
    plain.replace("count(Int64(1))", "count(*)")
}

fn by(aggregates: &[Aggregate], groups: &[Arc<dyn PhysicalExpr>], window: &str) -> String {
    let groups: Vec<_> = groups.iter().map(ToString::to_string).collect();
    let by = if groups.is_empty() {
        "over all rows".to_owned()
    } else {
        format!("by {}", groups.join(", "))
    };
    format!("{} {by}{window}", names(aggregates))
}

fn names(aggregates: &[Aggregate]) -> String {
    let names: Vec<_> = aggregates.iter().map(|aggregate| aggregate.name.as_str()).collect();
    if names.is_empty() {
        "distinct rows".to_owned()
    } else {
        names.join(", ")
    }
}

fn output(stage: &Stage) -> String {
    let schema = stage.output_schema();
    let columns = |columns: &[usize]| {
        let names: Vec<_> = columns.iter().map(|&at| schema.field(at).name().as_str()).collect();
        names.join(", ")
    };
    match &stage.output {
        Output::Topic {
            topic,
            partitions,
            partition_by,
            ..
        } if partition_by.is_empty() => format!("{topic} ({partitions} partitions), from each task to its own"),
        Output::Topic {
            topic,
            partitions,
            partition_by,
            ..
        } => format!("{topic} ({partitions} partitions) by {}", columns(partition_by)),
        Output::View {
            table,
            key: ViewKey::Position,
            ..
        } => format!("{table}, rows are only added"),
        Output::View {
            table,
            key: ViewKey::Copies,
            ..
        } => format!("{table}, rows without a key"),
        Output::View {
            table,
            key: ViewKey::Columns(key),
            ..
        } if key.is_empty() => format!("{table}, one row"),
        Output::View {
            table,
            key: ViewKey::Columns(key),
            ..
        } => format!("{table}, one row for each {}", columns(key)),
    }
}
