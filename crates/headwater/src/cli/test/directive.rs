//! The statements that are the test runner's own.

use std::path::PathBuf;
use std::time::Duration;

use headwater_event::clock::Micros;
use headwater_schema::calendar;

use crate::config::units;

#[derive(Debug, PartialEq, Eq)]
pub enum Directive {
    AdvanceClock(Duration),
    SetClock(Micros),
    RunFile(PathBuf),
}

/// The directive that a text is, if it is one; an error if it is a wrong one.
pub fn parse(text: &str) -> Option<Result<Directive, String>> {
    let text = text.trim().trim_end_matches(';').trim_end();
    if let Some(rest) = after(text, &["ADVANCE", "CLOCK", "BY", "INTERVAL"]) {
        return Some(quoted(rest).and_then(interval).map(Directive::AdvanceClock));
    }
    if let Some(rest) = after(text, &["SET", "CLOCK", "TO"]) {
        return Some(quoted(rest).and_then(time).map(Directive::SetClock));
    }
    let rest = after(text, &["RUN", "FILE"])?;
    Some(quoted(rest).map(|file| Directive::RunFile(PathBuf::from(file))))
}

/// What follows these words.
fn after<'a>(text: &'a str, words: &[&str]) -> Option<&'a str> {
    words.iter().try_fold(text, |rest, word| {
        let rest = rest.trim_start();
        let (first, after) = rest.split_at_checked(word.len())?;
        let ends = after.starts_with(|c: char| c.is_whitespace() || c == '\'');
        (first.eq_ignore_ascii_case(word) && ends).then_some(after)
    })
}

fn quoted(text: &str) -> Result<&str, String> {
    let inner = text.trim().strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
    inner.ok_or_else(|| format!("expected a text in single quotes instead of {}", text.trim()))
}

fn interval(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|expected| format!("'{text}': {expected}"))
}

fn time(text: &str) -> Result<Micros, String> {
    let time = calendar::parse_timestamp(text.as_bytes());
    time.ok_or_else(|| format!("'{text}': expected a time, such as 2026-01-31T12:00:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_told_from_sql() {
        assert_eq!(
            parse("advance clock by interval '1 minute';"),
            Some(Ok(Directive::AdvanceClock(Duration::from_secs(60))))
        );
        assert_eq!(
            parse("SET CLOCK TO '1970-01-01T00:00:01Z'"),
            Some(Ok(Directive::SetClock(1_000_000)))
        );
        assert_eq!(parse("RUN FILE'a.sql'"), Some(Ok(Directive::RunFile("a.sql".into()))));
        assert_eq!(parse("SELECT 1"), None);
        assert_eq!(parse("SET CLOCKS TO 'x'"), None);
        assert!(
            parse("ADVANCE CLOCK BY INTERVAL 'soon'")
                .unwrap()
                .unwrap_err()
                .contains("expected a time")
        );
        assert!(parse("RUN FILE a.sql").unwrap().is_err());
    }
}
