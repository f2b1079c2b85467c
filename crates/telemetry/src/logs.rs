//! Log lines on standard error: text for people, JSON for programs.
//!
//! Both forms carry the fields of the spans that a line was written in, so that the id of the
//! request that caused it stands in each. What libraries say of their own affairs is left out
//! unless the filter names them.

use std::io::{self, IsTerminal};

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

/// Libraries that tell of their daily work at the level `info`: warnings are enough.
const QUIET: [&str; 2] = ["fjall=warn", "lsm_tree=warn"];

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    #[error("log level '{level}' is not valid ({source}); use error, warn, info, debug, trace, or module=level,…")]
    Level { level: String, source: ParseError },
    #[error("log lines go somewhere else already: {0}")]
    Installed(#[from] TryInitError),
}

/// Sends the process's log lines to standard error. `level` is a word, or a list of `module=level`.
pub fn init(format: Format, level: &str) -> Result<(), LogsError> {
    let filter = filter(level)?;
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        Format::Text => fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
            .boxed(),
        Format::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .with_writer(io::stderr)
            .boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init()?;
    Ok(())
}

fn filter(level: &str) -> Result<EnvFilter, LogsError> {
    let parse = |text: &str| {
        EnvFilter::try_new(text).map_err(|source| LogsError::Level {
            level: level.to_owned(),
            source,
        })
    };
    let filter = parse(level)?;
    if filter.max_level_hint() <= Some(LevelFilter::WARN) {
        return Ok(filter);
    }
    // Of two directives for one library the later counts, so the user's goes before ours.
    parse(&format!("{},{level}", QUIET.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_words_or_lists() {
        assert!(filter("info").is_ok());
        assert!(filter("warn,headwater_gateway=debug").is_ok());
        assert!(filter("off").is_ok());
        let error = filter("headwater=loud").unwrap_err();
        assert!(error.to_string().contains("headwater=loud"), "{error}");
    }

    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        let text = |level| filter(level).unwrap().to_string();
        assert!(text("info").contains("lsm_tree=warn"), "{}", text("info"));
        let named = text("info,lsm_tree=debug");
        assert!(
            named.contains("lsm_tree=debug") && !named.contains("lsm_tree=warn"),
            "{named}"
        );
        assert!(!text("error").contains("warn"), "what is set to less stays so");
    }
}
