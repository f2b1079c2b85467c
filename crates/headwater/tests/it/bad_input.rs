//! Bad input over HTTP, against the real binary: what is wrong, where, what was expected and what
//! was found is told, and nothing of it is stored.

use std::io::Write;

use serde_json::{Value, json};

use crate::server::Server;

const SQL: &str = "
CREATE STREAM events (id TEXT NOT NULL, n INT, big BIGINT, at TIMESTAMP, more JSON);
CREATE STREAM loose (id TEXT NOT NULL, n INT) WITH (unknown_fields = 'drop');
CREATE STREAM keyed (id TEXT NOT NULL, n INT) WITH (idempotency_key = 'id');
CREATE MATERIALIZED VIEW per_id AS SELECT id, count(*) AS rows FROM events GROUP BY id;
";
const EVENTS: &str = "/v1/streams/events/events";
/// The default of `http.request_bytes_max`.
const REQUEST_BYTES_MAX: usize = 16 << 20;

/// A bad event, behind a good one.
struct Bad {
    event: Vec<u8>,
    field: Option<&'static str>,
    expected: &'static str,
    found: &'static str,
}

fn bad(event: impl Into<Vec<u8>>, field: Option<&'static str>, expected: &'static str, found: &'static str) -> Bad {
    Bad {
        event: event.into(),
        field,
        expected,
        found,
    }
}

