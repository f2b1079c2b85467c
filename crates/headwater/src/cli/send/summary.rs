//! What became of an input: counts, and the refused events by reason with the first few lines each.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::cli::client::Item;
use crate::cli::output::grouped;
use crate::cli::send::split::Chunk;

/// Places that are told for each reason.
const PLACES_MAX: usize = 5;
/// Reasons that are told apart; the rest is one.
const REASONS_MAX: usize = 50;

#[derive(Debug, Default)]
pub struct Summary {
    accepted: u64,
    duplicates: u64,
    refused: u64,
    reasons: BTreeMap<String, Reason>,
}

#[derive(Debug, Default)]
struct Reason {
    count: u64,
    lines: Vec<u64>,
    example: String,
}

impl Summary {
    pub fn stored(&mut self, accepted: u64, duplicates: u64, rejected: u64) {
        self.accepted += accepted;
        self.duplicates += duplicates;
        self.refused += rejected;
    }

    pub fn refuse(&mut self, count: u64) {
        self.refused += count;
    }

    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes in why events of a chunk were refused; the server tells the first of them.
    pub fn reasons(&mut self, chunk: &Chunk, items: &[Item]) {
        for item in items {
            let name = name_of(item);
            let known = self.reasons.contains_key(&name) || self.reasons.len() < REASONS_MAX;
            let reason = self
                .reasons
                .entry(if known { name } else { "other reasons".to_owned() })
                .or_default();
            reason.count += 1;
            if reason.example.is_empty() {
                reason.example.clone_from(&item.message);
            }
            let line = item.index.and_then(|index| chunk.lines.get(index));
            if let Some(line) = line.filter(|_| reason.lines.len() < PLACES_MAX) {
                reason.lines.push(*line);
            }
        }
    }

    pub fn text(&self, stream: &str, elapsed: Duration) -> String {
        let mut text = format!("{stream}: {} events accepted", grouped(self.accepted));
        if self.duplicates > 0 {
            text.push_str(&format!(
                ", {} there already and not stored again",
                grouped(self.duplicates)
            ));
        }
        text.push_str(&format!(", {} refused", grouped(self.refused)));
        if self.accepted > 0 {
            let seconds = elapsed.as_secs_f64().max(0.001);
            let rate = grouped((self.accepted as f64 / seconds) as u64);
            text.push_str(&format!(", in {seconds:.1} s ({rate} events/s)"));
        }
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, reason)| std::cmp::Reverse(reason.count));
        for (name, reason) in reasons {
            let what = if reason.count == 1 { &reason.example } else { name };
            text.push_str(&format!("\n  {:>7}  {}{what}", grouped(reason.count), places(reason)));
            if reason.count > 1 && reason.example != *name {
                text.push_str(&format!("; the first: {}", reason.example));
            }
        }
        let told: u64 = self.reasons.values().map(|reason| reason.count).sum();
        if told < self.refused {
            text.push_str(&format!(
                "\n  {:>7}  more; the server tells the first of each request",
                grouped(self.refused - told)
            ));
        }
        text
    }

    pub fn json(&self) -> String {
        let reasons = self.reasons.iter().map(|(name, reason)| {
            json!({"reason": name, "count": reason.count, "lines": reason.lines, "example": reason.example})
        });
        let reasons: Vec<_> = reasons.collect();
        let summary = json!({
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "refused": self.refused,
            "reasons": reasons,
        });
        summary.to_string()
    }
}

/// What errors of one kind have in common: the field and what was expected, not what was found.
fn name_of(item: &Item) -> String {
    match (&item.field, &item.expected) {
        (Some(field), Some(expected)) => format!("{field}: expected {expected}"),
        (None, Some(expected)) => format!("expected {expected}"),
        _ => item.message.clone(),
    }
}

/// The lines, as many as are remembered: `line 3`, `lines 3, 8, …`.
fn places(reason: &Reason) -> String {
    let lines: Vec<_> = reason.lines.iter().map(u64::to_string).collect();
    let more = if reason.count > lines.len() as u64 { ", …" } else { "" };
    let word = if reason.count == 1 { "line" } else { "lines" };
    match lines.is_empty() {
        true => String::new(),
        false => format!("{word} {}{more}: ", lines.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_grouped_with_the_lines_of_the_input() {
        let chunk = Chunk {
            lines: (11..=20).collect(),
            ..Chunk::default()
        };
        let item = |index, found: &str| Item {
            index: Some(index),
            field: Some("n".to_owned()),
            expected: Some("BIGINT".to_owned()),
            message: format!("n must be BIGINT, found {found}"),
            ..Item::default()
        };
        let mut summary = Summary::default();
        summary.stored(7, 2, 3);
        summary.reasons(&chunk, &[item(0, "'a'"), item(4, "'b'")]);
        let text = summary.text("events", Duration::from_secs(1));
        assert!(text.contains("7 events accepted, 2 there already"), "{text}");
        assert!(
            text.contains("2  lines 11, 15: n: expected BIGINT; the first: n must be BIGINT, found 'a'"),
            "{text}"
        );
        assert!(text.contains("1  more"), "{text}");
        assert!(summary.json().contains("\"refused\":3"));
    }
}
