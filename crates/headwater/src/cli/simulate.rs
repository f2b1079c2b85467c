//! `headwater simulate`: events as they would come from real sources, at a steady rate.
//!
//! What happens is decided by [`clickstream`] from a seed and a clock; this file sends it and counts.

pub mod clickstream;
pub mod traffic;

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use headwater_event::clock::{Clock, SystemClock};
use tokio_util::sync::CancellationToken;

use crate::cli::client::{Client, ServerUrl};
use crate::cli::failure::{Failed, Failure};
use crate::cli::output::{self, grouped};
use crate::cli::simulate::clickstream::Clickstream;
use crate::cli::simulate::traffic::{Second, Traffic};

/// Send made-up events that look like real ones
#[derive(Debug, clap::Args)]
pub struct Simulate {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Clickstream(ClickstreamArgs),
}

/// Visitors of a shop, for the stream of examples/clickstream
#[derive(Debug, clap::Args)]
struct ClickstreamArgs {
    /// Events per second
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// How many different visitors there are
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
    /// The same seed makes the same visitors do the same; by the clock unless given
    #[arg(long)]
    seed: Option<u64>,
    /// The stream that takes the events
    #[arg(long, default_value = "clicks")]
    stream: String,
    /// Stop after so many seconds; else Ctrl-C stops it
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u32>,
    #[command(flatten)]
    server: ServerUrl,
}

impl Simulate {
    pub async fn run(self) -> Failed {
        match self.what {
            What::Clickstream(args) => args.run().await,
        }
    }
}

impl ClickstreamArgs {
    async fn run(self) -> Failed {
        let clock: Arc<dyn Clock> = SystemClock::new();
        let seed = self.seed.unwrap_or(clock.now() as u64);
        eprintln!(
            "seed {seed}: {} events/s of {} visitors; Ctrl-C stops",
            grouped(self.rate.into()),
            grouped(self.users.into())
        );
        let traffic = Traffic::new(
            Client::new(&self.server)?,
            Arc::clone(&clock),
            self.stream.clone(),
            self.rate,
        );
        let clicks = Clickstream::new(seed, self.users);
        let stop = CancellationToken::new();
        let sending = tokio::spawn(Arc::clone(&traffic).run(clicks, stop.clone()));
        let watched = self.watch(clock.as_ref(), &traffic);
        let ended = tokio::select! {
            said = watched => said,
            _ = tokio::signal::ctrl_c() => Ok(()),
            () = traffic.broken() => Ok(()),
        };
        stop.cancel();
        let sent = sending.await.map_err(|error| Failure::failed(error.to_string()))?;
        let totals = traffic.totals();
        output::line(&format!(
            "{} events acknowledged, {} refused, in {:.1} s",
            grouped(totals.acknowledged),
            grouped(totals.refused),
            clock.elapsed().as_secs_f64()
        ))?;
        ended.and(sent)
    }

    /// A line each second, or one that renews itself, until the time is up.
    async fn watch(&self, clock: &dyn Clock, traffic: &Traffic) -> Failed {
        let mut seconds = 0;
        while self.seconds.is_none_or(|end| seconds < end) {
            clock.sleep(Duration::from_secs(1)).await;
            seconds += 1;
            say(&line(&traffic.second()));
        }
        Ok(())
    }
}

/// On standard error: progress is no result.
fn say(text: &str) {
    match std::io::stderr().is_terminal() {
        true => eprint!("\r\x1b[K{text}"),
        false => eprintln!("{text}"),
    }
}

fn line(second: &Second) -> String {
    let mut text = format!("{:>9} events/s", grouped(second.acknowledged));
    if let Some((median, high)) = second.latency_ms {
        text.push_str(&format!(", durable after {median:.1} ms (p50) {high:.1} ms (p99)"));
    }
    if second.waiting > 0 {
        text.push_str(&format!(", {} behind", grouped(second.waiting)));
    }
    if second.refused > 0 {
        text.push_str(&format!(", {} refused", grouped(second.refused)));
    }
    text
}
