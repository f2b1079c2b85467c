//! Real servers for tests, each with a folder and ports of its own. They end with the process that started them, however it ends.

pub mod kafka;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Whether tests that need a server which isn't there may be left out: on a developer's machine they may, in CI they fail.
pub fn missing(what: &str, how: &str) {
    let text = format!("{what} is not there: {how}");
    assert!(std::env::var_os("CI").is_none(), "{text}");
    eprintln!("skipped: {text}");
}

/// The project's folder for what is built.
fn target() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target"))
}

/// A port that nobody listens on at this moment.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Starts a command that is killed when this process ends. To be called from a thread that lives as long: Linux counts the thread.
fn spawn(command: &mut Command) -> std::io::Result<Child> {
    let mut tied = Command::new("setpriv");
    tied.arg("--pdeathsig=KILL")
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        tied.current_dir(folder);
    }
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => tied.env(key, value),
            None => tied.env_remove(key),
        };
    }
    let log = std::fs::File::create(
        command
            .get_current_dir()
            .map_or_else(PathBuf::new, PathBuf::from)
            .join("output.log"),
    )?;
    tied.stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    tied.spawn()
}

/// Returns when something listens there; false if nothing does in time.
#[allow(clippy::disallowed_methods, reason = "a server takes the time that it takes")]
fn listens(port: u16, time_max: Duration) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let begun = Instant::now();
    while begun.elapsed() < time_max {
        if TcpStream::connect(address).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
