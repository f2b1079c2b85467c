//! What the architecture promises about dependencies, checked over `cargo metadata`: arrows between
//! our crates point one way, and heavy crates are seen only where they belong.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Our crates in the order of the flow: each may depend on those before it alone.
const ORDER: [&str; 14] = [
    "headwater-test-servers",
    "headwater-event",
    "headwater-problem",
    "headwater-telemetry",
    "headwater-grpc",
    "headwater-schema",
    "headwater-log",
    "headwater-catalog",
    "headwater-connect",
    "headwater-engine",
    "headwater-sql",
    "headwater-gateway",
    "headwater-query",
    "headwater",
];

/// Which of our crates may depend on these, however indirectly.
const SEEN_BY: [(&str, &[&str]); 7] = [
    ("datafusion", &["headwater-sql", "headwater-query", "headwater"]),
    (
        "fjall",
        &[
            "headwater-log",
            "headwater-catalog",
            "headwater-connect",
            "headwater-engine",
            "headwater-sql",
            "headwater-gateway",
            "headwater-query",
            "headwater",
        ],
    ),
    (
        "axum",
        &[
            "headwater-telemetry",
            "headwater-grpc",
            "headwater-gateway",
            "headwater-query",
            "headwater",
        ],
    ),
    (
        "tonic",
        &["headwater-grpc", "headwater-gateway", "headwater-query", "headwater"],
    ),
    ("pgwire", &["headwater-sql", "headwater-query", "headwater"]),
    ("tokio-postgres", CONNECTED),
    ("redis", CONNECTED),
];

/// The crate of connectors, and those that it is below; and what starts servers for tests.
const CONNECTED: &[&str] = &[
    "headwater-test-servers",
    "headwater-connect",
    "headwater-sql",
    "headwater-query",
    "headwater",
];

#[test]
fn dependencies_point_one_way() {
    let graph = dependencies();
    for (place, name) in ORDER.iter().enumerate() {
        for dependency in &graph[*name] {
            let of_ours = ORDER.iter().position(|ours| ours == dependency);
            assert!(
                of_ours.is_none_or(|before| before < place),
                "{name} must not depend on {dependency}"
            );
        }
    }
    let known: BTreeSet<_> = ORDER.into_iter().collect();
    let ours = graph.keys().filter(|name| name.starts_with("headwater"));
    for name in ours {
        assert!(known.contains(name.as_str()), "{name} has no place in ORDER yet");
    }
}

#[test]
fn heavy_crates_are_seen_where_they_belong() {
    let graph = dependencies();
    for (heavy, allowed) in SEEN_BY {
        assert!(
            graph.contains_key(heavy),
            "{heavy} is no longer a dependency: remove it here"
        );
        for name in ORDER {
            let sees = reachable(&graph, name).contains(heavy);
            assert!(!sees || allowed.contains(&name), "{name} must do without {heavy}");
        }
    }
}

/// Each package's normal dependencies, by name.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Without it, cargo wants the dependencies of all platforms, which a build has not fetched.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--offline",
            "--filter-platform",
            &platform,
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {stderr}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");

    let packages = metadata["packages"].as_array().expect("packages").iter();
    let names: BTreeMap<&str, String> = packages
        .map(|package| {
            (
                package["id"].as_str().expect("an id"),
                package["name"].as_str().expect("a name").to_owned(),
            )
        })
        .collect();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().expect("nodes") {
        let dependencies = graph
            .entry(names[node["id"].as_str().expect("an id")].clone())
            .or_default();
        for dependency in node["deps"].as_array().expect("deps") {
            let kinds = dependency["dep_kinds"].as_array().expect("kinds");
            if kinds.iter().any(|kind| kind["kind"].is_null()) {
                dependencies.insert(names[dependency["pkg"].as_str().expect("an id")].clone());
            }
        }
    }
    graph
}

fn reachable(graph: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut next = vec![from.to_owned()];
    while let Some(name) = next.pop() {
        for dependency in graph.get(&name).into_iter().flatten() {
            if seen.insert(dependency.clone()) {
                next.push(dependency.clone());
            }
        }
    }
    seen
}
