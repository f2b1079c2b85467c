//! Runs what the documentation shows: every `console` block of a document, line by line.
//!
//! A line that begins with `$ ` is a command; the lines after it, up to the next command or the end
//! of the block, are what it must print, where `…` stands for anything. A command that starts a server goes on in the background until
//! the document ends, or until the document stops it with `kill`. The ports of the documentation
//! are replaced by free ones, so that the test can run beside a server.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use headwater_test_servers::ports::free_port;

use crate::postgres::there;
use crate::server::binary;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn the_readme_tells_the_truth() {
    run("README.md");
}

#[test]
fn the_clickstream_example_tells_the_truth() {
    run("examples/clickstream/README.md");
}

#[test]
fn the_http_reference_tells_the_truth() {
    run("docs/http.md");
}

#[test]
fn the_grpc_reference_tells_the_truth() {
    if there("python3", &["-c", "import grpc_tools, grpc_reflection, grpc_status"]) {
        run("docs/grpc.md");
    }
}

/// A command of the documentation, and what it must print.
#[derive(Debug, PartialEq)]
struct Step {
    line: usize,
    command: String,
    expected: String,
}

struct Tour {
    directory: tempfile::TempDir,
    http_port: u16,
    postgres_port: u16,
    grpc_port: u16,
    server: Option<Child>,
}

fn run(document: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join(document)).expect("the document");
    let steps = steps(&text);
    assert!(!steps.is_empty(), "{document} shows no commands");
    let mut tour = Tour::new(&root);
    if let Some(program) = python(&text) {
        let program = program.replace("50051", &tour.grpc_port.to_string());
        std::fs::write(tour.directory.path().join("ask.py"), program).expect("the program");
    }
    for step in steps {
        tour.take(document, &step);
    }
}

/// The Python program that the document shows, if it does.
fn python(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("```python\n")?;
    rest.split("```").next()
}

impl Tour {
    /// In a directory that has the examples, as a checkout has them.
    fn new(root: &Path) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for folder in ["examples", "proto"] {
            let here = root.join(folder).canonicalize().expect("the folder");
            std::os::unix::fs::symlink(here, directory.path().join(folder)).expect("a link to the folder");
        }
        Self {
            directory,
            http_port: free_port(),
            postgres_port: free_port(),
            grpc_port: free_port(),
            server: None,
        }
    }

    fn take(&mut self, document: &str, step: &Step) {
        if step.command.contains("headwater serve") {
            self.stop();
            // In the shell's place: killing the one must kill the other.
            self.server = Some(self.shell(&format!("exec {}", step.command)).spawn().expect("a shell"));
            return self.wait_until_ready(document, step);
        }
        if step.command.contains("kill -9") {
            return self.stop();
        }
        let started = Instant::now();
        loop {
            let output = self.shell(&step.command).output().expect("a shell");
            let printed =
                String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            let printed = self.with_documented_ports(&printed);
            if matches(printed.trim_end(), &step.expected) {
                return;
            }
            // What follows an event takes its milliseconds; only questions may be asked again.
            let gives = step.command.contains(" -d ") && !step.command.contains("headwater.v1.Query");
            let asks = !gives && !step.command.contains("send") && !step.command.contains("CREATE");
            assert!(
                asks && started.elapsed() < PATIENCE,
                "{document}:{}: {}\nshould print\n{}\nbut printed\n{printed}",
                step.line,
                step.command,
                step.expected
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn shell(&self, command: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let beside = binary().parent().map(PathBuf::from).unwrap_or_default();
        // Programs that the documentation shows, and the machine may not have.
        let stand_ins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/bin");
        let command = command
            .replace("8080", &self.http_port.to_string())
            .replace("5433", &self.postgres_port.to_string())
            .replace("50051", &self.grpc_port.to_string());
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("exec 2>&1; {command}")])
            .current_dir(self.directory.path())
            .env("PATH", format!("{}:{path}:{}", beside.display(), stand_ins.display()))
            .env("HEADWATER_HTTP__LISTEN", format!("127.0.0.1:{}", self.http_port))
            .env(
                "HEADWATER_POSTGRES__LISTEN",
                format!("127.0.0.1:{}", self.postgres_port),
            )
            .env("HEADWATER_GRPC__LISTEN", format!("127.0.0.1:{}", self.grpc_port))
            .env("HEADWATER_SERVER", format!("http://127.0.0.1:{}", self.http_port))
            .env("XDG_STATE_HOME", self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        shell
    }

    fn with_documented_ports(&self, printed: &str) -> String {
        printed
            .replace(&self.http_port.to_string(), "8080")
            .replace(&self.postgres_port.to_string(), "5433")
            .replace(&self.grpc_port.to_string(), "50051")
    }

    fn wait_until_ready(&mut self, document: &str, step: &Step) {
        let started = Instant::now();
        let ready = format!("curl --silent --fail localhost:{}/readyz", self.http_port);
        while !self.shell(&ready).output().expect("a shell").status.success() {
            let server = self.server.as_mut().expect("started");
            if server.try_wait().expect("the server is there").is_some() || started.elapsed() > PATIENCE {
                let mut said = String::new();
                let _ = server.kill();
                let _ = server.stdout.take().expect("piped").read_to_string(&mut said);
                panic!("{document}:{}: {}\ndid not get ready:\n{said}", step.line, step.command);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("the server is there");
            server.wait().expect("the server ends");
        }
    }
}

impl Drop for Tour {
    fn drop(&mut self) {
        self.stop();
    }
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for (line, content) in (1..).zip(text.lines()) {
        if content.starts_with("```") {
            inside = content == "```console";
        } else if !inside {
            continue;
        } else if let Some(command) = content.strip_prefix("$ ") {
            steps.push(Step {
                line,
                command: command.to_owned(),
                expected: String::new(),
            });
        } else if let Some(step) = steps.last_mut() {
            // A command goes on over lines that end in a backslash.
            match step.command.strip_suffix('\\') {
                Some(command) if step.expected.is_empty() => step.command = format!("{command}{content}"),
                _ => step.expected = format!("{}{content}\n", step.expected),
            }
        }
    }
    for step in &mut steps {
        step.expected.truncate(step.expected.trim_end().len());
    }
    steps
}

/// Whether `printed` is `expected`, where `…` stands for anything.
fn matches(printed: &str, expected: &str) -> bool {
    let mut pieces = expected.split('…');
    let Some(mut rest) = printed.strip_prefix(pieces.next().unwrap_or_default()) else {
        return false;
    };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else {
        return rest.is_empty();
    };
    for piece in middle {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn a_wildcard_stands_for_anything() {
    assert!(matches("abc", "abc"));
    assert!(!matches("abcd", "abc"));
    assert!(matches("took 3 ms, 5 rows", "took … ms, … rows"));
    assert!(!matches("took 3 ms", "took … s"));
    assert!(matches("anything", "…"));
}
