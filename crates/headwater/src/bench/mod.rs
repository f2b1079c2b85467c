//! `headwater bench`: the whole system, measured, each figure beside a peer or a limit where there
//! is one. What is measured and what the goals are is in `docs/benchmarks.md`.

mod ask;
mod connection;
mod events;
mod growth;
mod ingest;
mod queries;
mod report;
mod restart;
mod through;
mod usage;

use std::net::SocketAddr;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use headwater_event::clock::{Clock, SystemClock};

use crate::bench::report::Measured;
use crate::bench::through::Through;
use crate::cli::failure::{self, Failed};
use crate::config::Config;
use crate::instance::Instance;

/// Why a benchmark could not be carried out.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type BenchResult = Result<Vec<Measured>, Failure>;

/// Measures this build on this machine
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure; everything unless given
    what: Vec<What>,
    /// Events to work on
    #[arg(long, default_value_t = 2_000_000)]
    events: usize,
    /// Of NEXMark, only these queries: q0,q5
    #[arg(long, value_delimiter = ',')]
    queries: Vec<String>,
    /// Of NEXMark, where events and results are; both, one after the other, unless given
    #[arg(long, value_enum)]
    through: Option<Through>,
    /// Of NEXMark through Kafka, where that is
    #[arg(long, default_value = "localhost:9092")]
    brokers: String,
    /// Of NEXMark, threads that run the queries, and partitions of their streams
    #[arg(long, default_value_t = 2, value_parser = cores)]
    cores: usize,
    /// Of NEXMark, events a second at which latency is measured; 0 leaves it out
    #[arg(long, default_value_t = 20_000)]
    rate: u32,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Batched events over HTTP, beside arrow-json alone
    Ingest,
    /// One event a request, beside an echo
    Single,
    /// NEXMark's queries, through the log and in memory
    Nexmark,
    /// Windows over more and more keys, slides and partitions
    Growth,
    /// Point queries on a view
    Point,
    /// From sending to the live row
    Latency,
    /// Starting again with a large state
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// What all benchmarks need.
struct Bench {
    clock: Arc<dyn Clock>,
    events: usize,
    queries: Vec<String>,
    through: Option<Through>,
    brokers: String,
    cores: usize,
    rate: u32,
}

/// A server on free ports and a directory of its own.
struct Served {
    instance: Instance,
    _directory: tempfile::TempDir,
}

impl BenchArgs {
    pub async fn run(self) -> Failed {
        let bench = Bench {
            clock: SystemClock::new(),
            events: self.events,
            queries: self.queries,
            through: self.through,
            brokers: self.brokers,
            cores: self.cores,
            rate: self.rate,
        };
        let what = match self.what.is_empty() {
            true => What::value_variants().to_vec(),
            false => self.what,
        };
        let mut measured = Vec::new();
        for what in what {
            let name = what
                .to_possible_value()
                .map(|value| value.get_name().to_owned())
                .unwrap_or_default();
            eprintln!("measuring {name} …");
            let found = bench.measure(what).await;
            let found = found.map_err(|error| failure::Failure::failed(format!("{name}: {error}")))?;
            if self.format == Format::Table {
                crate::cli::output::line(&report::table(&found))?;
            }
            measured.extend(found);
        }
        if self.format == Format::Json {
            crate::cli::output::line(&report::json(&measured))?;
        }
        Ok(())
    }
}

impl Bench {
    async fn measure(&self, what: What) -> BenchResult {
        match what {
            What::Ingest => ingest::batched(self).await,
            What::Single => ingest::single(self).await,
            What::Nexmark => queries::nexmark(self).await,
            What::Growth => growth::growth(self).await,
            What::Point => ask::point(self).await,
            What::Latency => ask::latency(self).await,
            What::Restart => restart::restart(self).await,
        }
    }

    /// A server with `sql` applied.
    async fn serve(&self, sql: &str) -> Result<Served, Failure> {
        let directory = tempfile::tempdir()?;
        let config = config(directory.path());
        let instance = Instance::start(&config, &[]).await?;
        instance.core.execute(sql).await?;
        Ok(Served {
            instance,
            _directory: directory,
        })
    }
}

impl Served {
    fn address(&self) -> SocketAddr {
        // The configuration of a benchmark always has the HTTP door.
        self.instance
            .http
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    async fn stop(self) {
        self.instance.stop().await;
    }
}

fn cores(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=256).contains(number));
    number.ok_or_else(|| "a whole number from 1 to 256".to_owned())
}

fn config(directory: &std::path::Path) -> Config {
    let mut config = Config::default();
    config.data.directory = directory.to_owned();
    config.http.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    config.postgres.listen = None;
    config.grpc.listen = None;
    config
}
