//! What the prompt knows while one types: when a statement is finished, and which words may follow.

use std::borrow::Cow;
use std::sync::Arc;

use parking_lot::RwLock;
use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper};
use serde_json::Value;

const KEYWORDS: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "HAVING",
    "ORDER BY",
    "LIMIT",
    "OFFSET",
    "JOIN",
    "LEFT JOIN",
    "ON",
    "AS",
    "AND",
    "OR",
    "NOT",
    "NULL",
    "IS",
    "IN",
    "LIKE",
    "BETWEEN",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "DISTINCT",
    "UNION ALL",
    "WITH",
    "EMIT CHANGES",
    "TUMBLE",
    "HOP",
    "INTERVAL",
    "CREATE STREAM",
    "CREATE MATERIALIZED VIEW",
    "CREATE SOURCE",
    "CREATE SINK",
    "CREATE TABLE",
    "CREATE OR REPLACE",
    "DROP STREAM",
    "DROP VIEW",
    "DROP SOURCE",
    "DROP SINK",
    "DROP TABLE",
    "CASCADE",
    "IF EXISTS",
    "IF NOT EXISTS",
    "WATERMARK FOR",
    "PARTITION BY",
    "INSERT INTO",
    "VALUES",
    "SHOW STREAMS",
    "SHOW VIEWS",
    "SHOW SOURCES",
    "SHOW SINKS",
    "SHOW TABLES",
    "DESCRIBE",
    "EXPLAIN",
    "FOR SYSTEM_TIME AS OF",
    "TEXT",
    "BIGINT",
    "INT",
    "DOUBLE",
    "BOOLEAN",
    "TIMESTAMP",
    "JSON",
    "count(*)",
    "sum(",
    "avg(",
    "min(",
    "max(",
    "now()",
    "uuid()",
];

/// The names of streams, views, sources, sinks and columns, as of the last look.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<RwLock<Vec<String>>>);

#[derive(Debug, Helper)]
pub struct SqlHelper {
    pub names: Names,
}

impl Names {
    /// Takes them from an answer of `/v1/catalog`.
    pub fn learn(&self, catalog: &Value) {
        let objects = ["streams", "views", "sources", "sinks"]
            .into_iter()
            .flat_map(|kind| catalog[kind].as_array().into_iter().flatten());
        let mut names: Vec<String> = Vec::new();
        for object in objects {
            let columns = object["columns"].as_array().into_iter().flatten();
            let all = std::iter::once(object)
                .chain(columns)
                .filter_map(|named| named["name"].as_str());
            names.extend(all.map(str::to_owned));
        }
        names.sort();
        names.dedup();
        *self.0.write() = names;
    }

    /// What `word` may become: names first, then keywords in the case that is being typed.
    fn matching(&self, word: &str) -> Vec<String> {
        let names = self.0.read();
        let typed = word.to_lowercase();
        let mut found: Vec<String> = names
            .iter()
            .filter(|name| name.to_lowercase().starts_with(&typed))
            .cloned()
            .collect();
        let lower = word.chars().any(char::is_lowercase);
        let keywords = KEYWORDS
            .iter()
            .filter(|keyword| keyword.to_lowercase().starts_with(&typed));
        found.extend(keywords.map(|keyword| {
            if lower {
                keyword.to_lowercase()
            } else {
                (*keyword).to_owned()
            }
        }));
        found
    }
}

/// Whether the text is a command of the prompt, or ends with a `;` that isn't quoted or in a comment.
pub fn is_finished(text: &str) -> bool {
    let trimmed = text.trim();
    if trimmed.is_empty() || trimmed.starts_with('\\') || matches!(trimmed, "help" | "quit" | "exit") {
        return true;
    }
    let mut last = ' ';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                // A doubled quote ends one quoted text and begins another.
                if !chars.by_ref().any(|inner| inner == c) {
                    return false;
                }
                last = c;
            }
            '-' if chars.peek() == Some(&'-') => {
                let _ = chars.by_ref().find(|inner| *inner == '\n');
            }
            '/' if chars.peek() == Some(&'*') => {
                let mut before = ' ';
                let closed = chars
                    .by_ref()
                    .skip(1)
                    .any(|inner| std::mem::replace(&mut before, inner) == '*' && inner == '/');
                if !closed {
                    return false;
                }
            }
            c if c.is_whitespace() => {}
            c => last = c,
        }
    }
    last == ';'
}

impl Validator for SqlHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match is_finished(context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Completer for SqlHelper {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let before = &line[..position];
        let start = before
            .rfind(|c: char| !c.is_alphanumeric() && c != '_')
            .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        let word = &before[start..];
        let found = if word.is_empty() {
            Vec::new()
        } else {
            self.names.matching(word)
        };
        Ok((start, found))
    }
}

impl Highlighter for SqlHelper {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        Cow::Owned(format!("\x1b[1m{prompt}\x1b[0m"))
    }
}

impl Hinter for SqlHelper {
    type Hint = String;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_statement_ends_with_its_semicolon() {
        assert!(is_finished("SELECT 1;"));
        assert!(is_finished("SELECT 1; -- done"));
        assert!(is_finished("SELECT ';' /* ; */ ;\n"));
        assert!(is_finished("\\dt") && is_finished("help") && is_finished("  "));
        assert!(!is_finished("SELECT 1"));
        assert!(!is_finished("SELECT ';"));
        assert!(!is_finished("SELECT 1 -- ;"));
        assert!(!is_finished("SELECT 1; /* "));
        assert!(!is_finished("SELECT 'it''s;'"));
    }

    #[test]
    fn names_come_before_keywords() {
        let names = Names::default();
        names.learn(&json!({"streams": [{"name": "selected", "columns": [{"name": "seller"}]}], "views": []}));
        assert_eq!(names.matching("sel"), ["selected", "seller", "select"]);
        assert_eq!(names.matching("SELE"), ["selected", "SELECT"]);
    }
}
