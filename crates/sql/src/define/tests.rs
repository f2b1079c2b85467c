use headwater_catalog::definition::{Late, Start};
use headwater_schema::column::ColumnDefault;

use crate::define::changes;
use crate::parse::parse;
use crate::plan::tests::{CLICKS, catalog};

#[test]
fn a_stream_has_what_it_says() {
    let snapshot = catalog(
        "CREATE STREAM s (id TEXT DEFAULT uuid(), at TIMESTAMP NOT NULL DEFAULT now(), n INT DEFAULT 1 + 2, day DATE DEFAULT '2026-01-02',
           j JSON DEFAULT '{\"a\":1}', price DECIMAL(10, 2), tags TEXT[], z TIMESTAMPTZ, WATERMARK FOR at AS at - INTERVAL '1 minute')
         PARTITION BY (id) WITH (partitions = 2, retention = 'forever', retention_bytes = '10 GB', idempotency_key = 'id',
           idempotency_window = '2 hours', http.path = '/in', unknown_fields = 'drop', late = 'drop', idle_timeout = '1 second')",
    )
    .unwrap();
    let stream = snapshot.get("s").unwrap().stream().unwrap().clone();
    assert_eq!(
        (stream.partitions, stream.retention_ms, stream.retention_bytes),
        (2, None, Some(10_000_000_000))
    );
    assert_eq!(stream.watermark.unwrap().delay, 60_000_000);
    assert_eq!(stream.idempotency.unwrap().window_ms, 7_200_000);
    assert_eq!((stream.late, stream.idle_timeout_ms), (Late::Drop, 1000));
    let defaults: Vec<_> = stream
        .schema
        .columns
        .iter()
        .take(5)
        .map(|column| column.default.clone().unwrap())
        .collect();
    let value = |text: &str| ColumnDefault::Value(text.to_owned());
    assert_eq!(
        defaults,
        [
            ColumnDefault::Uuid,
            ColumnDefault::Now,
            value("3"),
            value("\"2026-01-02\""),
            value("{\"a\":1}")
        ]
    );
    let types: Vec<_> = stream
        .schema
        .columns
        .iter()
        .map(|column| column.data_type.to_string())
        .collect();
    assert_eq!(types[5], "Decimal128(10, 2)");
    assert!(stream.schema.columns[4].json);
}

#[test]
fn wrong_definitions_are_refused_with_their_place() {
    let cases = [
        (
            "CREATE STREAM s (a INT) WITH (retenton = '1 day')",
            "a stream like this has no option 'retenton'; did you mean retention?",
            31,
        ),
        (
            "CREATE STREAM s (a INT) WITH (partitions = 0)",
            "the option partitions is a whole number from 1 to 1024",
            44,
        ),
        (
            "CREATE STREAM s (a INT) WITH (retention = '7 dayz')",
            "the option retention is a span of time like '7 days', or 'forever'",
            43,
        ),
        (
            "CREATE STREAM s (a INT) WITH (http.path = '/v1/x')",
            "the path /v1/x is taken: /v1 belongs to Headwater",
            43,
        ),
        (
            "CREATE STREAM s (a INT) WITH (http.path = 'x')",
            "the option http.path is a path like '/ingest': it begins with /, and holds letters, digits, - _ . ~ and single /",
            43,
        ),
        (
            "CREATE STREAM s (a INT) WITH (idempotency_key = 'b')",
            "there is no column 'b' here; did you mean a?",
            49,
        ),
        (
            "CREATE STREAM s (a TXT)",
            "there is no type TXT; did you mean TEXT?",
            20,
        ),
        (
            "CREATE STREAM s (aa INT) PARTITION BY (ab)",
            "there is no column 'ab' here; did you mean aa?",
            40,
        ),
        (
            "CREATE STREAM s (a INT, WATERMARK FOR a AS a)",
            "the WATERMARK is for a TIMESTAMP; a is INT",
            39,
        ),
        (
            "CREATE STREAM s (t TIMESTAMP, WATERMARK FOR t AS t + INTERVAL '1' SECOND)",
            "this can't be a WATERMARK: it is the column, less an interval",
            50,
        ),
        (
            "CREATE STREAM s (a INT DEFAULT 'x')",
            "this can't be the DEFAULT of a: x is no INT",
            24,
        ),
        (
            "CREATE STREAM s (a INT DEFAULT random())",
            "random() is not constant",
            24,
        ),
        ("CREATE STREAM clicks (a INT)", "there is a stream clicks already", 15),
        (
            "CREATE STREAM dead_letters (a INT)",
            "dead_letters belongs to Headwater",
            15,
        ),
        (
            "DROP STREAM clics",
            "there is no stream or view 'clics'; did you mean clicks?",
            13,
        ),
        ("DROP MATERIALIZED VIEW clicks", "clicks is a stream, not a view", 24),
    ];
    let snapshot = catalog(CLICKS).unwrap();
    for (sql, message, column) in cases {
        let statement = parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}")).remove(0);
        let error = changes(&statement, &snapshot).expect_err(sql);
        assert_eq!(error.message, message, "{sql}");
        assert_eq!(error.place.map(|place| place.column), Some(column), "{sql}");
    }
}

#[test]
fn drop_and_replace_mind_dependents() {
    let sql = format!(
        "{CLICKS} CREATE STREAM ads AS SELECT * FROM clicks WHERE price > 1;
         CREATE MATERIALIZED VIEW v WITH (start = 'latest', http.path = '/v') AS SELECT user_id, count(*) FROM ads GROUP BY user_id;"
    );
    let snapshot = catalog(&sql).unwrap();
    let view = snapshot.get("v").unwrap().view().unwrap();
    assert_eq!(
        (view.query.start, view.columns[1].name.as_str()),
        (Start::Latest, "count")
    );
    let change = |sql: &str| changes(&parse(sql).unwrap().remove(0), &snapshot);
    assert_eq!(
        change("DROP STREAM clicks").unwrap_err().message,
        "clicks can't be dropped: ads, v depend on it"
    );
    let removed: Vec<_> = change("DROP STREAM clicks CASCADE").unwrap();
    let names: Vec<_> = removed.iter().map(|change| change.name().to_owned()).collect();
    assert_eq!(names, ["v", "ads", "clicks"]);
    let error = change("CREATE OR REPLACE STREAM clicks (user_id TEXT)").unwrap_err();
    assert!(error.message.contains("could no longer run"), "{error}");
    assert!(change("CREATE STREAM IF NOT EXISTS clicks (a INT)").unwrap().is_empty());
    assert!(
        change("CREATE STREAM x (a INT) WITH (http.path = '/v')")
            .unwrap_err()
            .message
            .contains("taken by the view v")
    );
}
