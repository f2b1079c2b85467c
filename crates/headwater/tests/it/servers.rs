//! Servers of others that tests need: the machine's own binaries, in a temporary folder, on a free port, ended with the test, or with
//! whatever ends it.
//!
//! `make test` installs them. Where one is missing all the same, its tests are skipped, and say so; in CI they fail.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub mod postgres;
pub mod redis;

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program in the search path or in one of these folders, if it is there.
pub fn find(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = folders.iter().cloned().chain(std::env::split_paths(&path));
    let found = all.map(|folder| folder.join(name)).find(|program| program.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{name} is missing: make test installs it"
        );
        println!("skipped: {name} is missing, make test installs it");
    }
    found
}

/// A command that ends when this process does. Servers refuse to run as root: then it runs as `user`, who gets the folder.
pub fn command(program: &Path, folder: &Path, user: &str) -> Command {
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
pub fn signal(process: &Child, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &process.id().to_string()])
        .status();
    assert!(status.is_ok_and(|status| status.success()), "kill -s {name}");
}

/// Asks until the answer is there.
pub async fn wait_for<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "{what} does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `make services`: all of them, until Ctrl-C.
#[tokio::test]
#[ignore = "runs until it is stopped"]
async fn services() {
    let postgres = postgres::Postgres::start().await;
    let redis = redis::Redis::start().await;
    let postgres = postgres.as_ref().map(postgres::Postgres::url);
    let redis = redis.as_ref().map(redis::Redis::url);
    let kafka = headwater_test_servers::kafka::shared().map(|kafka| kafka.brokers.clone());
    for (name, url) in [("KAFKA_BROKERS", kafka), ("PG_URL", postgres), ("REDIS_URL", redis)] {
        println!("export {name}='{}'", url.unwrap_or_default());
    }
    println!("Ctrl-C ends them.");
    tokio::signal::ctrl_c().await.expect("signals can be waited for");
}
