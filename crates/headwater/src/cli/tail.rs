//! `headwater tail`: a stream's events, or a view's changes, as they come.
//!
//! Over server-sent events: each carries its position, so that a connection that breaks is taken
//! up again where it ended, with nothing left out and nothing twice.

mod sse;

use std::time::Duration;

use futures::StreamExt;
use headwater_event::clock::{Clock, SystemClock};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cli::client::{self, Client, ServerUrl};
use crate::cli::failure::{Failed, Failure};
use crate::cli::output::live::Printer;
use crate::cli::output::{self, Row, Rows};
use crate::cli::tail::sse::{Message, Reader};

/// Follow the events of a stream, or the changes of a view
#[derive(Debug, clap::Args)]
pub struct Tail {
    /// A stream or a view
    name: String,
    /// 'earliest', 'latest', an offset, a time such as 2026-01-31T12:00:00Z, or a position such as 0:18,1:4
    #[arg(long, default_value = "latest")]
    from: String,
    /// For people (table) or for programs: json is one object on each line, with the event's place
    #[arg(long, value_enum, default_value_t = Rows::Table)]
    format: Rows,
    #[command(flatten)]
    server: ServerUrl,
}

/// How long to wait before the next try to connect, at first and at most.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

impl Tail {
    pub async fn run(self) -> Failed {
        let client = Client::new(&self.server)?;
        let clock = SystemClock::new();
        let kind = self.kind(&client).await?;
        let mut printer = Printer::new(self.format);
        // The first connection must succeed; after that, a lost one is taken up again.
        let mut response = self.connect(&client, kind, None).await?;
        let mut position = None;
        let mut backoff = BACKOFF_FIRST;
        loop {
            let followed = follow(response, &mut printer, &mut position).await?;
            if followed {
                backoff = BACKOFF_FIRST;
            }
            eprintln!("headwater: the connection was lost; trying again");
            response = loop {
                clock.sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
                match self.connect(&client, kind, position.as_deref()).await {
                    Ok(response) => break response,
                    Err(failure) if failure.code == 2 => return Err(failure),
                    Err(_) => {}
                }
            };
        }
    }

    /// "streams" or "views", as the route has it.
    async fn kind(&self, client: &Client) -> Failed<&'static str> {
        let catalog = client.catalog().await?;
        let has = |kind: &str| {
            let mut objects = catalog[kind].as_array().into_iter().flatten();
            objects.any(|object| object["name"] == self.name.as_str())
        };
        // A name that isn't there gets its answer, with the nearest one, from the route of streams.
        Ok(if has("views") { "views" } else { "streams" })
    }

    async fn connect(&self, client: &Client, kind: &str, position: Option<&str>) -> Failed<Response> {
        let request = client
            .get(&["v1", kind, &self.name, "live"])
            .header("accept", "text/event-stream");
        let request = match position {
            Some(position) => request.header("last-event-id", position),
            None => request.query(&[("from", &self.from)]),
        };
        let response = client.answer(request).await?;
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Err(Failure::failed(client.problem(response).await.render("")))
            }
            // The request itself is wrong: trying again won't mend it.
            _ => Err(Failure::usage(client.problem(response).await.render(""))),
        }
    }
}

/// Prints what comes until the connection ends; whether anything came.
async fn follow(response: Response, printer: &mut Printer, position: &mut Option<String>) -> Failed<bool> {
    let mut lines = client::lines(response);
    let mut reader = Reader::default();
    let mut any = false;
    while let Some(Ok(line)) = lines.next().await {
        match reader.line(&line) {
            Some(Message::Row { id, data }) => {
                any = true;
                print(printer, &data)?;
                *position = id.or(position.take());
            }
            Some(Message::Problem(problem)) => eprintln!("headwater: {}", problem_of(&problem)),
            Some(Message::End(reason)) => {
                eprintln!("headwater: {reason}");
                return Ok(any);
            }
            Some(Message::Gone(reason)) => {
                eprintln!("headwater: {reason}");
                *position = None;
                return Ok(any);
            }
            None => {}
        }
    }
    Ok(any)
}

/// An event or a change with its place; the place is for programs alone.
#[derive(Deserialize)]
struct Envelope {
    op: Option<Box<RawValue>>,
    #[serde(alias = "event")]
    row: Row,
}

fn print(printer: &mut Printer, data: &str) -> Failed {
    if printer.format == Rows::Json {
        return Ok(output::line(data)?);
    }
    let envelope: Envelope = serde_json::from_str(data)
        .map_err(|error| Failure::failed(format!("the server sent what can't be read: {error}")))?;
    let mut row = envelope.row;
    if let Some(op) = envelope.op {
        row.0.insert(0, ("op".to_owned(), op));
    }
    printer.row(&row)
}

fn problem_of(text: &str) -> String {
    let problem = serde_json::from_str::<client::Problem>(text);
    problem.map_or_else(|_| text.to_owned(), |problem| problem.render(""))
}
