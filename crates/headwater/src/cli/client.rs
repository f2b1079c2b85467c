//! A server, seen from a command: requests, and what to tell a person when one fails.

use futures::{Stream, StreamExt, TryStreamExt};
use headwater_sql::error::{Kind, Place, SqlError};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::failure::{Failed, Failure};
use crate::cli::output::{Column, Row};

/// The longest line of a streamed answer.
const LINE_BYTES_MAX: usize = 64 << 20;

/// The argument of all commands that talk to a server.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerUrl {
    /// Where the server is
    #[arg(
        long,
        value_name = "URL",
        env = "HEADWATER_SERVER",
        default_value = "http://127.0.0.1:8080"
    )]
    pub server: String,
}

#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
}

/// What a statement answers with.
#[derive(Debug, Default, Deserialize)]
pub struct Answer {
    #[serde(default)]
    pub columns: Vec<Column>,
    #[serde(default)]
    pub rows: Vec<Row>,
    /// What was done, of a statement that has no rows.
    #[serde(default)]
    pub status: Option<String>,
    /// What there is to know besides.
    #[serde(default)]
    pub notice: Option<String>,
}

/// A problem document as it arrives; see `headwater_problem` for what the members mean.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Problem {
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub detail: String,
    #[serde(default)]
    pub errors: Vec<Item>,
    #[serde(default)]
    pub count: Option<usize>,
    #[serde(default)]
    pub hint: Option<String>,
    #[serde(default)]
    pub request_id: Option<String>,
}

/// One of the errors of a problem.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Item {
    #[serde(default)]
    pub index: Option<usize>,
    #[serde(default)]
    pub field: Option<String>,
    #[serde(default)]
    pub line: Option<u64>,
    #[serde(default)]
    pub column: Option<u64>,
    #[serde(default)]
    pub expected: Option<String>,
    #[serde(default)]
    pub found: Option<String>,
    #[serde(default)]
    pub message: String,
}

impl Client {
    pub fn new(server: &ServerUrl) -> Failed<Self> {
        let text = match server.server.contains("://") {
            true => server.server.clone(),
            false => format!("http://{}", server.server),
        };
        let wrong = |why: String| Failure::usage(format!("--server {}: {why}", server.server));
        let base = Url::parse(&text).map_err(|error| wrong(error.to_string()))?;
        if base.scheme() != "http" {
            return Err(wrong(format!("'{}' is not there yet, only http", base.scheme())));
        }
        // A proxy in the environment is for the outside world; a server of ours is usually next door.
        let http = reqwest::Client::builder().no_proxy().build();
        let http = http.map_err(|error| Failure::failed(error.to_string()))?;
        Ok(Self { http, base })
    }

    pub fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// A GET of the path made of `segments`, each of which may contain anything.
    pub fn get(&self, segments: &[&str]) -> RequestBuilder {
        self.http.get(self.url(segments))
    }

    pub fn post(&self, segments: &[&str]) -> RequestBuilder {
        self.http.post(self.url(segments))
    }

    /// The answers to statements, one for each.
    pub async fn sql(&self, text: &str) -> Failed<Vec<Answer>> {
        #[derive(Deserialize)]
        struct Several {
            results: Vec<Answer>,
        }
        let response = self.sql_response(text, "application/json").await?;
        let text = self.text(response).await?;
        // One after the other: serde's untagged enums would read the numbers.
        match serde_json::from_str(&text) {
            Ok(Several { results }) => Ok(results),
            Err(_) => Ok(vec![self.read(&text)?]),
        }
    }

