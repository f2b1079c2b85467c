//! Joins of random rows, changes and restarts against a nested loop over the rows that are left at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int8Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int8Type, Schema, SchemaRef};
use datafusion::logical_expr::lit;
use datafusion::prelude::{Expr, col};
use headwater_engine::engine::{Engine, EngineOptions, Running};
use headwater_engine::plan::{Join, JoinKind, JoinSide, LateRows, Operator, Output, Pipeline, Reach, TimeSource};
use headwater_event::clock::{ManualClock, Micros};
use headwater_event::offset::TopicPartition;
use headwater_event::op::{Op, changelog_schema, is_changelog, op_field};
use headwater_log::memory::MemoryLog;
use headwater_log::topic::{Cleanup, TopicSpec};
use headwater_log::{Log, Produced};
use proptest::prelude::*;

use crate::support::{DELAY, END, input, physical, pipeline, sorted, stage, texts, time_type};

/// On the left the columns `time, k, v, text`, on the right `time, k, v`.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    side: i8,
    time: Option<Micros>,
    k: Option<i64>,
    v: Option<i64>,
    text: Option<&'static str>,
}

impl Row {
    fn columns(&self) -> Vec<String> {
        let number = |number: Option<i64>| number.map_or("NULL".to_owned(), |number| number.to_string());
        let mut columns = vec![number(self.time), number(self.k), number(self.v)];
        if self.side == 0 {
            columns.push(self.text.unwrap_or("NULL").to_owned());
        }
        columns
    }
}

#[derive(Clone, Copy, Debug)]
enum Condition {
    None,
    Less,
    /// NULL where a value is.
    NotOne,
}

#[derive(Clone, Copy, Debug)]
struct Query {
    kind: JoinKind,
    condition: Condition,
    two_keys: bool,
    reach: Option<(Micros, Micros)>,
    changelog: bool,
}

fn union_schema(changelog: bool) -> SchemaRef {
    let mut fields = vec![
        Field::new("side", DataType::Int8, true),
        Field::new("time", time_type(), true),
        Field::new("k", DataType::Int64, true),
        Field::new("v", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
    ];
    if changelog {
        fields.push(op_field());
    }
    Arc::new(Schema::new(fields))
}

fn batch(changes: &[(Op, Row)], changelog: bool) -> RecordBatch {
    let rows = || changes.iter().map(|(_, row)| row);
    let times: TimestampMicrosecondArray = rows().map(|row| row.time).collect();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(rows().map(|row| Some(row.side)).collect::<Int8Array>()),
        Arc::new(times.with_timezone("+00:00")),
        Arc::new(rows().map(|row| row.k).collect::<Int64Array>()),
        Arc::new(rows().map(|row| row.v).collect::<Int64Array>()),
        Arc::new(rows().map(|row| row.text).collect::<StringArray>()),
    ];
    if changelog {
        let ops: Int8Array = changes.iter().map(|(op, _)| Some(*op as i8)).collect();
        columns.push(Arc::new(ops));
    }
    RecordBatch::try_new(union_schema(changelog), columns).unwrap()
}

impl Query {
    fn join(self) -> Join {
        let named = |prefix: &str, names: &[&str]| {
            let schema = union_schema(false);
            let field = |name: &&str| {
                schema
                    .field_with_name(name)
                    .unwrap()
                    .clone()
                    .with_name(format!("{prefix}_{name}"))
            };
            names.iter().map(field).collect::<Vec<_>>()
        };
        let mut fields = named("l", &["time", "k", "v", "text"]);
        let left = fields.clone();
        fields.extend(named("r", &["time", "k", "v"]));
        let pair: SchemaRef = Arc::new(Schema::new(fields));
        let filter: Option<Expr> = match self.condition {
            Condition::None => None,
            Condition::Less => Some(col("l_v").lt(col("r_v"))),
            Condition::NotOne => Some((lit(10i64) / (col("r_v") - col("l_v"))).not_eq(lit(10i64))),
        };
        let alone = matches!(self.kind, JoinKind::LeftSemi | JoinKind::LeftAnti);
        let schema = if alone {
            Arc::new(Schema::new(left))
        } else {
            pair.clone()
        };
        let unmatched = !matches!(self.kind, JoinKind::Inner | JoinKind::LeftSemi);
        let keys = if self.two_keys { vec![1, 2] } else { vec![1] };
        Join {
            left: JoinSide {
                columns: vec![1, 2, 3, 4],
                keys: keys.clone(),
            },
            right: JoinSide {
                columns: vec![1, 2, 3],
                keys,
            },
            kind: self.kind,
            filter: filter.map(|filter| physical(filter, &pair)),
            reach: self.reach.map(|(lower, upper)| Reach {
                left: 0,
                right: 0,
                lower,
                upper,
            }),
            current: false,
            schema: match self.changelog || (unmatched && self.reach.is_none()) {
                true => changelog_schema(&schema),
                false => schema,
            },
        }
    }

