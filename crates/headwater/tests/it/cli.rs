//! What the commands say and how they exit when something is wrong: on one line, what and how to
//! mend it.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use headwater_test_servers::ports::free_port;

use crate::server::{Server, binary};

/// What a command printed, and its exit code.
struct Said {
    code: i32,
    out: String,
    err: String,
}

fn headwater(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Said {
    let output = Command::new(binary())
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    said(&output)
}

fn said(output: &Output) -> Said {
    Said {
        code: output.status.code().expect("no signal ended it"),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// `serve` with these arguments ends with code 2 and one line that contains all of `parts`.
fn refuses_to_serve(directory: &Path, arguments: &[&str], environment: &[(&str, &str)], parts: &[&str]) {
    let arguments = [&["serve"], arguments].concat();
    let said = headwater(directory, &arguments, environment);
    assert_eq!(said.code, 2, "{}", said.err);
    assert_eq!(said.err.trim_end().lines().count(), 1, "{}", said.err);
    for part in parts {
        assert!(said.err.contains(part), "'{part}' is missing in: {}", said.err);
    }
}

#[test]
fn configuration_errors_are_one_line_with_their_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    std::fs::write(path.join("bad.toml"), "[http]\nlisten = '127.0.0.1:0'\nlisen = 'off'\n").expect("a file");
    refuses_to_serve(
        path,
        &["--config", "bad.toml"],
        &[],
        &["bad.toml:3", "http.lisen", "http.listen"],
    );
    refuses_to_serve(path, &["--config", "none.toml"], &[], &["none.toml"]);
    refuses_to_serve(
        path,
        &[],
        &[("HEADWATER_ENGINE__THREDS", "1")],
        &["HEADWATER_ENGINE__THREDS", "engine.threads"],
    );
    refuses_to_serve(
        path,
        &["--set", "http.listen=8080"],
        &[],
        &["--set", "http.listen", "address:port"],
    );
    refuses_to_serve(
        path,
        &["--set", "mqtt.listen=off"],
        &[],
        &["mqtt.listen", "not there yet"],
    );
    refuses_to_serve(path, &["--set", "telemetry.log_level=head=loud"], &[], &["loud"]);
}

#[test]
fn a_missing_file_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    refuses_to_serve(directory.path(), &["nowhere.sql"], &[], &["nowhere.sql"]);
    let said = headwater(directory.path(), &["check", "nowhere.sql"], &[]);
    assert_eq!(said.code, 2, "{}", said.err);
    let said = headwater(directory.path(), &["test", "nowhere"], &[]);
    assert_eq!(said.code, 2, "{}", said.err);
}

#[test]
fn a_port_in_use_is_named_with_its_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let http = format!("http.listen={address}");
    let arguments = [
        "--set",
        &http,
        "--set",
        "postgres.listen=off",
        "--set",
        "grpc.listen=off",
        "--data",
        "data",
    ];
    refuses_to_serve(directory.path(), &arguments, &[], &["http.listen", &address, "in use"]);
}

#[test]
fn a_grpc_port_in_use_is_named_with_its_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let grpc = format!("grpc.listen={address}");
    let others = ["--set", "http.listen=off", "--set", "postgres.listen=off"];
    let arguments = [&others[..], &["--set", &grpc, "--data", "data"]].concat();
    refuses_to_serve(directory.path(), &arguments, &[], &["grpc.listen", &address, "in use"]);
}

#[test]
fn a_data_directory_that_cant_be_used_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("file"), "").expect("a file");
    let arguments = [
        "--data",
        "file/data",
        "--set",
        "http.listen=off",
        "--set",
        "postgres.listen=off",
        "--set",
        "grpc.listen=off",
    ];
    refuses_to_serve(directory.path(), &arguments, &[], &["file"]);
}

#[test]
fn a_data_directory_of_a_newer_version_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    std::fs::create_dir(&data).expect("a directory");
    std::fs::write(data.join("format"), "99\n").expect("a file");
    let arguments = [
        "--data",
        "data",
        "--set",
        "http.listen=off",
        "--set",
        "postgres.listen=off",
        "--set",
        "grpc.listen=off",
    ];
    refuses_to_serve(directory.path(), &arguments, &[], &["data", "99", "newer"]);
}

#[tokio::test]
async fn a_data_directory_has_one_server() {
    let mut server = Server::new("CREATE STREAM s (a TEXT);");
    server.start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let data = server.data_directory();
    let arguments = [
        "--data",
        data.to_str().expect("UTF-8"),
        "--set",
        "http.listen=off",
        "--set",
        "postgres.listen=off",
        "--set",
        "grpc.listen=off",
    ];
    refuses_to_serve(directory.path(), &arguments, &[], &["in use"]);
}

