//! SQL that is wrong, at each door of the real binary: the place, the message and a hint; and
//! nothing is half created.

use std::process::{Command, Stdio};

use serde_json::json;
use tokio_postgres::NoTls;
use tokio_postgres::error::ErrorPosition;

use crate::server::{Server, binary};

const CLICKS: &str = "CREATE STREAM clicks (user_id TEXT NOT NULL, page_url TEXT NOT NULL);\n";
/// Its third statement asks for a column that isn't there: line 4, column 10.
const WRONG_LAST: &str = "CREATE STREAM others (a TEXT);
CREATE MATERIALIZED VIEW pages AS SELECT page_url, count(*) AS n FROM clicks GROUP BY page_url;
CREATE MATERIALIZED VIEW users AS
  SELECT usr_id, count(*) AS n FROM clicks GROUP BY usr_id;
";

#[test]
fn a_file_is_told_with_line_column_and_caret() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("wrong.sql");
    std::fs::write(&file, format!("{CLICKS}{WRONG_LAST}")).expect("a file");
    for arguments in [
        &["check", "wrong.sql"][..],
        &[
            "serve",
            "wrong.sql",
            "--set",
            "http.listen=off",
            "--set",
            "postgres.listen=off",
            "--set",
            "grpc.listen=off",
        ],
    ] {
        let output = Command::new(binary())
            .args(arguments)
            .current_dir(&directory)
            .stdin(Stdio::null())
            .output();
        let output = output.expect("the binary starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        for part in ["wrong.sql:5:10", "usr_id", "^^^^^^", "user_id"] {
            assert!(text.contains(part), "{arguments:?}: '{part}' is missing in\n{text}");
        }
    }
}

#[tokio::test]
async fn a_file_that_fails_at_its_end_has_made_nothing() {
    let mut server = Server::new(&format!("{CLICKS}{WRONG_LAST}"));
    let status = server.start_or_end().await.expect("it can't start");
    assert_eq!(status.code(), Some(1), "{}", server.log());
    std::fs::write(server.sql_file(), "").expect("the SQL file");
    server.start().await;
    let streams = server.sql("SHOW STREAMS").await;
    assert!(
        !streams.iter().any(|row| row.to_string().contains("clicks")),
        "{streams:?}"
    );
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[tokio::test]
async fn over_http_it_is_a_problem_with_its_place() {
    let mut server = Server::new(CLICKS);
    server.start().await;
    let (status, problem) = server.post("/v1/sql", json!({"sql": WRONG_LAST}).to_string()).await;
    assert_eq!(status, 400, "{problem}");
    assert_eq!(problem["type"], "https://headwater.dev/problems/sql-error");
    let error = &problem["errors"][0];
    assert_eq!(
        (&error["line"], &error["column"], &error["found"]),
        (&json!(4), &json!(10), &json!("usr_id")),
        "{problem}"
    );
    let said = problem.to_string();
    assert!(said.contains("user_id"), "the column that was meant: {problem}");
    let catalog = reqwest::get(format!("{}/v1/catalog", server.url()))
        .await
        .expect("an answer");
    let catalog = catalog.text().await.expect("a text");
    for name in ["others", "pages", "users"] {
        assert!(!catalog.contains(&format!("\"{name}\"")), "{name} was made: {catalog}");
    }

    for (sql, line, column) in [
        ("SELEC 1", 1, 1),
        ("SELECT 1;\nSELECT * FROM clikcs", 2, 15),
        ("SELECT cuont(*) FROM clicks", 1, 8),
        ("SELECT 'open", 1, 8),
    ] {
        let (status, problem) = server.post("/v1/sql", json!({"sql": sql}).to_string()).await;
        let error = &problem["errors"][0];
        assert_eq!(
            (status, &error["line"], &error["column"]),
            (400, &json!(line), &json!(column)),
            "{sql}: {problem}"
        );
    }
    for (body, status) in [
        ("{\"sql\":", 400),
        ("{}", 400),
        ("{\"sql\":\"SELECT $1\",\"params\":[{}]}", 400),
    ] {
        let (got, problem) = server.post("/v1/sql", body).await;
        assert_eq!(got, status, "{body}: {problem}");
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[tokio::test]
async fn on_the_postgres_port_it_has_sqlstate_and_position() {
    let mut server = Server::new(CLICKS);
    server.start().await;
    let address = format!(
        "host=127.0.0.1 port={} user=headwater dbname=headwater",
        server.postgres_port
    );
    let (client, connection) = tokio_postgres::connect(&address, NoTls).await.expect("a connection");
    let connection = tokio::spawn(connection);
    for (sql, state, position) in [
        ("SELECT usr_id FROM clicks", "42703", 8),
        ("SELECT 1 FROM clikcs", "42P01", 15),
        ("SELEC 1", "42601", 1),
        ("SELECT cuont(*) FROM clicks", "42883", 8),
        ("CREATE STREAM clicks (a INT)", "42P07", 15),
        ("SELECT now() FROM clicks EMIT CHANGES", "0A000", 0),
    ] {
        for error in [client.simple_query(sql).await.err(), client.query(sql, &[]).await.err()] {
            let error = error.expect(sql);
            let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
            assert_eq!(error.code().code(), state, "{sql}: {error:?}");
            if position > 0 {
                assert_eq!(
                    error.position(),
                    Some(&ErrorPosition::Original(position)),
                    "{sql}: {error:?}"
                );
            }
        }
    }
    client.simple_query(WRONG_LAST).await.expect_err("a wrong statement");
    let rows = client
        .simple_query("SHOW STREAMS")
        .await
        .expect("the connection is fine");
    assert!(!format!("{rows:?}").contains("others"), "{rows:?}");
    drop(client);
    let _ = connection.await;
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