    fn pipeline(self) -> Pipeline {
        let time = TimeSource::Rows {
            column: 1,
            delay: DELAY,
            lateness: 0,
            late: LateRows::Keep,
        };
        let from = input("both", 1, union_schema(self.changelog), time);
        let to = Output::Topic {
            topic: "out".into(),
            partitions: 1,
            partition_by: Vec::new(),
            first_producer: 0,
        };
        pipeline(vec![stage(from, vec![Operator::Join(self.join())], to)])
    }

    fn matches(self, left: &Row, right: &Row) -> bool {
        let equal = |left: Option<i64>, right: Option<i64>| left.is_some() && left == right;
        let keys = equal(left.k, right.k) && (!self.two_keys || equal(left.v, right.v));
        let condition = match (self.condition, left.v, right.v) {
            (Condition::None, ..) => true,
            (Condition::Less, Some(left), Some(right)) => left < right,
            (Condition::NotOne, Some(left), Some(right)) => 10 / (right - left) != 10,
            _ => false,
        };
        let near = match (self.reach, left.time, right.time) {
            (None, ..) => true,
            (Some((lower, upper)), Some(left), Some(right)) => (left + lower..=left + upper).contains(&right),
            _ => false,
        };
        keys && condition && near
    }

    /// By a nested loop.
    fn result(self, left: &[Row], right: &[Row]) -> Vec<String> {
        let shows_pairs = !matches!(self.kind, JoinKind::LeftSemi | JoinKind::LeftAnti);
        let pad = |count: usize| vec!["NULL".to_owned(); count];
        let mut rows = Vec::new();
        for l in left {
            let matched: Vec<&Row> = right.iter().filter(|r| self.matches(l, r)).collect();
            match self.kind {
                JoinKind::LeftSemi if !matched.is_empty() => rows.push(l.columns()),
                JoinKind::LeftAnti if matched.is_empty() => rows.push(l.columns()),
                JoinKind::Left | JoinKind::Full if matched.is_empty() => rows.push([l.columns(), pad(3)].concat()),
                _ => {}
            }
            if shows_pairs {
                rows.extend(matched.iter().map(|r| [l.columns(), r.columns()].concat()));
            }
        }
        if matches!(self.kind, JoinKind::Right | JoinKind::Full) {
            let alone = right.iter().filter(|r| !left.iter().any(|l| self.matches(l, r)));
            rows.extend(alone.map(|r| [pad(4), r.columns()].concat()));
        }
        sorted(rows.iter().map(|row| row.join("|")).collect())
    }
}

struct World {
    log: Arc<MemoryLog>,
    engine: Arc<Engine>,
    query: Query,
    running: Option<Running>,
}

impl World {
    async fn new(query: Query) -> Self {
        let clock = ManualClock::new(1_000_000_000);
        let log = MemoryLog::new(clock.clone());
        for (name, schema) in [("both", union_schema(query.changelog)), ("out", query.join().schema)] {
            let spec = TopicSpec {
                name: name.to_owned(),
                schema,
                partitions: 1,
                cleanup: Cleanup::Delete {
                    retention_ms: None,
                    retention_bytes: None,
                },
                events: None,
            };
            log.create_topic(spec).await.unwrap();
        }
        let options = EngineOptions {
            threads: 1,
            epoch_bytes_max: 2_000,
            state_cache_bytes_max: 2_000,
            dead_letters: None,
            ..EngineOptions::default()
        };
        let engine = Engine::new(options, log.clone(), clock).unwrap();
        let mut world = Self {
            log,
            engine,
            query,
            running: None,
        };
        world.start().await;
        world
    }

    async fn start(&mut self) {
        self.running = Some(self.engine.start(self.query.pipeline()).await.unwrap());
    }

    async fn restart(&mut self) {
        self.running.take().unwrap().stop().await;
        self.start().await;
    }

    async fn append(&self, rows: &[(Op, Row)]) {
        let produced = Produced {
            partition: TopicPartition::new("both", 0),
            rows: batch(rows, self.query.changelog),
            progress: None,
        };
        self.log.append(vec![produced]).await.unwrap();
    }

    async fn caught_up(&self) {
        let caught_up = self.running.as_ref().unwrap().caught_up();
        tokio::time::timeout(Duration::from_secs(30), caught_up)
            .await
            .expect("stuck");
    }

