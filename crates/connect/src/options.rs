//! The options of a source, a sink or a table: read one after the other by its connector, and those that nobody has
//! read are unknown.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::str::FromStr;

use headwater_catalog::snapshot::nearest;
use headwater_event::clock::Micros;
use headwater_schema::{calendar, size, span};

/// What is wrong with the definition of a source, a sink or a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub about: About,
    pub message: String,
    /// What was probably meant.
    pub near: Option<String>,
    pub hint: Option<String>,
}

/// The part of the statement that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// The value of an option.
    Option(String),
    /// An option that is not known.
    Key(String),
    Format,
    /// What a source writes into, or a sink reads.
    Stream,
    /// A column of a table.
    Column(String),
    /// Something isn't there.
    Statement,
}

/// `WITH (…)`, as the connector reads it.
#[derive(Debug)]
pub struct Options<'a> {
    values: &'a BTreeMap<String, String>,
    /// What was asked for so far.
    known: Vec<String>,
}

impl Refusal {
    pub fn new(about: About, message: impl Into<String>) -> Self {
        Self {
            about,
            message: message.into(),
            near: None,
            hint: None,
        }
    }

    /// "the option rate is a whole number from 1 on"
    pub fn option(name: &str, expected: &str) -> Self {
        Self::new(
            About::Option(name.to_owned()),
            format!("the option {name} is {expected}"),
        )
    }

    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    #[must_use]
    pub fn near(self, near: Option<&str>) -> Self {
        Self {
            near: near.map(str::to_owned),
            ..self
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        match &self.near {
            Some(near) => write!(f, "; did you mean {near}?"),
            None => Ok(()),
        }
    }
}

impl<'a> Options<'a> {
    pub fn new(values: &'a BTreeMap<String, String>) -> Self {
        Self {
            values,
            known: Vec::new(),
        }
    }

    pub fn text(&mut self, name: &str) -> Option<&'a str> {
        self.known.push(name.to_owned());
        self.values.get(name).map(String::as_str)
    }

    /// Whether there is an option that begins like this.
    pub fn any(&self, prefix: &str) -> bool {
        self.values.keys().any(|key| key.starts_with(prefix))
    }

    pub fn number<T: FromStr>(&mut self, name: &str, expected: &str) -> Result<Option<T>, Refusal> {
        let parse = |text: &str| text.parse().map_err(|_| Refusal::option(name, expected));
        self.text(name).map(parse).transpose()
    }

    /// Events a second.
    pub fn rate(&mut self) -> Result<Option<NonZeroU32>, Refusal> {
        self.number("rate", "a whole number of events a second, from 1 on")
    }

    /// After how many events it ends.
    pub fn events(&mut self) -> Result<Option<u64>, Refusal> {
        self.number("events", "the number of events after which it ends")
    }

    pub fn seed(&mut self) -> Result<u64, Refusal> {
        Ok(self.number("seed", "a whole number")?.unwrap_or(0))
    }

    pub fn time(&mut self, name: &str) -> Result<Option<Micros>, Refusal> {
        let parse = |text: &str| {
            calendar::parse_timestamp(text.as_bytes())
                .ok_or_else(|| Refusal::option(name, "a time like '2026-01-31T12:00:00Z'"))
        };
        self.text(name).map(parse).transpose()
    }

    pub fn span(&mut self, name: &str) -> Result<Option<Micros>, Refusal> {
        let parse = |text: &str| {
            span::parse(text).ok_or_else(|| Refusal::option(name, "a span of time like '5 seconds' or '20 ms'"))
        };
        self.text(name).map(parse).transpose()
    }

    pub fn bytes(&mut self, name: &str) -> Result<Option<u64>, Refusal> {
        let parse = |text: &str| {
            let bytes = size::parse(text).filter(|bytes| *bytes > 0);
            bytes.ok_or_else(|| Refusal::option(name, "a size like '64 MB'"))
        };
        self.text(name).map(parse).transpose()
    }

    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, Refusal> {
        self.number(name, "true or false")
    }

    /// One of these words; the first unless given.
    pub fn one_of<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Refusal> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*value));
        }
        let names: Vec<_> = words.iter().map(|(word, _)| format!("'{word}'")).collect();
        let near = nearest(text, words.iter().map(|(word, _)| *word));
        Err(Refusal::option(name, &names.join(" or ")).near(near))
    }

    /// Refuses what nobody has asked for.
    ///
    /// `whose` is for the message: "a source with the connector file".
    pub fn finish(self, whose: &str) -> Result<(), Refusal> {
        let Some(unknown) = self.values.keys().find(|key| !self.known.contains(key)) else {
            return Ok(());
        };
        let near = nearest(unknown, self.known.iter().map(String::as_str));
        let message = format!("{whose} has no option '{unknown}'");
        let mut known = self.known.clone();
        known.dedup();
        Err(Refusal::new(About::Key(unknown.clone()), message)
            .near(near)
            .hint(format!("its options are {}", known.join(", "))))
    }
}
