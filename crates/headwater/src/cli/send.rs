//! `headwater send`: a file or standard input into a stream.
//!
//! The input is cut into requests of bounded size ([`split`]), each of which is durable when it is
//! answered. Requests go out one after the other unless `--in-flight` says otherwise: with several at
//! once, a later part of the file may be stored before an earlier one, and windows take event time
//! that goes back for lateness. The next request is read and cut while one is under way.

mod split;
mod summary;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use futures::StreamExt;
use headwater_event::clock::{Clock, SystemClock};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::cli::client::{Client, Item, ServerUrl};
use crate::cli::failure::{Failed, Failure};
use crate::cli::output;
use crate::cli::send::split::{Chunk, Splitter};
use crate::cli::send::summary::Summary;

/// Load events from a file or standard input
///
/// Exits with 1 when anything was refused.
#[derive(Debug, clap::Args)]
pub struct Send {
    /// The stream that takes the events
    stream: String,
    /// The file; '-' is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// The input's format; by the file's extension unless given (.ndjson, .jsonl, .json, .csv, .log)
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Events in one request, at most
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch_rows: u32,
    /// Requests under way at once; more than one may change the order of events
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    in_flight: u32,
    /// What to do about an event that the stream does not take
    #[arg(long, value_enum, default_value_t = OnError::Stop)]
    on_error: OnError,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerUrl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object on each line
    Ndjson,
    /// One JSON object, or an array of them
    Json,
    /// With a header
    Csv,
    /// The combined format of Apache and nginx
    CombinedLog,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum OnError {
    /// Stop there; nothing of its request is stored
    Stop,
    /// Send it to the stream dead_letters and go on
    DeadLetter,
}

/// What became of one request.
enum Outcome {
    Stored {
        chunk: Chunk,
        counts: Stored,
        items: Vec<Item>,
    },
    Refused {
        chunk: Chunk,
        items: Vec<Item>,
        count: usize,
    },
}

/// What the server answers to events that it took.
#[derive(Debug, Default, Deserialize)]
struct Stored {
    #[serde(default)]
    accepted: u64,
    #[serde(default)]
    duplicates: u64,
    #[serde(default)]
    rejected: u64,
    #[serde(default)]
    errors: Vec<Item>,
}

/// The largest request, below what servers take by default.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Requests that are cut and wait to be sent.
const CHUNKS_AHEAD: usize = 2;
const TRIES: u32 = 10;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

impl Send {
    pub async fn run(self) -> Failed {
        let client = Client::new(&self.server)?;
        let format = self.format.unwrap_or_else(|| format_of(&self.file));
        let (input, bytes) = open(&self.file)?;
        let progress = progress(bytes);
        let clock = SystemClock::new();
        let chunks = read(Splitter::new(
            input,
            format,
            self.batch_rows as usize,
            REQUEST_BYTES_MAX,
        ));

        let mut summary = Summary::default();
        let ended = self
            .send_all(&client, clock.as_ref(), format, chunks, &mut summary, &progress)
            .await;
        progress.finish_and_clear();
        let text = match self.json {
            true => summary.json(),
            false => summary.text(&self.stream, clock.elapsed()),
        };
        // What failed before anything became of the input says enough.
        if self.json || ended.is_ok() || summary.accepted() + summary.refused() > 0 {
            output::line(&text)?;
        }
        ended?;
        match summary.refused() {
            0 => Ok(()),
            _ => Err(Failure::said()),
        }
    }

    async fn send_all(
        &self,
        client: &Client,
        clock: &dyn Clock,
        format: Format,
        chunks: mpsc::Receiver<Failed<Chunk>>,
        summary: &mut Summary,
        progress: &ProgressBar,
    ) -> Failed {
        let chunks = futures::stream::unfold(chunks, |mut chunks| async { Some((chunks.recv().await?, chunks)) });
        let sent = chunks.map(async |chunk| self.send_chunk(client, clock, format, chunk?).await);
        let mut outcomes = std::pin::pin!(sent.buffer_unordered(self.in_flight as usize));
        while let Some(outcome) = outcomes.next().await {
            match outcome? {
                Outcome::Stored { chunk, counts, items } => {
                    progress.inc(chunk.input_bytes);
                    summary.stored(counts.accepted, counts.duplicates, counts.rejected);
                    summary.reasons(&chunk, &items);
                }
                Outcome::Refused { chunk, items, count } => {
                    summary.refuse(count.max(1) as u64);
                    summary.reasons(&chunk, &items);
                    return Err(Failure::failed(stopped(&chunk)));
                }
            }
            progress.set_message(output::grouped(summary.accepted()));
        }
        Ok(())
    }

