//! The prompt: reads statements until the end of input, and goes on after whatever goes wrong.

use std::path::PathBuf;

use rustyline::config::{CompletionType, Config};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Cmd, Editor, KeyCode, KeyEvent, Modifiers};

use crate::cli::client::Client;
use crate::cli::failure::{Failed, Failure};
use crate::cli::output::{self, Rows};
use crate::cli::sql::complete::{Names, SqlHelper};
use crate::cli::sql::execute::execute;

const HISTORY_LINES_MAX: usize = 10_000;

const HELP: &str = "\
Statements end with ';' and may take several lines. Tab completes keywords and names.
  \\d            streams and views          \\d NAME   columns of one
  \\dt           the same as \\d             \\q        quit (or Ctrl-D)
  SELECT …;                    a one-off query
  SELECT … EMIT CHANGES;       rows as they come; Ctrl-C returns to the prompt
  CREATE STREAM …;  CREATE MATERIALIZED VIEW … AS SELECT …;  DROP …;  INSERT INTO …;  EXPLAIN …;";

type Lines = Editor<SqlHelper, FileHistory>;

pub async fn run(client: Client, format: Rows) -> Failed {
    let names = Names::default();
    // Fails early where there is no server.
    names.learn(&client.catalog().await?);
    println(&format!(
        "headwater {} at {}; 'help' says what there is",
        env!("CARGO_PKG_VERSION"),
        client.base()
    ))?;
    let history = history();
    let mut lines = editor(names.clone(), history.as_ref()).map_err(|error| Failure::failed(error.to_string()))?;
    loop {
        // Reading a line blocks; the editor goes to a thread that may, and comes back.
        let read = tokio::task::spawn_blocking(move || {
            let line = lines.readline("headwater> ");
            (lines, line)
        });
        let (returned, line) = read.await.map_err(|error| Failure::failed(error.to_string()))?;
        lines = returned;
        match line {
            Ok(line) if line.trim().is_empty() => continue,
            Ok(line) => {
                remember(&mut lines, &line, history.as_ref());
                if !run_line(&client, &names, format, line.trim()).await {
                    return Ok(());
                }
            }
            // Ctrl-C leaves what was typed, Ctrl-D the prompt.
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(Failure::failed(error.to_string())),
        }
    }
}

/// Runs what was typed; whether to go on.
async fn run_line(client: &Client, names: &Names, format: Rows, line: &str) -> bool {
    let statement = match command(line) {
        Command::Quit => return false,
        Command::Help => {
            report(println(HELP));
            return true;
        }
        Command::Unknown => {
            eprintln!("'{line}' is not known; 'help' says what there is");
            return true;
        }
        Command::Statement(statement) => statement,
    };
    tokio::select! {
        result = execute(client, &statement, format) => report(result),
        _ = tokio::signal::ctrl_c() => eprintln!(),
    }
    // Whatever it was may have made or dropped something.
    if let Ok(catalog) = client.catalog().await {
        names.learn(&catalog);
    }
    true
}

enum Command {
    Statement(String),
    Help,
    Quit,
    Unknown,
}

fn command(line: &str) -> Command {
    let words: Vec<_> = line.trim_end_matches(';').split_whitespace().collect();
    match words.as_slice() {
        ["\\q" | "quit" | "exit"] => Command::Quit,
        ["help" | "\\?" | "\\h"] => Command::Help,
        ["\\d" | "\\dt"] => Command::Statement("SHOW TABLES".to_owned()),
        ["\\d", name] => Command::Statement(format!("DESCRIBE {name}")),
        [first, ..] if first.starts_with('\\') => Command::Unknown,
        _ => Command::Statement(line.to_owned()),
    }
}

fn editor(names: Names, history: Option<&PathBuf>) -> rustyline::Result<Lines> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .max_history_size(HISTORY_LINES_MAX)?;
    let mut lines = Lines::with_config(config.build())?;
    lines.set_helper(Some(SqlHelper { names }));
    // A new line without sending what is there.
    lines.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
    if let Some(history) = history {
        // The first time there is none.
        let _ = lines.load_history(history);
    }
    Ok(lines)
}

fn remember(lines: &mut Lines, line: &str, history: Option<&PathBuf>) {
    // A history that can't be kept is no reason to stop.
    let _ = lines.add_history_entry(line);
    if let Some(history) = history {
        let _ = lines.save_history(history);
    }
}

/// `$XDG_STATE_HOME/headwater/history`; `None` where there is no home.
fn history() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    let directory = state.join("headwater");
    std::fs::create_dir_all(&directory).ok()?;
    Some(directory.join("history"))
}

fn report(result: Failed) {
    if let Err(failure) = result {
        eprintln!("{}", failure.message);
    }
}

fn println(text: &str) -> Failed {
    Ok(output::line(text)?)
}