fn bad_events() -> Vec<Bad> {
    vec![
        bad(r#"{"id" "a"}"#, None, "`:`", "\""),
        bad(r#"{"id":"a""#, None, "`}`", ""),
        bad(r#"{"id":"a","n":"many"}"#, Some("n"), "INT", "many"),
        bad(r#"{"id":7}"#, Some("id"), "TEXT", "7"),
        bad(r#"{"n":7}"#, Some("id"), "TEXT", "no such field"),
        bad(r#"{"id":null}"#, Some("id"), "TEXT", ""),
        bad(r#"{"id":"a","colour":"red"}"#, Some("colour"), "", ""),
        bad(r#"{"id":"a","n":2147483648}"#, Some("n"), "2147483647", "2147483648"),
        bad(
            r#"{"id":"a","big":-9223372036854775809}"#,
            Some("big"),
            "BIGINT",
            "-9223372036854775809",
        ),
        bad(
            r#"{"id":"a","at":"2026-13-01T00:00:00Z"}"#,
            Some("at"),
            "TIMESTAMP",
            "2026-13-01",
        ),
        bad(b"{\"id\":\"\xff\xfe\"}".to_vec(), None, "UTF-8", "0xff"),
        bad(
            format!(r#"{{"id":"a","more":{}1{}}}"#, "[".repeat(200), "]".repeat(200)),
            None,
            "",
            "",
        ),
        bad(format!("{}{}", "[".repeat(200), "]".repeat(200)), None, "", ""),
    ]
}

#[tokio::test]
async fn each_kind_of_bad_event_is_told_and_nothing_is_stored() {
    let mut server = Server::new(SQL);
    server.start().await;
    for bad in bad_events() {
        let body = [b"[{\"id\":\"good\"},", bad.event.as_slice(), b"]"].concat();
        let shown = String::from_utf8_lossy(&body).into_owned();
        let (status, problem) = server.post(EVENTS, body).await;
        assert_eq!(status, 422, "{shown}\n{problem}");
        assert_eq!(problem["type"], "https://headwater.dev/problems/invalid-events");
        let error = &problem["errors"][0];
        assert_eq!(
            (&error["index"], &problem["count"]),
            (&json!(1), &json!(1)),
            "{shown}\n{problem}"
        );
        assert!(error["line"].is_u64() && error["column"].is_u64(), "{problem}");
        if let Some(field) = bad.field {
            assert_eq!(error["field"], field, "{shown}\n{problem}");
        }
        for (member, part) in [("expected", bad.expected), ("found", bad.found)] {
            let text = error[member].as_str().unwrap_or_default();
            assert!(text.contains(part), "{member} without '{part}': {shown}\n{problem}");
        }
    }
    many_are_counted(&server).await;
    bodies_that_are_no_events(&server).await;
    names_that_are_not_there(&server).await;
    assert_eq!(server.sql("SELECT count(*) AS n FROM events").await, [json!({"n": 0})]);

    let (status, answer) = server
        .post("/v1/streams/loose/events", r#"{"id":"a","colour":"red"}"#)
        .await;
    assert_eq!(
        (status, &answer["accepted"]),
        (200, &json!(1)),
        "unknown fields are dropped"
    );
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

async fn many_are_counted(server: &Server) {
    let event = |n: u64| match n % 6 {
        0 => json!({"id": n.to_string()}),
        _ => json!({"id": n.to_string(), "n": "many"}),
    };
    let body = json!((0..30).map(event).collect::<Vec<_>>()).to_string();
    let (status, problem) = server.post(EVENTS, body).await;
    let errors = problem["errors"].as_array().expect("errors");
    assert_eq!((status, errors.len(), &problem["count"]), (422, 20, &json!(25)));
    let indices: Vec<_> = errors.iter().map(|error| error["index"].as_u64()).collect();
    let expected: Vec<_> = (0..30u64).filter(|n| n % 6 != 0).take(20).map(Some).collect();
    assert_eq!(indices, expected);
}

async fn bodies_that_are_no_events(server: &Server) {
    let refused = async |headers: &[(&str, &str)], body: Vec<u8>, status: u16, slug: &str| {
        let (got, problem) = server.post_as(EVENTS, headers, body).await;
        assert_eq!(got, status, "{slug}: {problem}");
        assert_eq!(
            problem["type"],
            format!("https://headwater.dev/problems/{slug}"),
            "{problem}"
        );
        assert!(problem["hint"].is_string(), "{problem}");
    };
    let json = ("content-type", "application/json");
    refused(&[json], vec![b' '; REQUEST_BYTES_MAX + 1], 413, "body-too-large").await;

    let zeros = vec![b' '; 1 << 20];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut zstd = zstd::Encoder::new(Vec::new(), 3).expect("an encoder");
    for _ in 0..=REQUEST_BYTES_MAX >> 20 {
        gzip.write_all(&zeros).expect("memory");
        zstd.write_all(&zeros).expect("memory");
    }
    let gzip = gzip.finish().expect("memory");
    let zstd = zstd.finish().expect("memory");
    refused(&[json, ("content-encoding", "gzip")], gzip, 413, "decompression-bomb").await;
    refused(&[json, ("content-encoding", "zstd")], zstd, 413, "decompression-bomb").await;
    refused(
        &[json, ("content-encoding", "gzip")],
        b"no gzip".to_vec(),
        400,
        "invalid-body",
    )
    .await;
    refused(
        &[json, ("content-encoding", "br")],
        b"{}".to_vec(),
        415,
        "unknown-content-type",
    )
    .await;
    refused(
        &[("content-type", "application/xml")],
        b"<a/>".to_vec(),
        415,
        "unknown-content-type",
    )
    .await;
}

async fn names_that_are_not_there(server: &Server) {
    let (status, problem) = server.post("/v1/streams/evnets/events", "{}").await;
    assert_eq!(
        (status, &problem["hint"]),
        (404, &json!("did you mean 'events'?")),
        "{problem}"
    );
    for (path, hint) in [
        ("/v1/views/per_idd", "per_id"),
        ("/v1/streams/event/events?from=earliest", "events"),
    ] {
        let answer = reqwest::get(format!("{}{path}", server.url()))
            .await
            .expect("an answer");
        let status = answer.status().as_u16();
        let problem: Value = answer.json().await.expect("a problem document");
        let text = problem["hint"].as_str().unwrap_or_default();
        assert!(status == 404 && text.contains(hint), "{path}: {status} {problem}");
    }
}

#[tokio::test]
async fn dead_letters_keep_what_was_bad_and_can_be_asked_for() {
    let mut server = Server::new(SQL);
    server.start().await;
    let body = "{\"id\":\"a\",\"n\":1}\n{\"id\":\"b\",\"n\":\"two\"}\n{\"id\":\"c\",\"n\":3}\n{\"id\":\n";
    let ndjson = [("content-type", "application/x-ndjson")];
    let path = format!("{EVENTS}?on_error=dead_letter");
    let (status, answer) = server.post_as(&path, &ndjson, body).await;
    assert_eq!(
        (status, &answer["accepted"], &answer["rejected"]),
        (200, &json!(2), &json!(2)),
        "{answer}"
    );
    assert_eq!(answer["errors"][0]["field"], "n", "{answer}");

    // Longer than any buffer, and there to the last byte.
    let long = format!("{{\"id\":\"{}\",\"n\":\"x\"}}\n", "x".repeat(300_000));
    let (status, _) = server.post_as(&path, &ndjson, long.clone()).await;
    assert_eq!(status, 200);

    // What was taken and refused is there after a crash too.
    server.kill();
    server.start().await;
    let letters =
        "SELECT stream, reason, detail, encode(payload, 'hex') AS payload FROM dead_letters ORDER BY time, detail";
    let letters = server.sql(letters).await;
    assert_eq!(letters.len(), 3, "{letters:?}");
    assert_eq!(
        (&letters[0]["stream"], &letters[0]["reason"]),
        (&json!("events"), &json!("decode"))
    );
    assert!(
        letters[0]["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("line 2")),
        "{letters:?}"
    );
    let payload = |row: usize| {
        let hex = letters[row]["payload"].as_str().expect("hex");
        let bytes = hex.as_bytes().chunks(2).map(|pair| {
            let pair = str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(pair, 16).expect("hex")
        });
        String::from_utf8(bytes.collect()).expect("what was sent")
    };
    assert_eq!(payload(0).trim_end(), "{\"id\":\"b\",\"n\":\"two\"}");
    assert_eq!(payload(1).trim_end(), "{\"id\":");
    assert_eq!(payload(2).trim_end(), long.trim_end());
    let good = server.sql("SELECT id FROM events ORDER BY id").await;
    assert_eq!(good, [json!({"id": "a"}), json!({"id": "c"})]);
}

#[tokio::test]
async fn a_repeated_event_is_known_after_a_crash() {
    let mut server = Server::new(SQL);
    server.start().await;
    let path = "/v1/streams/keyed/events";
    let body = r#"[{"id":"a","n":1},{"id":"b","n":2}]"#;
    assert_eq!(server.post(path, body).await, (200, json!({"accepted": 2})));
    server.kill();
    server.start().await;
    let again = r#"[{"id":"b","n":2},{"id":"c","n":3},{"id":"c","n":3}]"#;
    assert_eq!(
        server.post(path, again).await,
        (200, json!({"accepted": 1, "duplicates": 2}))
    );
    let rows = server
        .sql("SELECT id, count(*) AS n FROM keyed GROUP BY id ORDER BY id")
        .await;
    assert_eq!(
        rows,
        [
            json!({"id": "a", "n": 1}),
            json!({"id": "b", "n": 1}),
            json!({"id": "c", "n": 1})
        ]
    );
}
