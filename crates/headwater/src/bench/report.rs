//! What a benchmark found: named figures, as a table for people or as JSON for programs.

use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde_json::Value;

/// One line of a report: what was measured, and its figures in the order of the report's columns.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What tells this line from others.
    labels: Vec<(&'static str, String)>,
    figures: Vec<(&'static str, f64)>,
    /// What there is to say instead of figures.
    note: Option<String>,
}

impl Measured {
    pub fn new(name: impl Into<String>) -> Self {
        Self::of([("measured", name.into())])
    }

    pub fn of(labels: impl Into<Vec<(&'static str, String)>>) -> Self {
        Self {
            labels: labels.into(),
            figures: Vec::new(),
            note: None,
        }
    }

    #[must_use]
    pub fn note(self, note: String) -> Self {
        Self {
            note: Some(note),
            ..self
        }
    }

    #[must_use]
    pub fn figure(mut self, name: &'static str, value: f64) -> Self {
        self.figures.push((name, value));
        self
    }
}

/// A table with a line for each measurement; figures that a line lacks stay empty.
pub fn table(measured: &[Measured]) -> String {
    let labels = names(measured.iter().flat_map(|line| &line.labels));
    let figures = names(measured.iter().flat_map(|line| &line.figures));
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    let header = labels.iter().chain(&figures);
    table.set_header(header.map(|name| name.replace('_', " ").replace(" per ", "/")));
    for line in measured {
        let told = labels.iter().map(|name| cell(&line.labels, name, String::clone));
        let found = figures
            .iter()
            .map(|name| cell(&line.figures, name, |value| for_people(*value)));
        let note = line.note.iter().cloned();
        table.add_row(told.chain(found).chain(note));
    }
    for column in table.column_iter_mut().skip(labels.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// In the order in which they come first.
fn names<'a, T: 'a>(named: impl Iterator<Item = &'a (&'static str, T)>) -> Vec<&'static str> {
    let mut names = Vec::new();
    for (name, _) in named {
        if !names.contains(name) {
            names.push(name);
        }
    }
    names
}

fn cell<T>(named: &[(&str, T)], wanted: &str, shown: impl Fn(&T) -> String) -> String {
    let found = named.iter().find(|(name, _)| *name == wanted);
    found.map(|(_, value)| shown(value)).unwrap_or_default()
}

/// An array of objects.
pub fn json(measured: &[Measured]) -> String {
    let lines = measured.iter().map(|line| {
        let labels = line
            .labels
            .iter()
            .map(|(name, text)| ((*name).to_owned(), Value::from(text.clone())));
        let figures = line
            .figures
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value::from(*value)));
        let note = line
            .note
            .iter()
            .map(|note| ("note".to_owned(), Value::from(note.clone())));
        Value::Object(labels.chain(figures).chain(note).collect())
    });
    Value::Array(lines.collect()).to_string()
}

/// The value below which `percent` of the samples are, in milliseconds. Sorts the samples.
pub fn percentile_ms(samples: &mut [Duration], percent: f64) -> f64 {
    if samples.is_empty() {
        return f64::NAN;
    }
    samples.sort_unstable();
    let rank = (percent / 100.0 * (samples.len() - 1) as f64).round() as usize;
    samples[rank].as_secs_f64() * 1000.0
}

/// Three or four digits that matter, thousands apart.
fn for_people(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{value:.3}");
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) && digits.as_bytes()[place - 1] != b'-' {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_readable() {
        assert_eq!(for_people(1_234_567.8), "1,234,568");
        assert_eq!(for_people(-1234.0), "-1,234");
        assert_eq!(for_people(0.123_45), "0.123");
    }

    #[test]
    fn percentiles_are_of_the_sorted_samples() {
        let mut samples: Vec<_> = (1..=101).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile_ms(&mut samples, 50.0), 51.0);
        assert_eq!(percentile_ms(&mut samples, 100.0), 101.0);
    }
}
