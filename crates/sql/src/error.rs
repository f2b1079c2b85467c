//! What is wrong with a statement, where, and what to do about it.

mod translate;

use std::fmt::{self, Write};

use crate::statement::Source;

pub(crate) use translate::{find, translate};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.line())]
pub struct SqlError {
    pub kind: Kind,
    /// One sentence, without its full stop.
    pub message: String,
    pub place: Option<Place>,
    /// What to write instead, or what to look at.
    pub hint: Option<String>,
    pub sqlstate: &'static str,
}

/// Whose fault it is, and of which sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Syntax,
    UnknownColumn,
    UnknownObject,
    UnknownFunction,
    Ambiguous,
    Type,
    Invalid,
    Exists,
    Dependents,
    Unsupported,
    /// A fault of Headwater.
    Internal,
}

/// Where in the text: lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub line: u64,
    pub column: u64,
    /// The offending text.
    pub text: String,
}

pub type Result<T> = std::result::Result<T, SqlError>;

impl Kind {
    pub fn sqlstate(self) -> &'static str {
        match self {
            Self::Syntax => "42601",
            Self::UnknownColumn => "42703",
            Self::UnknownObject => "42P01",
            Self::UnknownFunction => "42883",
            Self::Ambiguous => "42702",
            Self::Type => "42804",
            Self::Invalid => "22023",
            Self::Exists => "42P07",
            Self::Dependents => "2BP01",
            Self::Unsupported => "0A000",
            Self::Internal => "XX000",
        }
    }
}

impl SqlError {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            place: None,
            hint: None,
            sqlstate: kind.sqlstate(),
        }
    }

    pub fn syntax(message: impl Into<String>) -> Self {
        Self::new(Kind::Syntax, message)
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    #[must_use]
    pub fn at(mut self, place: impl Into<Option<Place>>) -> Self {
        self.place = place.into().or(self.place);
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds `; did you mean …?` where there is a likely candidate.
    #[must_use]
    pub fn did_you_mean(mut self, candidate: Option<&str>) -> Self {
        if let Some(candidate) = candidate {
            let _ = write!(self.message, "; did you mean {candidate}?");
        }
        self
    }

    /// For people: the message, the line of `text` that it is about with a caret below the
    /// offending text, and the hint. `file` is what the text is called.
    pub fn render(&self, file: &str, text: &str) -> String {
        let mut out = format!("error: {}\n", self.message);
        if let Some(place) = &self.place {
            let line = text
                .lines()
                .nth(place.line.saturating_sub(1) as usize)
                .unwrap_or_default();
            let number = place.line.to_string();
            let margin = " ".repeat(number.len());
            let before: String = line.chars().take(place.column.saturating_sub(1) as usize).collect();
            // Tabs stay tabs, so that the caret stands below the text wherever the terminal puts it.
            let indent: String = before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let rest = line.chars().count().saturating_sub(before.chars().count());
            let first = place.text.lines().next().unwrap_or_default();
            let carets = "^".repeat(first.chars().count().clamp(1, rest.max(1)));
            let _ = writeln!(out, "{margin}--> {file}:{}:{}", place.line, place.column);
            let _ = writeln!(out, "{margin} |\n{number} | {line}\n{margin} | {indent}{carets}");
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(out, "hint: {hint}");
        }
        out
    }

    /// The error in one line, without the hint.
    fn line(&self) -> String {
        match &self.place {
            Some(place) => format!("line {}, column {}: {}", place.line, place.column, self.message),
            None => self.message.clone(),
        }
    }

    /// Places an error that has no place yet at the statement's beginning.
    #[must_use]
    pub(crate) fn or_at_start(mut self, source: &Source) -> Self {
        self.place = self.place.or_else(|| Some(source.start()));
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_shown_below_its_line() {
        let place = Place {
            line: 2,
            column: 3,
            text: "pge_url".to_owned(),
        };
        let error = SqlError::new(Kind::UnknownColumn, "there is no column 'pge_url' in clicks")
            .did_you_mean(Some("page_url"))
            .at(place)
            .hint("look at DESCRIBE clicks");
        assert_eq!(
            error.render("f.sql", "SELECT\n\t pge_url\nFROM clicks"),
            "error: there is no column 'pge_url' in clicks; did you mean page_url?\n --> f.sql:2:3\n  |\n2 | \t pge_url\n  | \t ^^^^^^^\nhint: look at DESCRIBE clicks\n"
        );
        assert_eq!(error.sqlstate, "42703");
        assert!(error.to_string().starts_with("line 2, column 3: there is no column"));
    }
}
