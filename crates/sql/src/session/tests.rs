use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::parse::parse_query;
use crate::session::{logical_plan, session_state};

/// The rows of a one-off query over a small table.
async fn rows(sql: &str) -> Vec<String> {
    let context = SessionContext::new_with_state(session_state(SessionConfig::new()).build());
    let second = |seconds: i64| Some(seconds * 1_000_000);
    let times = vec![second(1), second(59), second(61), second(-1), None];
    let json = vec![
        Some(r#"{"a":{"b":[1,"x"]},"n":7}"#),
        Some("{}"),
        Some("broken"),
        None,
        None,
    ];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("at", Arc::new(TimestampMicrosecondArray::from(times))),
        ("n", Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5]))),
        ("j", Arc::new(StringArray::from(json))),
    ];
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap();
    context.register_table("t", Arc::new(table)).unwrap();
    let select = parse_query(sql).unwrap();
    let plan = logical_plan(&context.state(), &select.query, &select.source).await;
    let plan = plan.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let frame = context.execute_logical_plan(plan).await.unwrap();
    let table = pretty_format_batches(&frame.collect().await.unwrap())
        .unwrap()
        .to_string();
    let lines = table.lines().filter(|line| line.starts_with('|')).skip(1);
    let cells = |line: &str| line.split('|').map(str::trim).collect::<Vec<_>>().join(" ");
    lines.map(|line| cells(line).trim().to_owned()).collect()
}

#[tokio::test]
async fn windows_work_in_one_off_queries() {
    let tumble = "SELECT window_start, window_end, sum(n) FROM TUMBLE(t, at, INTERVAL '1 minute')
                  GROUP BY 1, 2 ORDER BY 1";
    assert_eq!(
        rows(tumble).await,
        [
            "1969-12-31T23:59:00 1970-01-01T00:00:00 4",
            "1970-01-01T00:00:00 1970-01-01T00:01:00 3",
            "1970-01-01T00:01:00 1970-01-01T00:02:00 3",
        ]
    );
    let hop = "SELECT w.window_start, count(*) FROM HOP(t, at, INTERVAL '30' SECOND, INTERVAL '1' MINUTE) w
               WHERE n < 3 GROUP BY 1 ORDER BY 1";
    assert_eq!(
        rows(hop).await,
        [
            "1969-12-31T23:59:30 1",
            "1970-01-01T00:00:00 2",
            "1970-01-01T00:00:30 1"
        ]
    );
}

#[tokio::test]
async fn json_is_reached_into() {
    let sql = "SELECT j -> 'a' -> 'b' AS b, j -> 'a' -> 'b' ->> 1 AS x, (j ->> 'n')::INT + 1 AS m, json_get_int(j, 'n')
               FROM t WHERE n <= 3 ORDER BY n";
    assert_eq!(rows(sql).await, [r#"[1,"x"] x 8 7"#, "", ""]);
}
