//! What is in `deploy/`, as far as it can be looked at without a container engine: by the schema of compose files, by
//! a linter of Dockerfiles, and against what the server knows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use headwater::config::Config;
use headwater::config::layers::Layers;
use serde_json::Value;

use crate::postgres::there;

#[test]
fn the_compose_file_fits_its_schema() {
    if !there("check-jsonschema", &["--version"]) {
        return;
    }
    let output = Command::new("check-jsonschema")
        .args(["--builtin-schema", "vendor.compose-spec"])
        .arg(deploy().join("compose.yaml"))
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn what_the_compose_file_mounts_is_there() {
    let text = std::fs::read_to_string(deploy().join("compose.yaml")).expect("compose.yaml");
    let mounts = text.lines().filter_map(|line| line.trim().strip_prefix("- ."));
    let mounts: Vec<_> = mounts.filter_map(|mount| mount.split(':').next()).collect();
    assert!(mounts.len() > 3, "{mounts:?}");
    for mount in mounts {
        let path = deploy().join(format!(".{mount}"));
        assert!(path.exists(), "{} is mounted", path.display());
    }
}

#[test]
fn the_dockerfile_passes_its_linter() {
    if !there("hadolint", &["--version"]) {
        return;
    }
    let output = Command::new("hadolint")
        .arg(deploy().join("Dockerfile"))
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// The keys that the Dockerfile sets by the environment, and those of the configuration in `deploy/`.
#[test]
fn the_configuration_is_understood() {
    let dockerfile = std::fs::read_to_string(deploy().join("Dockerfile")).expect("Dockerfile");
    let words = dockerfile.split_whitespace();
    let variables = words.filter_map(|word| word.strip_prefix("HEADWATER_").and(word.split_once('=')));
    let variables: Vec<_> = variables
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert_eq!(variables.len(), 4, "{variables:?}");
    let layers = Layers {
        file: Some(deploy().join("headwater.toml")),
        directory: deploy(),
        environment: variables,
        sets: Vec::new(),
    };
    let config = Config::load(&layers).expect("a configuration");
    for listen in [config.http.listen, config.grpc.listen, config.postgres.listen] {
        assert!(listen.expect("open").ip().is_unspecified());
    }
    assert_eq!(config.log.brokers, ["kafka:9092"]);
}

#[test]
fn the_statements_are_understood() {
    let example = deploy().join("../examples/clickstream/clickstream.sql");
    let statements = [example, deploy().join("sinks.sql")].map(|path| std::fs::read_to_string(path).expect("a file"));
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("all.sql"), statements.concat()).expect("the file");
    let output = Command::new(crate::server::binary())
        .args(["check", "all.sql"])
        .current_dir(&directory)
        // Nobody listens there, which a check lets pass.
        .env("PG_URL", "postgres://headwater:headwater@127.0.0.1:1/headwater")
        .env("REDIS_URL", "redis://127.0.0.1:1")
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_dashboard_shows_metrics_that_there_are() {
    let path = deploy().join("grafana/dashboards/headwater.json");
    let text = std::fs::read_to_string(path).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut shown = BTreeSet::new();
    for target in targets {
        let expression = target["expr"].as_str().expect("an expression");
        let words = expression
            .split(|c| !is_name(c))
            .filter(|word| word.starts_with("headwater_"));
        shown.extend(words.map(|word| word.trim_end_matches("_bucket").to_owned()));
    }
    assert!(shown.len() > 20, "{shown:?}");
    let mut sources = String::new();
    read_all(&deploy().join("../crates"), &mut sources);
    for name in shown {
        assert!(sources.contains(&format!("\"{name}\"")), "{name} is no metric");
    }
}

/// The sources of all crates, without their tests.
fn read_all(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "tests") {
            read_all(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(&path).expect("a file"));
        }
    }
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}
