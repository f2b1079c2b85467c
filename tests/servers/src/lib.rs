//! Real servers of others for tests: the machine's own binaries, in a temporary folder, on free ports, ended with the test, or with
//! whatever ends it.
//!
//! `make test` installs them. Where one is missing all the same, its tests are skipped, and say so; in CI they fail.

#![allow(
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test can't go on without its server, which takes the time that it takes"
)]

pub mod kafka;
pub mod network;
pub mod ports;
pub mod postgres;
pub mod redis;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// How long a server may take until it answers, on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(120);

/// Says that tests are skipped because something isn't there, and what brings it. In CI that is an error.
fn missing(what: &str, how: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what} is missing: {how}");
    println!("skipped: {what} is missing, {how}");
}

/// The program in the search path or in one of these folders, if it is there.
fn find(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = folders.iter().cloned().chain(std::env::split_paths(&path));
    let found = all.map(|folder| folder.join(name)).find(|program| program.is_file());
    if found.is_none() {
        missing(name, "make test installs it");
    }
    found
}

/// A command that ends when the thread that starts it does. Servers refuse to run as root: then it runs as `user`, who gets the folder.
fn command(program: &Path, folder: &Path, user: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "INT"]).current_dir(folder);
    if id(&["-u"]) == "0" {
        let group = id(&["-g", user]);
        let owned = Command::new("chown").arg("-R").arg(user).arg(folder).status();
        assert!(
            owned.is_ok_and(|status| status.success()),
            "chown {user} {}",
            folder.display()
        );
        command.args(["--reuid", user, "--regid", &group, "--init-groups"]);
    }
    command.arg("--").arg(program);
    command
}

fn id(arguments: &[&str]) -> String {
    let id = Command::new("id").args(arguments).output().expect("id runs");
    String::from_utf8_lossy(&id.stdout).trim().to_owned()
}

/// Sends a signal, such as `INT`.
fn signal(process: &Child, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &process.id().to_string()])
        .status();
    assert!(status.is_ok_and(|status| status.success()), "kill -s {name}");
}

/// Asks until the answer is there.
async fn wait_for<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "{what} does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
