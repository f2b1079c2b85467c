//! Every row meets the version that was valid at its time, as in a batch query over all versions.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::prelude::{col, lit, when};
use headwater_engine::plan::{JoinSide, Operator, Output, Pipeline, Project, TemporalJoin, TimeSource, ViewKey};
use proptest::prelude::*;

use crate::oracle::{Story, check, check_on_disk, from_stream, stories};
use crate::support::*;

/// Rows with a code of 2 and more are versions, the others meet them.
const PAIRS: &str = "SELECT l.time, l.key, l.v, l.code, r.time, r.key, r.v
    FROM (SELECT * FROM events WHERE code IS NULL OR code < 2) AS l
    JOIN (SELECT *, lead(time) OVER (PARTITION BY key ORDER BY time) AS until
          FROM (SELECT *, row_number() OVER (PARTITION BY key, time ORDER BY v DESC NULLS LAST) AS place FROM events WHERE code >= 2)
          WHERE place = 1) AS r
    ON r.key = l.key AND r.time <= l.time AND (r.until IS NULL OR l.time < r.until)";

fn between() -> SchemaRef {
    let mut fields = vec![Field::new("side", DataType::Int8, false)];
    for name in ["time", "key", "v", "code"] {
        fields.push(schema().field_with_name(name).unwrap().clone());
    }
    Arc::new(Schema::new(fields))
}

#[derive(Clone, Copy, Debug)]
struct Query {
    keeps_unmatched: bool,
    filtered: bool,
    /// Of versions of one time the least is valid.
    least: bool,
}

fn with_versions(story: &Story, query: Query) -> Pipeline {
    // NULL is never the last.
    let order = SortOptions {
        descending: query.least,
        nulls_first: true,
    };
    let side = when(col("code").gt_eq(lit(2_i64)), lit(1_i8))
        .otherwise(lit(0_i8))
        .unwrap();
    let laid_out = [side, col("time"), col("key"), col("v"), col("code")];
    let laid_out = Operator::Project(Project {
        expressions: laid_out.into_iter().map(|column| physical(column, &schema())).collect(),
        schema: between(),
    });
    let to_topic = Output::Topic {
        topic: "query-1.0".into(),
        partitions: 3,
        partition_by: vec![2],
        first_producer: 0,
    };
    let pair = ["time", "key", "v", "code", "r_time", "r_key", "r_v"]
        .into_iter()
        .zip([1, 2, 3, 4, 1, 2, 3]);
    let fields = pair.map(|(name, at)| between().field(at).clone().with_name(name));
    let pair: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let side = |columns: &[usize]| JoinSide {
        columns: columns.to_vec(),
        keys: vec![1],
    };
    let join = TemporalJoin {
        left: side(&[1, 2, 3, 4]),
        right: side(&[1, 2, 3]),
        keeps_unmatched: query.keeps_unmatched,
        time_column: 1,
        version_order: vec![(3, order)],
        filter: query.filtered.then(|| physical(col("v").lt(col("r_v")), &pair)),
        schema: pair.clone(),
    };
    let producers = TimeSource::Producers {
        producers: story.partitions,
    };
    pipeline(vec![
        stage(from_stream(story), vec![laid_out], to_topic),
        stage(
            input("query-1.0", 3, between(), producers),
            vec![Operator::TemporalJoin(join)],
            to_view(&pair, ViewKey::Position),
        ),
    ])
}

fn sql(query: Query) -> String {
    let kind = if query.keeps_unmatched { "LEFT JOIN" } else { "JOIN" };
    let filter = if query.filtered { " AND l.v < r.v" } else { "" };
    let first = if query.least {
        "ORDER BY v NULLS LAST"
    } else {
        "ORDER BY v DESC NULLS LAST"
    };
    PAIRS
        .replace("    JOIN", kind)
        .replace("ORDER BY v DESC NULLS LAST", first)
        + filter
}

fn queries() -> impl Strategy<Value = Query> {
    any::<[bool; 3]>().prop_map(|[keeps_unmatched, filtered, least]| Query {
        keeps_unmatched,
        filtered,
        least,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_meet_the_version_of_their_time(story in stories(), query in queries()) {
        check(|story| with_versions(story, query), story, &sql(query));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_meet_the_version_of_their_time_on_disk(story in stories(), query in queries()) {
        check_on_disk(|story| with_versions(story, query), story, &sql(query));
    }
}
