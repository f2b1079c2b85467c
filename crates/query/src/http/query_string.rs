//! The parameters of a request, `a=1&b=two%20words`, without a copy where there is nothing to decode.

use std::borrow::Cow;

use headwater_catalog::snapshot::nearest;
use headwater_problem::{Problem, ProblemKind};

/// More parameters than a route could use are refused.
const PARAMETERS_MAX: usize = 100;

/// Names and values, in the order of the request.
pub type Parameters<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

pub fn parse(query: &str) -> Result<Parameters<'_>, Problem> {
    let mut parameters = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        if parameters.len() == PARAMETERS_MAX {
            return Err(invalid(format!("there are more than {PARAMETERS_MAX} parameters")));
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        parameters.push((decode(name)?, decode(value)?));
    }
    Ok(parameters)
}

/// The problem of a parameter that nobody asked for.
pub fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Problem {
    let problem = Problem::new(
        ProblemKind::UnknownParameter,
        format!("there is no parameter '{name}' here"),
    );
    match nearest(name, known.clone()) {
        Some(nearest) => problem.hint(format!("did you mean '{nearest}'?")),
        None => problem.hint(format!("there are: {}", known.collect::<Vec<_>>().join(", "))),
    }
}

/// A whole number, for `limit` and the like.
pub fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Problem> {
    value
        .parse()
        .map_err(|_| invalid(format!("'{name}' must be a whole number, found '{value}'")))
}

pub fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::InvalidQuery, detail)
}

fn decode(text: &str) -> Result<Cow<'_, str>, Problem> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Ok(Cow::Borrowed(text));
    }
    let wrong = || invalid(format!("'{text}' is not correctly percent-encoded UTF-8"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = rest.next().and_then(hex).ok_or_else(wrong)?;
                let low = rest.next().and_then(hex).ok_or_else(wrong)?;
                high << 4 | low
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| wrong())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_decoded() {
        let found = parse("user_id=u1&page=%2Fa+b%C3%A9&&flag").unwrap();
        let found: Vec<_> = found.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(found, [("user_id", "u1"), ("page", "/a bé"), ("flag", "")]);
    }

    #[test]
    fn bad_encoding_is_refused() {
        for wrong in ["a=%", "a=%4", "a=%zz", "a=%ff"] {
            assert_eq!(parse(wrong).unwrap_err().kind, ProblemKind::InvalidQuery, "{wrong}");
        }
        assert!(parse(&"a=1&".repeat(101)).is_err());
    }
}
