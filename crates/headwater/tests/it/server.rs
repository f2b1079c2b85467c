//! The real binary, started and killed by tests.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use headwater_test_servers::network::Machine;
use headwater_test_servers::ports::free_port;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a server may take to become ready, or to catch up: generous, for busy machines.
const PATIENCE: Duration = Duration::from_secs(240);

/// `headwater serve` on a directory of its own. Killed when dropped.
pub struct Server {
    directory: TempDir,
    data: PathBuf,
    settings: Vec<String>,
    variables: Vec<(String, String)>,
    machine: Option<Machine>,
    pub http_port: u16,
    pub postgres_port: u16,
    pub grpc_port: u16,
    process: Option<Child>,
}

pub fn binary() -> PathBuf {
    std::env::var_os("HEADWATER_BIN").map_or_else(|| env!("CARGO_BIN_EXE_headwater").into(), PathBuf::from)
}

impl Server {
    /// A server that will apply `sql` when it starts.
    pub fn new(sql: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("test.sql"), sql).expect("the SQL file");
        Self {
            data: directory.path().join("data"),
            directory,
            settings: Vec::new(),
            variables: Vec::new(),
            machine: None,
            http_port: free_port(),
            postgres_port: free_port(),
            grpc_port: free_port(),
            process: None,
        }
    }

    /// Sets a key of the configuration: `section.key=value`.
    pub fn with(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// Sets a variable of its environment.
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs there.
    pub fn on(mut self, machine: Option<&Machine>) -> Self {
        self.machine = machine.cloned();
        self
    }

    /// Keeps the data elsewhere.
    pub fn with_data_in(mut self, directory: PathBuf) -> Self {
        self.data = directory;
        self
    }

    /// Starts the process and waits until it is ready.
    pub async fn start(&mut self) {
        if let Some(status) = self.start_or_end().await {
            panic!("the server ended with {status}:\n{}", self.log());
        }
    }

    /// Starts the process and waits until it is ready, or has ended.
    pub async fn start_or_end(&mut self) -> Option<ExitStatus> {
        let log = self.directory.path().join("log");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log file");
        let mut command = match &self.machine {
            Some(machine) => machine.command(binary()),
            None => Command::new(binary()),
        };
        let address = self.address();
        let process = command
            .arg("serve")
            .arg(self.directory.path().join("test.sql"))
            .arg("--data")
            .arg(&self.data)
            .args(["--set", &format!("http.listen={address}:{}", self.http_port)])
            .args(["--set", &format!("postgres.listen={address}:{}", self.postgres_port)])
            .args(["--set", &format!("grpc.listen={address}:{}", self.grpc_port)])
            .args(self.settings.iter().flat_map(|setting| ["--set", setting]))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file"))
            .stderr(log)
            .spawn();
        self.process = Some(process.expect("the binary starts"));
        self.ready().await
    }

    /// Sends it a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.process_id().to_string()])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "kill -s {name}");
    }

    pub fn process_id(&self) -> u32 {
        self.process.as_ref().expect("started").id()
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let started = Instant::now();
        let mut process = self.process.take().expect("started");
        loop {
            if let Some(status) = process.try_wait().expect("the process is there") {
                return status;
            }
            if started.elapsed() > PATIENCE {
                process.kill().expect("the process is there");
                panic!("it goes on:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("the process is there");
            process.wait().expect("the process ends");
        }
    }

    pub fn data_directory(&self) -> PathBuf {
        self.data.clone()
    }

    /// The file that it applies when it starts.
    pub fn sql_file(&self) -> PathBuf {
        self.directory.path().join("test.sql")
    }

    pub fn url(&self) -> String {
        format!("http://{}:{}", self.address(), self.http_port)
    }

    fn address(&self) -> &str {
        self.machine.as_ref().map_or("127.0.0.1", |machine| &machine.address)
    }

    /// The rows that `sql` answers with.
    pub async fn sql(&self, sql: &str) -> Vec<Value> {
        let request = reqwest::Client::new().post(format!("{}/v1/sql", self.url()));
        let answer = request.json(&json!({"sql": sql})).send().await.expect("an answer");
        let status = answer.status();
        let body: Value = answer.json().await.expect("a JSON answer");
        assert!(status.is_success(), "{sql}\n{body}");
        body["rows"].as_array().expect("rows").clone()
    }

    /// Waits until every task has taken in all of its input, in whichever process it runs.
    pub async fn caught_up(&self) {
        let started = Instant::now();
        loop {
            let lag = self.lag().await;
            if lag == 0 {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "still {lag} rows behind:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The lag of all tasks, over some looks: they are looked at one after the other.
    async fn lag(&self) -> u64 {
        let mut most = 0;
        for _ in 0..3 {
            let status: Value = serde_json::from_str(&self.get("/v1/status").await).expect("JSON");
            let queries = status["queries"].as_array().expect("queries");
            let tasks = queries
                .iter()
                .flat_map(|query| query["tasks"].as_array().expect("tasks"));
            // Where the log can't be asked, it isn't known.
            let lag = tasks.map(|task| task["lag"].as_u64().unwrap_or(1));
            most = most.max(lag.sum());
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        most
    }

    /// What a path answers, as text.
    pub async fn get(&self, path: &str) -> String {
        let answer = reqwest::get(format!("{}{path}", self.url())).await.expect("an answer");
        answer.text().await.expect("a text")
    }

    /// Posts events as JSON; the status and the answer.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        self.post_as(path, &[("content-type", "application/json")], body).await
    }

    /// Posts anything.
    pub async fn post_as(&self, path: &str, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> (u16, Value) {
        let mut request = reqwest::Client::new().post(format!("{}{path}", self.url())).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a text");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Says how it ended, if it did not become ready.
    async fn ready(&mut self) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Ok(answer) = reqwest::get(format!("{}/readyz", self.url())).await
                && answer.status().is_success()
            {
                return None;
            }
            let process = self.process.as_mut().expect("started");
            if let Some(status) = process.try_wait().expect("the process is there") {
                self.process = None;
                return Some(status);
            }
            assert!(started.elapsed() < PATIENCE, "not ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the process has said, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
