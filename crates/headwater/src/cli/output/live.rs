//! Rows that have no end: written one by one, as they come.

use std::io::IsTerminal;

use crate::cli::failure::{Failed, Failure};
use crate::cli::output::{self, Column, Row, Rows};

/// Writes rows as they come.
pub struct Printer {
    pub format: Rows,
    /// Of the last row, so that a header is written when they change.
    columns: Vec<Column>,
}

impl Printer {
    pub fn new(format: Rows) -> Self {
        Self {
            format,
            columns: Vec::new(),
        }
    }

    /// A row as the JSON object that it came as.
    pub fn print(&mut self, data: &str) -> Failed {
        let row = serde_json::from_str(data);
        let row = row.map_err(|error| Failure::failed(format!("the server sent what can't be read: {error}")))?;
        self.row(&row)
    }

    pub fn row(&mut self, row: &Row) -> Failed {
        let text = match self.format {
            Rows::Json => output::json(row),
            Rows::Csv => {
                let columns = output::columns_of(row);
                if columns != self.columns {
                    output::line(&output::csv_header(&columns))?;
                    self.columns = columns;
                }
                output::csv(&self.columns, row)
            }
            Rows::Table => {
                let fields = row
                    .0
                    .iter()
                    .map(|(name, value)| format!("\x1b[2m{name}\x1b[0m {}", output::shown(value.get())));
                let text = fields.collect::<Vec<_>>().join("  ");
                match std::io::stdout().is_terminal() {
                    true => text,
                    false => without_colour(&text),
                }
            }
        };
        Ok(output::line(&text)?)
    }
}

fn without_colour(text: &str) -> String {
    text.replace("\x1b[2m", "").replace("\x1b[0m", "")
}
