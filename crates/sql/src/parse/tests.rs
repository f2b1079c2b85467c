use crate::parse::parse;
use crate::statement::{Kind, OptionValue};

const PRODUCT: &str = r#"
-- the example of the product
CREATE STREAM clicks (
  event_id   TEXT NOT NULL DEFAULT uuid(),
  user_id    TEXT NOT NULL,
  time_stamp TIMESTAMP NOT NULL DEFAULT now(),
  "Odd Name" STRUCT<a INT, b TEXT[]>,
  WATERMARK FOR time_stamp AS time_stamp - INTERVAL '5' SECOND
) PARTITION BY (user_id)
WITH (partitions = 4, retention = '7 days', idempotency_key = 'event_id', http.path = '/ingest', 'late' = 'drop');
CREATE OR REPLACE MATERIALIZED VIEW page_clicks WITH ("http.path" = '/x') AS
SELECT user_id, count(*) /* a comment; here */ AS click_count FROM clicks GROUP BY user_id;
INSERT INTO clicks (user_id) VALUES ('a;b');
SELECT * FROM clicks EMIT CHANGES;;
DROP MATERIALIZED VIEW IF EXISTS page_clicks CASCADE;
SHOW STREAMS; DESCRIBE clicks; EXPLAIN VERBOSE SELECT 1; SET a = 1; BEGIN; COMMIT; SHOW server_version
"#;

#[test]
fn statements_keep_their_text_and_place() {
    let statements = parse(PRODUCT).unwrap();
    assert_eq!(statements.len(), 12);
    assert_eq!(statements[1].source.start().line, 11);
    assert!(statements[1].source.text().starts_with("CREATE OR REPLACE"));
    assert!(statements[1].source.text().ends_with("GROUP BY user_id"));
    let Kind::CreateStream(stream) = &statements[0].kind else {
        panic!()
    };
    assert_eq!(stream.columns.len(), 4);
    assert_eq!(stream.columns[3].name.value, "Odd Name");
    assert!(!stream.columns[0].nullable && stream.columns[0].default.is_some());
    assert_eq!(stream.options[3].key.value, "http.path");
    assert_eq!(stream.options[0].value, OptionValue::Number("4".to_owned()));
    let Kind::Select(select) = &statements[3].kind else {
        panic!()
    };
    assert!(select.emit_changes);
    let Kind::Insert(insert) = &statements[2].kind else {
        panic!()
    };
    assert_eq!(insert.columns[0].value, "user_id");
    assert!(matches!(&statements[8].kind, Kind::Other(_)));
}

#[test]
fn errors_name_the_construct_and_its_place() {
    let cases = [
        ("SELCT 1", 1, 1, "expected a statement, found SELCT", "SELECT"),
        (
            "SELECT a FORM clicks",
            1,
            15,
            "expected the end of the statement, found clicks",
            "FROM instead of FORM",
        ),
        (
            "SELECT 'abc",
            1,
            8,
            "the string that begins here has no closing quote",
            "",
        ),
        (
            "SELECT 1;\n\nCREATE RULE s",
            3,
            8,
            "CREATE RULE is not available in this version",
            "",
        ),
        (
            "CREATE TABLE t AS SELECT 1",
            1,
            16,
            "expected the table's columns in brackets, found AS",
            "CREATE MATERIALIZED VIEW",
        ),
        (
            "CREATE STREM t (a INT)",
            1,
            8,
            "expected STREAM, MATERIALIZED VIEW, SOURCE, SINK or TABLE, found STREM",
            "CREATE STREAM",
        ),
        (
            "CREATE STREAM t",
            1,
            16,
            "expected the stream's columns in brackets, or AS SELECT, found the end of the statement",
            "",
        ),
        (
            "CREATE STREAM t (a INT, a INT)",
            1,
            25,
            "the column a is there twice",
            "",
        ),
        (
            "CREATE STREAM t (a INT PRIMARY KEY)",
            1,
            24,
            "a stream has no PRIMARY KEY: it keeps every event",
            "idempotency_key",
        ),
        (
            "CREATE STREAM t (a INT, PRIMARY KEY (a))",
            1,
            25,
            "a stream has no PRIMARY KEY: it keeps every event",
            "",
        ),
        ("CREATE STREAM t (a INT) WITH (x 3)", 1, 33, "expected =, found 3", ""),
        (
            "ALTER STREAM t ADD COLUMN a INT",
            1,
            1,
            "ALTER STREAM is not available in this version",
            "",
        ),
        (
            "GRANT SELECT ON a TO b",
            1,
            1,
            "GRANT is not available in this version",
            "",
        ),
        (
            "UPDATE t SET a = 1",
            1,
            1,
            "UPDATE is not available: events are not changed",
            "",
        ),
        (
            "SELECT * FROM clicks MATCH_RECOGNIZE (PATTERN (a))",
            1,
            22,
            "MATCH_RECOGNIZE is not available in this version",
            "",
        ),
        ("SELECT 1 EMIT CHANGE", 1, 15, "expected CHANGES after EMIT", ""),
        ("SHOW RULES", 1, 6, "SHOW RULES is not available in this version", ""),
        (
            "DROP STREAM",
            1,
            12,
            "expected the name of what to drop, found the end of the statement",
            "",
        ),
    ];
    for (sql, line, column, message, hint) in cases {
        let error = parse(sql).expect_err(sql);
        let place = error.place.clone().unwrap_or_else(|| panic!("{sql}: no place"));
        assert_eq!(error.message, message, "{sql}");
        assert_eq!((place.line, place.column), (line, column), "{sql}: {place:?}");
        assert!(
            error.hint.as_deref().unwrap_or_default().contains(hint),
            "{sql}: {:?}",
            error.hint
        );
    }
}

#[test]
fn depth_is_an_error() {
    let chain = format!("SELECT {}1", "1 + ".repeat(100_000));
    let brackets = format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000));
    let nots = format!("SELECT {} true", "NOT ".repeat(100_000));
    let unions = vec!["SELECT 1"; 10_000].join(" UNION ");
    for sql in [chain, brackets, nots] {
        assert_eq!(parse(&sql).unwrap_err().message, "the statement is nested too deeply");
    }
    assert_eq!(
        parse(&unions).unwrap_err().message,
        "the statement holds too many queries"
    );
}

/// Whatever comes in, the answer is a list or an error.
#[test]
fn no_text_panics() {
    use rand::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(2);
    let words = [
        "(",
        ")",
        "'",
        "\"",
        ";",
        ",",
        "AS",
        "SELECT",
        "WITH",
        "TABLE(TUMBLE(",
        "DESCRIPTOR(",
        "EMIT",
        "é",
        "\0",
        "$$",
        "--",
        "/*",
        "1e9",
        "::",
        "->",
    ];
    for round in 0..3000 {
        let mut text: Vec<char> = PRODUCT.chars().collect();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..text.len());
            let end = (at + random.random_range(0..30)).min(text.len());
            let word = words[random.random_range(0..words.len())];
            text.splice(at..end, word.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(error) = parse(&text) {
            assert!(!error.render("f.sql", &text).is_empty(), "round {round}");
        }
    }
}
