//! `headwater demo`: a server, visitors of a shop, and what comes out, live in the terminal.
//!
//! Everything is the real thing: the visitors' events go in over HTTP and the numbers are read back
//! over HTTP. Only the directory is a temporary one, unless `--data` names another.

mod screen;

use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headwater_event::clock::{Clock, SystemClock};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::cli::client::{Client, ServerUrl};
use crate::cli::demo::screen::{Frame, Page, Screen};
use crate::cli::failure::{Failed, Failure};
use crate::cli::output;
use crate::cli::serve::{Signals, refused, start_logs};
use crate::cli::simulate::clickstream::Clickstream;
use crate::cli::simulate::traffic::Traffic;
use crate::config::Config;
use crate::config::layers::Layers;
use crate::files::SqlFile;
use crate::instance::{Instance, StartError};

/// Start a server with a simulated shop and watch it
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Events per second
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Where to keep the data; a temporary directory unless given
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Sets one key of the configuration; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Stop after so many seconds; else Ctrl-C stops it
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u32>,
}

const SQL_NAME: &str = "examples/clickstream/clickstream.sql";
const SQL: &str = include_str!("../../../../examples/clickstream/clickstream.sql");
const USERS: u32 = 10_000;
const TOP_PAGES: &str = "6";
/// The log lines of a server that is doing well would disturb the picture.
const LOG_LEVEL: &str = "telemetry.log_level=error";

impl Demo {
    pub async fn run(self) -> Failed {
        let clock: Arc<dyn Clock> = SystemClock::new();
        let mut signals = Signals::listen()?;
        let (mut config, _temporary) = self.config()?;
        start_logs(&config)?;
        let (instance, notes) = start(&mut config).await?;
        let result = self.show(&instance, notes, &clock, &mut signals).await;
        // A second signal while it stops ends it at once.
        tokio::select! {
            () = instance.stop() => result,
            () = signals.received() => Err(Failure::interrupted()),
        }
    }

    fn config(&self) -> Failed<(Config, Option<TempDir>)> {
        let mut sets = vec![LOG_LEVEL.to_owned()];
        let temporary = match &self.data {
            Some(directory) => {
                sets.push(format!("data.directory={}", directory.display()));
                None
            }
            None => {
                let directory = tempfile::Builder::new().prefix("headwater-demo-").tempdir();
                let directory =
                    directory.map_err(|error| Failure::usage(format!("no temporary directory: {error}")))?;
                sets.push(format!("data.directory={}", directory.path().display()));
                Some(directory)
            }
        };
        sets.extend(self.set.iter().cloned());
        let config = Config::load(&Layers::of_process(None, sets));
        Ok((config.map_err(|error| Failure::usage(error.to_string()))?, temporary))
    }

    /// Sends events and draws until a signal comes or the time is up.
    async fn show(
        &self,
        instance: &Instance,
        notes: Vec<String>,
        clock: &Arc<dyn Clock>,
        signals: &mut Signals,
    ) -> Failed {
        let http = instance
            .http
            .ok_or_else(|| Failure::usage("the demo needs http.listen"))?;
        let client = Client::new(&ServerUrl {
            server: format!("http://{http}"),
        })?;
        let traffic = Traffic::new(client.clone(), Arc::clone(clock), "clicks".to_owned(), self.rate);
        let stop = CancellationToken::new();
        let began = clock.elapsed();
        let clicks = Clickstream::new(clock.now() as u64, USERS);
        let sending = tokio::spawn(Arc::clone(&traffic).run(clicks, stop.clone()));

        let drawn = tokio::select! {
            drawn = self.draw(&client, &traffic, notes, http, instance.postgres, clock.as_ref()) => drawn,
            () = traffic.broken() => Ok(()),
            () = signals.received() => Ok(()),
        };
        stop.cancel();
        let sent = sending.await.map_err(|error| Failure::failed(error.to_string()))?;
        let total = output::grouped(traffic.totals().acknowledged);
        output::line(&format!(
            "{total} events in {:.0} s, each durable before it was acknowledged",
            (clock.elapsed() - began).as_secs_f64()
        ))?;
        drawn.and(sent)
    }

    async fn draw(
        &self,
        client: &Client,
        traffic: &Traffic,
        notes: Vec<String>,
        http: SocketAddr,
        postgres: Option<SocketAddr>,
        clock: &dyn Clock,
    ) -> Failed {
        let mut screen = Screen::new(std::io::stdout().is_terminal());
        let started = clock.elapsed();
        let mut seconds = 0;
        while self.seconds.is_none_or(|end| seconds < end) {
            clock.sleep(Duration::from_secs(1)).await;
            seconds += 1;
            let frame = Frame {
                elapsed: clock.elapsed() - started,
                second: traffic.second(),
                total: traffic.totals().acknowledged,
                pages: top_pages(client).await?,
                notes: &notes,
                http,
                postgres,
            };
            screen.draw(&frame)?;
        }
        Ok(())
    }
}

/// Starts the instance, on other ports where the usual ones are taken; and what to say about that.
async fn start(config: &mut Config) -> Failed<(Instance, Vec<String>)> {
    let mut notes = Vec::new();
    let file = SqlFile {
        name: SQL_NAME.to_owned(),
        text: SQL.to_owned(),
    };
    let instance = loop {
        match Instance::start(config, std::slice::from_ref(&file)).await {
            Ok(instance) => break instance,
            Err(StartError::Listen { key, address, .. }) if address.port() != 0 => {
                let any = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
                match key {
                    "http.listen" => config.http.listen = any,
                    "grpc.listen" => config.grpc.listen = any,
                    _ => config.postgres.listen = any,
                }
                notes.push(format!("{address} is in use, so {key} is another port"));
            }
            Err(error) => return Err(refused(error)),
        }
    };
    Ok((instance, notes))
}

/// The most visited pages, as anybody would ask for them.
async fn top_pages(client: &Client) -> Failed<Vec<Page>> {
    let request = client
        .get(&["v1", "views", "top_pages"])
        .query(&[("order", "-clicks"), ("limit", TOP_PAGES)]);
    let response = client.answer(request).await?;
    if !response.status().is_success() {
        return Err(Failure::failed(client.problem(response).await.render("")));
    }
    let text = response.text().await.map_err(|error| client.unreachable(&error))?;
    serde_json::from_str(&text).map_err(|error| Failure::failed(error.to_string()))
}
