//! The fuzz targets (see `fuzz/`) on their corpus: every file as it is, and seeded changes of each.
//!
//! `HEADWATER_CORPUS_SEED` sets other changes, `HEADWATER_CORPUS_CHANGES` how many of each
//! file are tried.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use headwater_sql::parse::STACK_BYTES;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[path = "../../../../fuzz/src/lib.rs"]
mod targets;

/// A corpus that has less than this has been lost.
const FILES_MIN: usize = 20;
/// Changes of each file. Statements take longer than events.
const CHANGES: u64 = 100;
const CHANGES_OF_SQL: u64 = 10;
const SEED: u64 = 1;
/// What breaks formats.
const PIECES: [&[u8]; 20] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xf0\x9f",
    b"'",
    b"(",
    b")",
    b";",
    b"-",
    b"null",
    b"99999999999999999999",
];

#[test]
fn every_file_keeps_the_promises() {
    with_the_servers_stack(run_every_file);
}

#[test]
fn every_changed_file_keeps_the_promises() {
    with_the_servers_stack(run_changed_files);
}

fn run_every_file() {
    for (target, run) in targets::TARGETS {
        let files = files(target);
        assert!(files.len() >= FILES_MIN, "{target} has {} files", files.len());
        for (path, input) in files {
            check(run, &input, || format!("{} breaks a promise", path.display()));
        }
    }
}

fn run_changed_files() {
    let seed = from_env("HEADWATER_CORPUS_SEED").unwrap_or(SEED);
    let changes = from_env("HEADWATER_CORPUS_CHANGES");
    println!("HEADWATER_CORPUS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for (target, run) in targets::TARGETS {
        let files = files(target);
        let changes = changes.unwrap_or(if target == "sql" { CHANGES_OF_SQL } else { CHANGES });
        for (path, original) in &files {
            for _ in 0..changes {
                let mut input = original.clone();
                for _ in 0..random.random_range(1..4) {
                    change(&mut input, &files, &mut random);
                }
                check(run, &input, || {
                    format!(
                        "{} changed to the following breaks a promise (HEADWATER_CORPUS_SEED={seed})\n{}",
                        path.display(),
                        input.escape_ascii()
                    )
                });
            }
        }
    }
}

/// Runs the input; a panic is told with what describes it.
fn check(run: fn(&[u8]), input: &[u8], describe: impl FnOnce() -> String) {
    if catch_unwind(|| run(input)).is_err() {
        panic!("{}", describe());
    }
}

/// Runs a test with the stack that the server's threads have.
fn with_the_servers_stack(test: fn()) {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(test);
    let result = thread.expect("a thread").join();
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn change(input: &mut Vec<u8>, files: &[(PathBuf, Vec<u8>)], random: &mut StdRng) {
    let at = random.random_range(0..=input.len());
    let end = random.random_range(at..=input.len().min(at + 20));
    match random.random_range(0..5) {
        0 => input.truncate(at),
        1 => drop(input.drain(at..end)),
        2 => drop(input.splice(at..at, PIECES[random.random_range(0..PIECES.len())].iter().copied())),
        3 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
        _ => {
            let (_, other) = &files[random.random_range(0..files.len())];
            let start = random.random_range(0..=other.len());
            let end = random.random_range(start..=other.len().min(start + 200));
            drop(input.splice(at..at, other[start..end].iter().copied()));
        }
    }
}

fn files(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let entries = std::fs::read_dir(&folder).expect("the corpus is there");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let input = std::fs::read(&path).expect("a file");
        (path, input)
    };
    paths.into_iter().map(read).collect()
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
