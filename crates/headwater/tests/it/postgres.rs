//! The Postgres port, from outside: psql, and a driver of another language (psycopg 3).
//!
//! `make test` sees to it that both are there. Where they are not, these tests say that they were skipped; with
//! `CI` set that is a failure.

use std::process::{Command, Output};

use crate::server::Server;

const SQL: &str = "
CREATE STREAM clicks (user_id TEXT NOT NULL, page_url TEXT NOT NULL, price DOUBLE, time_stamp TIMESTAMP NOT NULL DEFAULT now()) PARTITION BY (user_id);
CREATE MATERIALIZED VIEW page_clicks AS SELECT user_id, page_url, count(*) AS click_count FROM clicks GROUP BY user_id, page_url;
INSERT INTO clicks (user_id, page_url, price) VALUES ('u1', '/home', 1.5), ('u1', '/home', NULL), ('u2', '/cart', 2.5);
";

#[tokio::test]
async fn psql_shows_and_asks() {
    if !there("psql", &["--version"]) {
        return;
    }
    let mut server = Server::new(SQL);
    server.start().await;
    server.caught_up().await;

    let tables = psql(&server, "\\dt");
    assert!(tables.contains("clicks") && tables.contains("dead_letters"), "{tables}");
    assert!(tables.contains("headwater") && !tables.contains("postgres"), "{tables}");
    for (command, says) in [
        ("\\d+ clicks", "user_id"),
        ("\\dt+", "clicks"),
        ("\\dv", "page_clicks"),
        ("\\du", "List of roles"),
        ("\\df", "List of functions"),
        ("\\l", "headwater"),
    ] {
        let told = psql(&server, command);
        assert!(told.contains(says) && !told.contains("ERROR"), "{command}: {told}");
    }
    let columns = psql(&server, "\\d clicks");
    for column in [
        "user_id",
        "page_url",
        "price",
        "time_stamp",
        "double precision",
        "timestamp without time zone",
    ] {
        assert!(columns.contains(column), "no {column} in\n{columns}");
    }
    let all = psql(&server, "\\d");
    assert!(all.contains("page_clicks"), "{all}");

    let rows = psql(
        &server,
        "SELECT user_id, page_url, click_count FROM page_clicks ORDER BY 1",
    );
    assert!(rows.contains("u1      | /home    |           2"), "{rows}");
    let prepared = psql(
        &server,
        "PREPARE q AS SELECT count(*) FROM clicks WHERE user_id = $1; EXECUTE q('u1');",
    );
    assert!(prepared.contains('2'), "{prepared}");
    let explained = psql(&server, "EXPLAIN SELECT count(*) FROM clicks");
    assert!(explained.contains("clicks"), "{explained}");
    let wrong = psql(&server, "SELECT page_ulr FROM clicks");
    assert!(wrong.contains("ERROR") && wrong.contains("page_url"), "{wrong}");
    let made = psql(
        &server,
        "CREATE MATERIALIZED VIEW per_page AS SELECT page_url, count(*) AS n FROM clicks GROUP BY page_url",
    );
    assert!(made.contains("CREATE MATERIALIZED VIEW"), "{made}");
    let replaced = psql(
        &server,
        "CREATE OR REPLACE MATERIALIZED VIEW per_page AS SELECT page_url, count(*) * 2 AS n FROM clicks GROUP BY page_url",
    );
    assert!(
        replaced.contains(
            "NOTICE:  built anew from the start of clicks; until that has caught up, per_page answers as it was"
        ),
        "{replaced}"
    );
    let wrong = psql(
        &server,
        "INSERT INTO clicks (user_id, page_url, price) VALUES ('u4', '/home', 1), ('u4', '/cart', 'much')",
    );
    assert!(
        wrong.contains("ERROR:  row 2, column price: 'much' is no DOUBLE") && wrong.contains("LINE 1:"),
        "{wrong}"
    );
}

#[tokio::test]
async fn psycopg_asks_with_parameters() {
    if !there("python3", &["-c", "import psycopg"]) {
        return;
    }
    let mut server = Server::new(SQL);
    server.start().await;
    server.caught_up().await;

    let script = format!(
        r#"
import psycopg
with psycopg.connect("host=127.0.0.1 port={} user=headwater dbname=headwater", autocommit=True) as connection:
    one = connection.execute("SELECT click_count FROM page_clicks WHERE user_id = %s AND page_url = %s", ("u1", "/home")).fetchone()
    assert one == (2,), one
    # Prepared on the server, with binary results.
    with connection.cursor(binary=True) as cursor:
        for n in range(10):
            cursor.execute("SELECT user_id, price, time_stamp FROM clicks WHERE price > %s ORDER BY price", (float(n) / 10,), prepare=True)
            rows = cursor.fetchall()
    assert [row[:2] for row in rows] == [("u1", 1.5), ("u2", 2.5)], rows
    assert rows[0][2].year >= 2024, rows
    connection.execute("INSERT INTO clicks (user_id, page_url) VALUES (%s, %s)", ("u3", "/new"))
    assert connection.execute("SELECT count(*) FROM clicks").fetchone() == (4,)
    try:
        connection.execute("SELECT nothing FROM nowhere")
        assert False, "no error"
    except psycopg.errors.UndefinedTable as error:
        assert "nowhere" in str(error), error
    connection.execute("SELECT 1")
print("psycopg is content")
"#,
        server.postgres_port
    );
    let output = Command::new("python3")
        .args(["-c", &script])
        .output()
        .expect("python runs");
    assert!(text(&output).contains("psycopg is content"), "{}", text(&output));
}

fn psql(server: &Server, command: &str) -> String {
    let output = Command::new("psql")
        .args([
            "-X",
            "-h",
            "127.0.0.1",
            "-p",
            &server.postgres_port.to_string(),
            "-U",
            "headwater",
            "-d",
            "headwater",
        ])
        .args(["-c", command])
        .output();
    text(&output.expect("psql runs"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Whether the program can be tried; says so where it can't.
pub fn there(program: &str, arguments: &[&str]) -> bool {
    let there = Command::new(program)
        .args(arguments)
        .output()
        .is_ok_and(|output| output.status.success());
    assert!(
        there || std::env::var_os("CI").is_none(),
        "{program} {arguments:?} does not run here"
    );
    if !there {
        println!("skipped: {program} {arguments:?} does not run here");
    }
    there
}
