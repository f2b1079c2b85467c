//! `headwater sql`: ask a server, one statement or many, or at a prompt.

mod complete;
mod execute;
mod prompt;

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use crate::cli::client::{Client, ServerUrl};
use crate::cli::failure::{Failed, Failure};
use crate::cli::output::Rows;
use crate::cli::sql::execute::execute;

/// Ask with SQL: at a prompt, or with -c or -f
///
/// Rows come as a table for people, as one JSON object on each line, or as CSV with a header.
/// A SELECT … EMIT CHANGES goes on until Ctrl-C.
#[derive(Debug, clap::Args)]
pub struct Sql {
    /// Statements to run instead of the prompt
    #[arg(
        short = 'c',
        allow_hyphen_values = true,
        value_name = "STATEMENT",
        conflicts_with = "file"
    )]
    command: Option<String>,
    /// A file of statements to run instead of the prompt; it is applied as a whole or not at all
    #[arg(short = 'f', value_name = "FILE")]
    file: Option<PathBuf>,
    /// json is one object on each line
    #[arg(long, value_enum, default_value_t = Rows::Table)]
    format: Rows,
    #[command(flatten)]
    server: ServerUrl,
}

impl Sql {
    pub async fn run(self) -> Failed {
        let client = Client::new(&self.server)?;
        let text = match (&self.command, &self.file) {
            (Some(command), _) => command.clone(),
            (None, Some(file)) => read(file)?,
            (None, None) if std::io::stdin().is_terminal() => return prompt::run(client, self.format).await,
            (None, None) => read(Path::new("-"))?,
        };
        tokio::select! {
            result = execute(&client, &text, self.format) => result,
            _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
        }
    }
}

fn read(file: &Path) -> Failed<String> {
    let mut text = String::new();
    let read = match file == Path::new("-") {
        true => std::io::stdin().read_to_string(&mut text).map(|_| ()),
        false => std::fs::read_to_string(file).map(|content| text = content),
    };
    read.map_err(|error| Failure::usage(format!("can't read {}: {error}", file.display())))?;
    Ok(text)
}
