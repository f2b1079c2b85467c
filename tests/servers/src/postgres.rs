//! PostgreSQL. The user `postgres` needs no password; others do.

use std::path::PathBuf;
use std::process::{Child, Stdio};

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, Row};

use crate::ports::free_port;
use crate::{command, find, signal, wait_for};

const USER: &str = "postgres";
const ACCESS: &str = "
local all all                    trust
host  all postgres samenet       trust
host  all all      samenet       scram-sha-256
";

pub struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    address: String,
    pub port: u16,
    settings: Vec<&'static str>,
    process: Option<Child>,
}

impl Postgres {
    /// None where it is not installed.
    pub async fn start() -> Option<Self> {
        let mut server = Self::stopped()?;
        server.run().await;
        Some(server)
    }

    /// Ready to be started.
    pub fn stopped() -> Option<Self> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
        folders.sort();
        folders.reverse();
        let programs = find("initdb", &folders)?.canonicalize().ok()?.parent()?.to_owned();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made = command(&programs.join("initdb"), folder.path(), USER)
            .args([
                "--pgdata",
                "data",
                "--username",
                USER,
                "--auth",
                "trust",
                "--no-sync",
                "--locale",
                "C.UTF-8",
            ])
            .stdout(Stdio::null())
            .status();
        assert!(made.is_ok_and(|status| status.success()), "initdb");
        std::fs::write(folder.path().join("data/pg_hba.conf"), ACCESS).expect("pg_hba.conf");
        Some(Self {
            folder,
            programs,
            address: "127.0.0.1".to_owned(),
            port: free_port(),
            settings: Vec::new(),
            process: None,
        })
    }

    /// Listens there, instead of for this machine alone. Before it is started.
    pub fn at(mut self, address: &str) -> Self {
        address.clone_into(&mut self.address);
        self
    }

    /// Encrypted connections, with a certificate of nobody's. Before it is started.
    pub fn with_tls(mut self) -> Self {
        let data = self.folder.path().join("data");
        let made = std::process::Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
            ])
            .args(["-keyout", "server.key", "-out", "server.crt"])
            .current_dir(&data)
            .stderr(Stdio::null())
            .status();
        assert!(made.is_ok_and(|status| status.success()), "openssl makes a certificate");
        self.settings.push("ssl=on");
        self
    }

    /// Starts it, as it was left.
    pub async fn run(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).expect("the log file");
        let port = format!("port={}", self.port);
        let address = format!("listen_addresses={}", self.address);
        let settings = [
            port.as_str(),
            address.as_str(),
            "unix_socket_directories=",
            "fsync=off",
            "shared_buffers=32MB",
            "max_connections=40",
        ];
        let process = command(&self.programs.join("postgres"), self.folder.path(), USER)
            .args(["-D", "data"])
            .args(
                settings
                    .iter()
                    .chain(&self.settings)
                    .flat_map(|setting| ["-c", setting]),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file"))
            .stderr(log)
            .spawn();
        self.process = Some(process.expect("postgres starts"));
        wait_for("Postgres", async || connect(&self.url()).await).await;
    }

    /// Ends it at once, with what it is doing, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            signal(&process, "QUIT");
            process.wait().expect("it ends");
        }
    }

    pub fn url(&self) -> String {
        format!("postgres://{USER}@{}:{}/postgres", self.address, self.port)
    }

    /// What `sql` answers.
    pub async fn query(&self, sql: &str) -> Vec<Row> {
        let client = wait_for("Postgres", async || connect(&self.url()).await).await;
        client
            .query(sql, &[])
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// The one value that `sql` answers, as text.
    pub async fn value(&self, sql: &str) -> Option<String> {
        let sql = format!("SELECT ({sql})::text");
        self.query(&sql).await.first().and_then(|row| row.get(0))
    }

    pub async fn execute(&self, sql: &str) {
        let client = wait_for("Postgres", async || connect(&self.url()).await).await;
        client
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn connect(url: &str) -> Option<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}