    /// What its output adds up to. Nothing is retracted that was not there.
    async fn result(&self) -> Vec<String> {
        let status = self.running.as_ref().unwrap().status();
        assert!(status.iter().all(|task| task.restarts == 0), "{status:?}");
        let read = self
            .log
            .read(&TopicPartition::new("out", 0), 0, usize::MAX, None)
            .await
            .unwrap();
        let mut rows: BTreeMap<String, usize> = BTreeMap::new();
        for batch in read.into_iter().map(|batch| batch.rows) {
            let mut columns: Vec<usize> = (0..batch.num_columns()).collect();
            let mut ops = vec![Op::Insert as i8; batch.num_rows()];
            if is_changelog(batch.schema_ref()) {
                columns.pop();
                ops = batch
                    .columns()
                    .last()
                    .unwrap()
                    .as_primitive::<Int8Type>()
                    .values()
                    .to_vec();
            }
            for (row, op) in texts(&batch.project(&columns).unwrap()).into_iter().zip(ops) {
                let count = rows.entry(row.clone()).or_default();
                match Op::from_i8(op).unwrap().adds() {
                    true => *count += 1,
                    false => *count = count.checked_sub(1).unwrap_or_else(|| panic!("{row} was not there")),
                }
            }
        }
        let rows = rows
            .into_iter()
            .filter(|(row, _)| !row.contains("|998|") && !row.contains("|999|"));
        rows.flat_map(|(row, count)| vec![row; count]).collect()
    }

    async fn state_entries(&self) -> usize {
        self.log.state("query-1.0.0").await.unwrap().scan(&[]).count()
    }
}

/// Rows that match nothing, and after which nothing that came before them is within reach.
fn end() -> [(Op, Row); 2] {
    [(0, 998), (1, 999)].map(|(side, k)| {
        let row = Row {
            side,
            time: Some(END),
            k: Some(k),
            v: None,
            text: None,
        };
        (Op::Insert, row)
    })
}

#[derive(Clone, Debug)]
struct Story {
    changes: Vec<(Op, Row)>,
    batches: Vec<(usize, Then)>,
}

#[derive(Clone, Copy, Debug)]
enum Then {
    Nothing,
    CatchUp,
    Restart,
}

fn rows() -> impl Strategy<Value = Vec<(Row, bool, prop::sample::Index)>> {
    let texts = prop::sample::select(vec![
        None,
        Some(""),
        Some("a"),
        Some("a text that is longer than a block is"),
    ]);
    let row = (
        0..2i8,
        0..4i64,
        0..=DELAY,
        prop::option::weighted(0.9, 0..4i64),
        prop::option::weighted(0.9, 0..3i64),
        texts,
        prop::bool::weighted(0.95),
    );
    let row = (row, prop::bool::weighted(0.4), any::<prop::sample::Index>());
    prop::collection::vec(row, 1..120).prop_map(|rows| {
        let mut base = -100;
        let rows = rows
            .into_iter()
            .map(|((side, step, jitter, k, v, text, has_time), goes, which)| {
                base += step;
                let row = Row {
                    side,
                    time: has_time.then_some(base + jitter),
                    k,
                    v: v.map(|v| 2 * v + i64::from(side)),
                    text: text.filter(|_| side == 0),
                };
                (row, goes, which)
            });
        rows.collect()
    })
}

/// Rows that come and, in a changelog, go again.
fn stories(changelog: bool) -> impl Strategy<Value = Story> {
    let then = prop_oneof![3 => Just(Then::Nothing), 2 => Just(Then::CatchUp), 2 => Just(Then::Restart)];
    let batches = prop::collection::vec((1..25usize, then), 1..12);
    (rows(), batches).prop_map(move |(rows, batches)| {
        let mut there: Vec<Row> = Vec::new();
        let mut changes = Vec::new();
        for (mut row, goes, which) in rows {
            if changelog {
                // Few different ones, so that some are equal.
                row.time = Some(which.index(2) as i64);
                row.text = row.text.filter(|text| text.len() < 2);
            }
            if changelog && goes && !there.is_empty() {
                let gone = there.swap_remove(which.index(there.len()));
                changes.push((
                    if which.index(2) == 0 {
                        Op::Delete
                    } else {
                        Op::UpdateBefore
                    },
                    gone,
                ));
                continue;
            }
            there.push(row.clone());
            changes.push((
                if which.index(2) == 0 {
                    Op::Insert
                } else {
                    Op::UpdateAfter
                },
                row,
            ));
        }
        Story { changes, batches }
    })
}

async fn tell(query: Query, story: &Story) -> Vec<String> {
    let mut world = World::new(query).await;
    let mut rest = story.changes.as_slice();
    for (count, then) in story.batches.iter().cycle() {
        let (now, later) = rest.split_at(rest.len().min(*count));
        rest = later;
        world.append(now).await;
        match then {
            Then::Nothing => {}
            Then::CatchUp => world.caught_up().await,
            Then::Restart => world.restart().await,
        }
        if rest.is_empty() {
            break;
        }
    }
    world.append(&end()).await;
    world.caught_up().await;
    world.restart().await;
    world.caught_up().await;
    if query.reach.is_some() {
        assert!(world.state_entries().await <= 4, "what is out of reach must go");
    }
    world.result().await
}