    async fn send_chunk(&self, client: &Client, clock: &dyn Clock, format: Format, chunk: Chunk) -> Failed<Outcome> {
        for attempt in 0..TRIES {
            let request = client.post(&["v1", "streams", &self.stream, "events"]);
            let request = request
                .header("content-type", content_type(format))
                .body(chunk.body.clone());
            let request = match self.on_error {
                OnError::Stop => request,
                OnError::DeadLetter => request.query(&[("on_error", "dead_letter")]),
            };
            let response = client
                .answer(request)
                .await
                .map_err(|failure| uncertain(failure, &chunk))?;
            match response.status() {
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE if attempt + 1 < TRIES => {
                    let after = response
                        .headers()
                        .get(RETRY_AFTER)
                        .and_then(|value| value.to_str().ok()?.parse().ok());
                    clock.sleep(pause(attempt, after)).await;
                }
                status if status.is_success() => {
                    let text = response
                        .text()
                        .await
                        .map_err(|error| uncertain(client.unreachable(&error), &chunk))?;
                    let mut counts: Stored = serde_json::from_str(&text)
                        .map_err(|error| Failure::failed(format!("the answer can't be read: {error}")))?;
                    let items = std::mem::take(&mut counts.errors);
                    return Ok(Outcome::Stored { chunk, counts, items });
                }
                StatusCode::UNPROCESSABLE_ENTITY => {
                    let problem = client.problem(response).await;
                    let count = problem.count.unwrap_or(problem.errors.len());
                    return Ok(Outcome::Refused {
                        chunk,
                        items: problem.errors,
                        count,
                    });
                }
                _ => return Err(Failure::failed(client.problem(response).await.render(""))),
            }
        }
        Err(Failure::failed(format!(
            "the server is too busy: given up after {TRIES} tries; {}",
            again(&chunk)
        )))
    }
}

fn open(file: &Path) -> Failed<(Box<dyn BufRead + std::marker::Send>, Option<u64>)> {
    if file == Path::new("-") {
        return Ok((Box::new(BufReader::new(std::io::stdin())), None));
    }
    let cant = |error| Failure::usage(format!("can't read {}: {error}", file.display()));
    let input = File::open(file).map_err(cant)?;
    let metadata = input.metadata().map_err(cant)?;
    if metadata.is_dir() {
        return Err(Failure::usage(format!(
            "{} is a directory; name a file",
            file.display()
        )));
    }
    // Of a pipe or a device, the length says nothing.
    let bytes = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(BufReader::with_capacity(1 << 20, input)), bytes))
}

/// Reads and cuts on a thread of its own, some requests ahead.
fn read(mut splitter: Splitter<Box<dyn BufRead + std::marker::Send>>) -> mpsc::Receiver<Failed<Chunk>> {
    let (send, receive) = mpsc::channel(CHUNKS_AHEAD);
    std::thread::spawn(move || {
        while let Some(chunk) = splitter.next().transpose() {
            let chunk = chunk.map_err(|error| Failure::failed(error.to_string()));
            let last = chunk.is_err();
            if send.blocking_send(chunk).is_err() || last {
                return;
            }
        }
    });
    receive
}

fn format_of(file: &Path) -> Format {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("json") => Format::Json,
        Some("csv") => Format::Csv,
        Some("log") => Format::CombinedLog,
        _ => Format::Ndjson,
    }
}

fn content_type(format: Format) -> &'static str {
    match format {
        Format::Ndjson => "application/x-ndjson",
        Format::Json => "application/json",
        Format::Csv => "text/csv",
        Format::CombinedLog => "text/x-combined-log",
    }
}

/// How long to wait before the next try: what the server asks for, at least the back-off.
fn pause(attempt: u32, asked_s: Option<u64>) -> Duration {
    let backoff = BACKOFF_FIRST.saturating_mul(1 << attempt.min(16)).min(BACKOFF_MAX);
    backoff.max(Duration::from_secs(asked_s.unwrap_or(0)).min(BACKOFF_MAX * 6))
}

fn progress(bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match bytes {
        Some(bytes) => (
            ProgressBar::new(bytes),
            "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg} events, {eta} left",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {bytes} {bytes_per_sec} {msg} events",
        ),
    };
    // The template is ours and known to parse; if it did not, the bar would look plain.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_message("0")
}

fn stopped(chunk: &Chunk) -> String {
    format!(
        "stopped: nothing of lines {} to {} was stored, everything before was; mend the input and send it from line {} on, \
         or send with --on-error dead_letter",
        chunk.first_line(),
        chunk.last_line(),
        chunk.first_line(),
    )
}

fn again(chunk: &Chunk) -> String {
    format!("send the input again from line {} on", chunk.first_line())
}

/// A request without an answer may have been stored.
fn uncertain(failure: Failure, chunk: &Chunk) -> Failure {
    Failure {
        message: format!(
            "{}\nit is not known whether lines {} to {} were stored; {}",
            failure.message,
            chunk.first_line(),
            chunk.last_line(),
            again(chunk)
        ),
        ..failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_as_long_as_the_server_asks_and_longer_each_time() {
        assert_eq!(pause(0, None), Duration::from_millis(100));
        assert_eq!(pause(3, None), Duration::from_millis(800));
        assert_eq!(pause(30, None), BACKOFF_MAX);
        assert_eq!(pause(0, Some(3)), Duration::from_secs(3));
        assert_eq!(pause(0, Some(86_400)), Duration::from_secs(60));
    }

    #[test]
    fn the_extension_tells_the_format() {
        assert_eq!(format_of(Path::new("a.csv")), Format::Csv);
        assert_eq!(format_of(Path::new("access.log")), Format::CombinedLog);
        assert_eq!(format_of(Path::new("-")), Format::Ndjson);
    }
}
