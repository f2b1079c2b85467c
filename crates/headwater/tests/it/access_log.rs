//! A real access log, loaded by `headwater send`: what views count equals what `awk` counts.
//!
//! The log is `access-log/apache_access.log` of the folder that `HEADWATER_CORPUS` names; without it the test says that
//! it was skipped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::server::{Server, binary};

const SQL: &str = "
CREATE STREAM requests (
  client_address TEXT NOT NULL, user_name TEXT, time TIMESTAMP NOT NULL, method TEXT, path TEXT, protocol TEXT,
  status INT, bytes BIGINT, referrer TEXT, user_agent TEXT
) PARTITION BY (client_address);
CREATE MATERIALIZED VIEW per_path AS SELECT path, count(*) AS requests FROM requests GROUP BY path;
CREATE MATERIALIZED VIEW per_client AS SELECT client_address, count(*) AS requests FROM requests GROUP BY client_address;
CREATE MATERIALIZED VIEW total AS SELECT count(*) AS requests, sum(bytes) AS bytes, min(time) AS first FROM requests;
";

#[tokio::test]
async fn views_over_an_access_log_count_what_awk_counts() {
    let Some(corpus) = std::env::var_os("HEADWATER_CORPUS").map(PathBuf::from) else {
        println!("skipped: HEADWATER_CORPUS is not set");
        return;
    };
    let log = corpus.join("access-log/apache_access.log");
    let mut server = Server::new(SQL);
    server.start().await;

    let sent = Command::new(binary())
        .args(["send", "requests", "--format", "combined_log", "--json"])
        .args(["--server", &server.url()])
        .arg(&log)
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&sent.stdout).into_owned() + &String::from_utf8_lossy(&sent.stderr);
    assert!(sent.status.success(), "{said}");
    let lines = awk(&log, "END { print NR, 1 }");
    let summary: Value = serde_json::from_slice(&sent.stdout).expect("a summary");
    assert_eq!(
        summary["accepted"].as_u64(),
        lines.keys().next().and_then(|count| count.parse().ok()),
        "{said}"
    );
    server.caught_up().await;

    let counts = "END { for (key in count) print key, count[key] }";
    assert_eq!(
        view(&server, "per_path", "path").await,
        awk(&log, &format!("{{ count[$7]++ }} {counts}"))
    );
    assert_eq!(
        view(&server, "per_client", "client_address").await,
        awk(&log, &format!("{{ count[$1]++ }} {counts}"))
    );
    let bytes = awk(&log, r#"$10 != "-" { sum += $10 } END { printf "bytes %.0f\n", sum }"#);
    let total = &server.sql("SELECT requests, bytes, first FROM total").await[0];
    assert_eq!(total["bytes"].as_u64(), bytes.get("bytes").copied());
    assert_eq!(total["first"], "2015-05-17T10:05:00Z");
}

/// A view's counts by its key.
async fn view(server: &Server, name: &str, key: &str) -> BTreeMap<String, u64> {
    let rows = server.sql(&format!("SELECT {key} AS key, requests FROM {name}")).await;
    let count = |row: &Value| Some((row["key"].as_str()?.to_owned(), row["requests"].as_u64()?));
    rows.iter().map(|row| count(row).expect("a key and a count")).collect()
}

/// What a program prints as lines of a key and a number.
fn awk(log: &Path, program: &str) -> BTreeMap<String, u64> {
    let output = Command::new("awk").arg(program).arg(log).output().expect("awk runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let pair = |line: &str| {
        let (key, count) = line.rsplit_once(' ')?;
        Some((key.to_owned(), count.parse().ok()?))
    };
    text.lines()
        .map(|line| pair(line).expect("a key and a number"))
        .collect()
}