fn check(query: Query, story: &Story) {
    let mut sides = [Vec::new(), Vec::new()];
    for (op, row) in &story.changes {
        let rows = &mut sides[row.side as usize];
        match op.adds() {
            true => rows.push(row.clone()),
            false => drop(rows.swap_remove(rows.iter().position(|known| known == row).unwrap())),
        }
    }
    let found = runtime().block_on(tell(query, story));
    assert_eq!(found, query.result(&sides[0], &sides[1]), "{query:?}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn kinds() -> impl Strategy<Value = JoinKind> {
    use JoinKind::*;
    prop::sample::select(vec![Inner, Left, Right, Full, LeftSemi, LeftAnti])
}

fn conditions() -> impl Strategy<Value = Condition> {
    prop::sample::select(vec![Condition::None, Condition::Less, Condition::NotOne])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn for_ever(kind in kinds(), condition in conditions(), two_keys in any::<bool>(), story in stories(false)) {
        check(Query { kind, condition, two_keys, reach: None, changelog: false }, &story);
    }

    #[test]
    fn of_changelogs(kind in kinds(), condition in conditions(), two_keys in any::<bool>(), story in stories(true)) {
        check(Query { kind, condition, two_keys, reach: None, changelog: true }, &story);
    }

    #[test]
    fn within_reach(
        kind in kinds(),
        condition in conditions(),
        reach in prop::sample::select(vec![(0, 0), (-10, 10), (0, 30), (-25, -5), (3, 8)]),
        story in stories(false),
    ) {
        check(Query { kind, condition, two_keys: false, reach: Some(reach), changelog: false }, &story);
    }
}

fn row(side: i8, time: Micros, k: i64, v: i64) -> (Op, Row) {
    let row = Row {
        side,
        time: Some(time),
        k: Some(k),
        v: Some(v),
        text: None,
    };
    (Op::Insert, row)
}

const PLAIN: Query = Query {
    kind: JoinKind::Inner,
    condition: Condition::None,
    two_keys: false,
    reach: None,
    changelog: false,
};

/// Unmatched rows come when nothing can match them any more, and not before, also after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unmatched_rows_come_when_their_time_has_come() {
    let query = Query {
        kind: JoinKind::Full,
        reach: Some((0, 10)),
        ..PLAIN
    };
    let mut world = World::new(query).await;
    world.append(&[row(0, 100, 1, 1), row(1, 101, 2, 2)]).await;
    world.caught_up().await;
    // The right row's last partner would be as old as itself.
    world.append(&[row(0, 101 + DELAY, 998, 0)]).await;
    world.caught_up().await;
    assert!(world.result().await.is_empty());
    world.append(&[row(0, 102 + DELAY, 998, 0)]).await;
    world.caught_up().await;
    assert_eq!(world.result().await, ["NULL|NULL|NULL|NULL|101|2|2"]);
    world.append(&[row(0, 110 + DELAY, 998, 0)]).await;
    world.caught_up().await;
    world.restart().await;
    world.caught_up().await;
    assert_eq!(world.result().await.len(), 1);
    world.append(&[row(1, 110, 1, 3)]).await;
    world.append(&[row(0, 111 + DELAY, 998, 0)]).await;
    world.caught_up().await;
    assert_eq!(
        world.result().await,
        ["100|1|1|NULL|110|1|3", "NULL|NULL|NULL|NULL|101|2|2"]
    );
}

/// Such a row is left out as if it had not come; the others are as if nothing was.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rows_that_the_condition_fails_for_go_alone() {
    for reach in [None, Some((0, 10))] {
        let query = Query {
            kind: JoinKind::Full,
            condition: Condition::NotOne,
            reach,
            ..PLAIN
        };
        let mut world = World::new(query).await;
        world.append(&[row(0, 0, 1, 5), row(0, 0, 2, 6), row(0, 0, 3, 7)]).await;
        world.caught_up().await;
        world
            .append(&[row(1, 0, 2, 6), row(1, 0, 1, 5), row(1, 1, 1, 7), row(1, 1, 3, 9)])
            .await;
        world.caught_up().await;
        world.restart().await;
        world.append(&end()).await;
        world.caught_up().await;
        let expected = ["0|1|5|NULL|1|1|7", "0|2|6|NULL|NULL|NULL|NULL", "0|3|7|NULL|1|3|9"];
        assert_eq!(world.result().await, expected, "{reach:?}");
    }
}