    /// The answer to statements in the form that `accept` names; of several statements, the last's.
    pub async fn sql_response(&self, text: &str, accept: &str) -> Failed<Response> {
        let request = self
            .post(&["v1", "sql"])
            .json(&json!({"sql": text}))
            .header("accept", accept);
        let response = self.answer(request).await?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(Failure::failed(self.problem(response).await.render(text))),
        }
    }

    /// What there is.
    pub async fn catalog(&self) -> Failed<Value> {
        self.read(&self.get_text(&["v1", "catalog"]).await?)
    }

    /// What is at the path made of `segments`.
    pub async fn get_text(&self, segments: &[&str]) -> Failed<String> {
        let response = self.answer(self.get(segments)).await?;
        match response.status().is_success() {
            true => self.text(response).await,
            false => Err(Failure::failed(self.problem(response).await.render(""))),
        }
    }

    /// The response, whatever its status; a failure says that there is nobody, and what to do.
    pub async fn answer(&self, request: RequestBuilder) -> Failed<Response> {
        request.send().await.map_err(|error| self.unreachable(&error))
    }

    /// The problem that a response tells of.
    pub async fn problem(&self, response: Response) -> Problem {
        let status = response.status();
        let text = response.text().await.unwrap_or_default();
        match serde_json::from_str::<Problem>(&text) {
            Ok(problem) if !problem.detail.is_empty() || !problem.title.is_empty() => problem,
            _ => Problem {
                detail: not_ours(status, &text, self.base()),
                ..Problem::default()
            },
        }
    }

    pub fn unreachable(&self, error: &reqwest::Error) -> Failure {
        match error.is_connect() {
            true => Failure::failed(format!(
                "there is no server at {}; start one with 'headwater serve FILE.sql', or say where it is with --server URL",
                self.base()
            )),
            false => Failure::failed(format!("{}: {}", self.base(), innermost(error))),
        }
    }

    async fn text(&self, response: Response) -> Failed<String> {
        response.text().await.map_err(|error| self.unreachable(&error))
    }

    pub fn read<T: serde::de::DeserializeOwned>(&self, text: &str) -> Failed<T> {
        serde_json::from_str(text)
            .map_err(|error| Failure::failed(format!("{}: the answer can't be read: {error}", self.base())))
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        // Fails for URLs that have no path, and those were refused at the beginning.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }
}

impl Problem {
    /// For people; `sql` is the text that the places of errors are in, or empty.
    pub fn render(&self, sql: &str) -> String {
        let first = self.errors.first();
        if let (false, Some((item, line, column))) = (sql.is_empty(), first.and_then(placed)) {
            let place = Place {
                line,
                column,
                text: item.found.clone().unwrap_or_default(),
            };
            let mut error = SqlError::new(Kind::Invalid, item.message.clone()).at(place);
            error.hint = self.hint.clone();
            let text = error.render("statement", sql);
            return text.trim_start_matches("error: ").trim_end().to_owned();
        }
        let mut text = if self.detail.is_empty() {
            self.title.clone()
        } else {
            self.detail.clone()
        };
        for item in &self.errors {
            text.push_str(&format!("\n  {}", item.message));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("; {hint}"));
        }
        text
    }
}

fn placed(item: &Item) -> Option<(&Item, u64, u64)> {
    Some((item, item.line?, item.column?))
}

/// The lines of a body, as they come.
pub fn lines(response: Response) -> impl Stream<Item = Failed<String>> {
    let chunks = response
        .bytes_stream()
        .map_err(|error| Failure::failed(innermost(&error)));
    // A line break at the end, so that an unfinished last line is a line too.
    let chunks = chunks
        .map_ok(|chunk| chunk.to_vec())
        .chain(futures::stream::once(async { Ok(b"\n".to_vec()) }));
    let lines = chunks.scan(Vec::new(), |unfinished, chunk| {
        let lines = chunk.and_then(|chunk| split(unfinished, &chunk));
        let lines = lines.map_or_else(
            |failure| vec![Err(failure)],
            |lines| lines.into_iter().map(Ok).collect(),
        );
        std::future::ready(Some(futures::stream::iter(lines)))
    });
    lines.flatten().boxed()
}

/// The lines that `chunk` finishes; what follows the last of them stays in `unfinished`.
fn split(unfinished: &mut Vec<u8>, chunk: &[u8]) -> Failed<Vec<String>> {
    let mut lines = Vec::new();
    let mut rest = chunk;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        unfinished.extend_from_slice(&rest[..end]);
        let line = String::from_utf8(std::mem::take(unfinished));
        let line = line.map_err(|_| Failure::failed("the answer is not UTF-8"))?;
        lines.push(line.strip_suffix('\r').map(str::to_owned).unwrap_or(line));
        rest = &rest[end + 1..];
    }
    unfinished.extend_from_slice(rest);
    match unfinished.len() > LINE_BYTES_MAX {
        true => Err(Failure::failed(format!(
            "a line of the answer is longer than {LINE_BYTES_MAX} bytes"
        ))),
        false => Ok(lines),
    }
}

fn not_ours(status: StatusCode, text: &str, base: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    format!("{base} answered {status} {first}; is it a Headwater server?").replace("  ", " ")
}

/// What went wrong beneath the layers of a client.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
