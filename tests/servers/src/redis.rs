//! Redis, which keeps what it has acknowledged.

use std::process::{Child, Stdio};

use redis::FromRedisValue;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

use crate::ports::free_port;
use crate::{command, find, signal, wait_for};

const USER: &str = "nobody";

pub struct Redis {
    folder: TempDir,
    pub port: u16,
    process: Option<Child>,
}

impl Redis {
    /// None where it is not installed.
    pub async fn start() -> Option<Self> {
        find("redis-server", &[])?;
        let mut server = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            port: free_port(),
            process: None,
        };
        server.run().await;
        Some(server)
    }

    /// Starts it, as it was left.
    pub async fn run(&mut self) {
        let program = find("redis-server", &[]).expect("it was there");
        let mut command = command(&program, self.folder.path(), USER);
        let process = command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "no"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        self.process = Some(process.expect("redis-server starts"));
        self.connection().await;
    }

    /// `kill -9`. What it has written is there when it runs again.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            signal(&process, "KILL");
            process.wait().expect("it ends");
        }
    }

    /// It stays there, and answers nothing until it is resumed.
    pub fn suspend(&self) {
        self.process.iter().for_each(|process| signal(process, "STOP"));
    }

    pub fn resume(&self) {
        self.process.iter().for_each(|process| signal(process, "CONT"));
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What a command answers: its words have spaces between them.
    pub async fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut asked = redis::cmd(words.next().expect("a command"));
        words.for_each(|word| {
            asked.arg(word);
        });
        let answer = asked.query_async(&mut self.connection().await).await;
        answer.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    pub async fn connection(&self) -> MultiplexedConnection {
        wait_for("Redis", async || {
            let client = redis::Client::open(self.url()).expect("a URL");
            let mut connection = client.get_multiplexed_async_connection().await.ok()?;
            let ping = redis::cmd("PING").query_async::<String>(&mut connection).await;
            ping.ok().map(|_| connection)
        })
        .await
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