#[test]
fn check_points_at_the_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let sql = "CREATE STREAM clicks (page_url TEXT NOT NULL);\n\
               CREATE MATERIALIZED VIEW pages AS\n  SELECT pge_url, count(*) AS n FROM clicks GROUP BY pge_url;\n";
    std::fs::write(directory.path().join("bad.sql"), sql).expect("a file");
    let said = headwater(directory.path(), &["check", "bad.sql"], &[]);
    assert_eq!(said.code, 1, "{}", said.err);
    for part in ["bad.sql:3:10", "pge_url", "^^^^^^^"] {
        assert!(said.err.contains(part), "'{part}' is missing in: {}", said.err);
    }
}

#[test]
fn check_and_test_accept_the_examples() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let said = headwater(&root, &["check", "examples/clickstream/clickstream.sql"], &[]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(
        said.out.contains("view page_clicks") && said.out.contains("ok: 2 streams, 2 views"),
        "{}",
        said.out
    );
    let said = headwater(&root, &["test", "examples/clickstream"], &[]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    let files = ["streams", "sources", "q17"].map(|name| format!("examples/nexmark/{name}.sql"));
    let said = headwater(&root, &["check", "--quiet", &files[0], &files[1], &files[2]], &[]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("ok: 3 streams, 1 view, 3 sources"), "{}", said.out);
}

#[test]
fn a_failed_test_shows_the_difference() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("bad.slt"), "query I\nSELECT 1 + 1;\n----\n3\n").expect("a file");
    let said = headwater(directory.path(), &["test", "."], &[]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.out.contains("-   3") && said.out.contains("+   2"), "{}", said.out);
    assert!(said.out.contains("0 files ok, 1 failed"), "{}", said.out);
}

#[test]
fn without_a_server_commands_say_how_to_start_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = format!("http://127.0.0.1:{}", free_port());
    std::fs::write(directory.path().join("a.ndjson"), "{}\n").expect("a file");
    for command in [
        &["sql", "-c", "SELECT 1"][..],
        &["send", "s", "a.ndjson"],
        &["tail", "s"],
    ] {
        let said = headwater(directory.path(), command, &[("HEADWATER_SERVER", &server)]);
        assert_eq!(said.code, 1, "{}", said.err);
        assert!(said.err.contains("headwater serve"), "{}", said.err);
    }
}

#[tokio::test]
async fn send_counts_what_was_taken_and_says_what_was_not() {
    let mut server = Server::new(
        "CREATE STREAM numbers (id TEXT NOT NULL, n BIGINT NOT NULL) WITH (partitions = 1, idempotency_key = 'id');",
    );
    server.start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let url = server.url();
    let environment = [("HEADWATER_SERVER", url.as_str())];
    let good: String = (0..2500).map(|n| format!("{{\"id\":\"{n}\",\"n\":{n}}}\n")).collect();
    std::fs::write(path.join("good.ndjson"), &good).expect("a file");
    let said = headwater(path, &["send", "numbers", "good.ndjson", "--json"], &environment);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("\"accepted\":2500"), "{}", said.out);

    std::fs::write(path.join("bad.csv"), "id,n\na,1\nb,many\nc,3\n").expect("a file");
    let said = headwater(
        path,
        &["send", "numbers", "bad.csv", "--on-error", "dead_letter"],
        &environment,
    );
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(
        said.out.contains("2 events accepted") && said.out.contains("1 refused"),
        "{}",
        said.out
    );
    assert!(said.out.contains("line 3"), "{}", said.out);

    let said = headwater(path, &["send", "numbers", "bad.csv"], &environment);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("nothing of lines 2 to 4 was stored"), "{}", said.err);

    let said = headwater(path, &["send", "numbrs", "good.ndjson"], &environment);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.err.contains("did you mean 'numbers'?"), "{}", said.err);

    let said = headwater(
        path,
        &["sql", "-c", "SELECT count(*) AS n FROM numbers", "--format", "json"],
        &environment,
    );
    assert_eq!(said.out.trim(), "{\"n\":2502}", "{}", said.err);
    for format in ["table", "csv", "json"] {
        let cents =
            "SELECT CAST(1.5 AS DECIMAL(10, 2)) AS price, CAST('12345678901234567890.12' AS DECIMAL(38, 2)) AS much";
        let said = headwater(path, &["sql", "--format", format, "-c", cents], &environment);
        let digits = ["1.50", "12345678901234567890.12"];
        assert!(digits.iter().all(|digits| said.out.contains(digits)), "{}", said.out);
    }
    let said = headwater(path, &["sql", "-c", "SELECT nn FROM numbers"], &environment);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("^^"), "{}", said.err);
}
