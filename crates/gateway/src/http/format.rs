//! What a body is: by its parameter, its Content-Type, or its first byte.

use headwater_problem::{Problem, ProblemKind};
use headwater_schema::decode::{Format, OnError};
use http::HeaderMap;
use http::header::CONTENT_TYPE;

/// The names of formats, as in `?format=`.
const FORMATS: [(&str, Format); 4] = [
    ("json", Format::Json),
    ("ndjson", Format::NdJson),
    ("csv", Format::Csv),
    ("combined_log", Format::CombinedLog),
];

/// The Content-Types.
const TYPES: [(&str, Format); 6] = [
    ("application/json", Format::Json),
    ("application/x-ndjson", Format::NdJson),
    ("application/ndjson", Format::NdJson),
    ("application/jsonl", Format::NdJson),
    ("text/csv", Format::Csv),
    ("text/x-combined-log", Format::CombinedLog),
];

/// What curl says of any body that it isn't told about.
const FORM: &str = "application/x-www-form-urlencoded";

/// The query of the request's address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameters {
    pub format: Option<Format>,
    pub on_error: OnError,
}

/// What the request says about its body.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Declared {
    Format(Format),
    /// Nothing that helps: JSON, if it begins like it.
    Unsaid,
}

impl Parameters {
    pub fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let mut parameters = Self {
            format: None,
            on_error: OnError::Reject,
        };
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "format" => parameters.format = Some(by_name(value)?),
                "on_error" => parameters.on_error = on_error(value)?,
                _ => return Err(unknown_parameter(name)),
            }
        }
        Ok(parameters)
    }
}

/// What the parameter or else the headers say.
pub fn declared(headers: &HeaderMap, parameter: Option<Format>) -> Result<Declared, Problem> {
    if let Some(format) = parameter {
        return Ok(Declared::Format(format));
    }
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return Ok(Declared::Unsaid);
    };
    let content_type = content_type.to_str().unwrap_or("(not text)");
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case(FORM) {
        return Ok(Declared::Unsaid);
    }
    let known = TYPES.iter().find(|(name, _)| media_type.eq_ignore_ascii_case(name));
    known
        .map(|&(_, format)| Declared::Format(format))
        .ok_or_else(|| unknown_type(&format!("the Content-Type '{content_type}' is not known")))
}

impl Declared {
    /// The format of the body.
    pub fn of(self, body: &[u8]) -> Result<Format, Problem> {
        match self {
            Self::Format(format) => Ok(format),
            Self::Unsaid => sniff(body).ok_or_else(|| unknown_type("the body does not look like JSON")),
        }
    }
}

/// An array, or objects one after the other: one of them, in most cases.
fn sniff(body: &[u8]) -> Option<Format> {
    match body.trim_ascii_start().first()? {
        b'[' => Some(Format::Json),
        b'{' => Some(Format::NdJson),
        _ => None,
    }
}

fn by_name(name: &str) -> Result<Format, Problem> {
    let known = FORMATS.iter().find(|(known, _)| *known == name);
    known.map(|&(_, format)| format).ok_or_else(|| {
        let names: Vec<_> = FORMATS.iter().map(|(name, _)| *name).collect();
        Problem::new(ProblemKind::InvalidQuery, format!("there is no format '{name}'"))
            .hint(format!("the formats are {}", names.join(", ")))
    })
}

fn on_error(value: &str) -> Result<OnError, Problem> {
    match value {
        "reject" => Ok(OnError::Reject),
        "dead_letter" => Ok(OnError::Collect),
        _ => Err(
            Problem::new(ProblemKind::InvalidQuery, format!("on_error can't be '{value}'"))
                .hint("on_error is reject (nothing is stored if an event is bad) or dead_letter"),
        ),
    }
}

fn unknown_parameter(name: &str) -> Problem {
    Problem::new(
        ProblemKind::UnknownParameter,
        format!("there is no parameter '{name}' here"),
    )
    .hint("the parameters are format and on_error")
}

fn unknown_type(detail: &str) -> Problem {
    let types: Vec<_> = TYPES.iter().map(|(name, _)| *name).collect();
    Problem::new(ProblemKind::UnknownContentType, detail)
        .hint(format!("send one of {}, or say ?format=", types.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(content_type: Option<&'static str>, body: &str) -> Result<Format, ProblemKind> {
        let mut headers = HeaderMap::new();
        if let Some(content_type) = content_type {
            headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
        }
        let declared = declared(&headers, None).map_err(|problem| problem.kind)?;
        declared.of(body.as_bytes()).map_err(|problem| problem.kind)
    }

    #[test]
    fn a_content_type_says_what_a_body_is() {
        assert_eq!(format(Some("Application/JSON; charset=utf-8"), "1"), Ok(Format::Json));
        assert_eq!(format(Some("application/jsonl"), ""), Ok(Format::NdJson));
        assert_eq!(format(Some("text/csv"), ""), Ok(Format::Csv));
        assert_eq!(format(Some("text/x-combined-log"), ""), Ok(Format::CombinedLog));
        assert_eq!(format(Some("image/png"), "{}"), Err(ProblemKind::UnknownContentType));
    }

    #[test]
    fn what_curl_sends_is_json_if_it_looks_like_it() {
        assert_eq!(format(None, " [1]"), Ok(Format::Json));
        assert_eq!(format(Some(FORM), r#"{"a":1}"#), Ok(Format::NdJson));
        assert_eq!(format(Some(FORM), "a=1&b=2"), Err(ProblemKind::UnknownContentType));
    }

    #[test]
    fn parameters_are_known_or_refused() {
        let parsed = Parameters::parse(Some("format=csv&on_error=dead_letter")).unwrap();
        assert_eq!((parsed.format, parsed.on_error), (Some(Format::Csv), OnError::Collect));
        let kind = |query| Parameters::parse(Some(query)).unwrap_err().kind;
        assert_eq!(kind("fromat=csv"), ProblemKind::UnknownParameter);
        assert_eq!(kind("format=xml"), ProblemKind::InvalidQuery);
        assert_eq!(kind("on_error=ignore"), ProblemKind::InvalidQuery);
    }
}
