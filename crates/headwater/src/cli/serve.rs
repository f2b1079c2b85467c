//! `headwater serve`: the server, until it is told to stop.

use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::failure::{Failed, Failure};
use crate::cli::output;
use crate::cli::welcome::{self, Doors};
use crate::config::Config;
use crate::config::layers::Layers;
use crate::files::SqlFile;
use crate::instance::{Instance, StartError, read_files};
use crate::storage;

/// Run the server
///
/// Every key of the configuration can stand in the file, in the environment as
/// HEADWATER_SECTION__KEY, or in --set; the last of these wins.
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// Files of statements to apply at the start; what is there already stays
    files: Vec<PathBuf>,
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// The arguments that make a configuration.
#[derive(Debug, Default, clap::Args)]
pub struct ConfigArgs {
    /// The configuration; headwater.toml unless given, if it is there
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where everything durable is kept: the same as --set data.directory=DIR
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// What this process does of gateway,processor,query,sinks: the same as --set cluster.roles=…
    #[arg(long, value_name = "ROLES")]
    pub roles: Option<String>,
    /// Sets one key of the configuration, such as http.listen=127.0.0.1:9000; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Log lines for people or for programs: the same as --set telemetry.log_format=…
    #[arg(long, value_parser = ["text", "json"])]
    pub log_format: Option<String>,
}

impl Serve {
    pub async fn run(self) -> Failed {
        let config = self.config.load()?;
        start_logs(&config)?;
        let files = read_files(&self.files).map_err(|error| Failure::usage(error.to_string()))?;
        let mut signals = Signals::listen()?;
        let instance = tokio::select! {
            instance = start(&config, &files) => instance?,
            () = signals.received() => return Ok(()),
        };
        let doors = Doors {
            http: instance.http,
            postgres: instance.postgres,
            grpc: instance.grpc,
        };
        let text = welcome::text(doors, &instance.core.catalog.snapshot());
        output::line(&format!(
            "{text}\n\nCtrl-C stops it; everything is kept {}",
            storage::place(&config)
        ))?;
        signals.received().await;
        eprintln!("stopping; once more ends it at once");
        tokio::select! {
            () = instance.stop() => Ok(()),
            () = signals.received() => Err(Failure::interrupted()),
        }
    }
}

impl ConfigArgs {
    /// What the file, the environment and these arguments come to.
    pub fn load(&self) -> Failed<Config> {
        let mut sets = self.set.clone();
        sets.extend(
            self.data
                .iter()
                .map(|directory| format!("data.directory={}", directory.display())),
        );
        sets.extend(self.roles.iter().map(|roles| format!("cluster.roles={roles}")));
        sets.extend(
            self.log_format
                .iter()
                .map(|format| format!("telemetry.log_format={format}")),
        );
        let layers = Layers::of_process(self.config.clone(), sets);
        Config::load(&layers).map_err(|error| Failure::usage(error.to_string()))
    }
}

/// Starts an instance and applies the files to it.
pub async fn start(config: &Config, files: &[SqlFile]) -> Failed<Instance> {
    Instance::start(config, files).await.map_err(refused)
}

pub fn start_logs(config: &Config) -> Failed {
    let telemetry = &config.telemetry;
    let started = headwater_telemetry::logs::init(telemetry.log_format, &telemetry.log_level);
    started.map_err(|error| Failure::usage(error.to_string()))
}

/// SQL that is refused has been tried; everything else is for the user to mend first.
pub fn refused(error: StartError) -> Failure {
    match error {
        StartError::Sql(text) => Failure::failed(text.trim_end().trim_start_matches("error: ")),
        other => Failure::usage(other.to_string()),
    }
}

/// What asks a process to end.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub fn listen() -> Failed<Self> {
        let listen = |kind| signal(kind).map_err(|error| Failure::failed(format!("can't listen for signals: {error}")));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Returns at the next SIGINT or SIGTERM.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
