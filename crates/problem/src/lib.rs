//! What went wrong, told to a program and a person at once: problem documents (RFC 9457).
//!
//! A [`Problem`] is an answer: it turns into a response with the content type
//! `application/problem+json`. Its `type` is stable: programs may compare it. The members beyond
//! the standard's are `errors` (the first [`ERRORS_MAX`]) with their `count`, `hint` (what to do) and
//! `request_id` (what to look for in the log).
//!
//! Knows the kinds of problems, and nothing of what causes them.

mod kind;

use axum_core::body::Body;
use axum_core::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use serde::{Serialize, Serializer};

pub use kind::ProblemKind;

/// What the `type` of every problem begins with.
pub const TYPE_PREFIX: &str = "https://headwater.dev/problems/";

pub const CONTENT_TYPE_PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// As many of the errors are listed; `count` has the number of them all.
pub const ERRORS_MAX: usize = 20;

/// A problem document.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub kind: ProblemKind,
    /// What happened this time, in a sentence.
    pub detail: String,
    /// The first [`ERRORS_MAX`] of the single errors.
    pub errors: Vec<ProblemItem>,
    /// How many single errors there are, where there are any.
    pub count: usize,
    /// What the caller can do.
    pub hint: Option<String>,
    /// Filled in by the middleware that gives requests their ids.
    pub request_id: Option<Box<str>>,
    pub retry_after_s: Option<u64>,
}

/// One of the errors of a problem: where it is, what was expected there and what was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ProblemItem {
    /// Which event of the body, counted from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    pub message: String,
}

/// Small enough to be the error of a function without a box.
const _: () = assert!(size_of::<Problem>() < 128);

impl Problem {
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            count: 0,
            hint: None,
            request_id: None,
            retry_after_s: None,
        }
    }

    /// What isn't there, with the nearest name that is.
    pub fn unknown(kind: ProblemKind, what: &str, name: &str, nearest: Option<&str>) -> Self {
        let problem = Self::new(kind, format!("there is no {what} '{name}'"));
        match nearest {
            Some(nearest) => problem.hint(format!("did you mean '{nearest}'?")),
            None => problem,
        }
    }

    /// Takes the first [`ERRORS_MAX`] of `errors`; `count` is the number of them all.
    pub fn errors(mut self, errors: impl IntoIterator<Item = ProblemItem>, count: usize) -> Self {
        self.errors = errors.into_iter().take(ERRORS_MAX).collect();
        self.count = count;
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    pub fn request_id(mut self, id: impl Into<Box<str>>) -> Self {
        self.request_id = Some(id.into());
        self
    }

    pub fn to_json(&self) -> String {
        // Strings and numbers under text keys: there is nothing in it that could fail.
        serde_json::to_string(&Document::from(self)).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    /// The problem itself goes along in the response's extensions, so that a middleware can add
    /// the request's id and render it again.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_json()));
        *response.status_mut() = self.kind.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, CONTENT_TYPE_PROBLEM);
        headers.insert(
            HeaderName::from_static("cache-control"),
            HeaderValue::from_static("no-store"),
        );
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// The members of the document, in the order in which a person wants to read them.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: Type,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [ProblemItem],
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

struct Type(ProblemKind);

impl<'a> From<&'a Problem> for Document<'a> {
    fn from(problem: &'a Problem) -> Self {
        Self {
            kind: Type(problem.kind),
            title: problem.kind.title(),
            status: problem.kind.status().as_u16(),
            detail: &problem.detail,
            errors: &problem.errors,
            count: (problem.count > 0).then_some(problem.count),
            hint: problem.hint.as_deref(),
            request_id: problem.request_id.as_deref(),
        }
    }
}

impl Serialize for Type {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{TYPE_PREFIX}{}", self.0.slug()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_the_standard_members_and_ours() {
        let item = ProblemItem {
            index: Some(3),
            field: Some("user_id".to_owned()),
            expected: Some("text".to_owned()),
            found: Some("number".to_owned()),
            message: "user_id must be text".to_owned(),
            ..ProblemItem::default()
        };
        let problem = Problem::new(ProblemKind::InvalidEvents, "1 of 4 events is invalid")
            .errors([item], 1)
            .hint("correct it and send all of them again")
            .request_id("r-1");
        let document: serde_json::Value = serde_json::from_str(&problem.to_json()).unwrap();
        assert_eq!(document["type"], "https://headwater.dev/problems/invalid-events");
        assert_eq!(document["status"], 422);
        assert_eq!(document["errors"][0]["index"], 3);
        assert_eq!(document["errors"][0].get("line"), None);
        assert_eq!(document["count"], 1);
        assert_eq!(document["request_id"], "r-1");
    }

    #[test]
    fn only_the_first_errors_are_listed() {
        let items = (0..50).map(|index| ProblemItem {
            index: Some(index),
            ..ProblemItem::default()
        });
        let problem = Problem::new(ProblemKind::InvalidEvents, "many").errors(items, 50);
        assert_eq!((problem.errors.len(), problem.count), (ERRORS_MAX, 50));
    }

    #[test]
    fn a_response_says_when_to_come_back() {
        let problem = Problem::new(ProblemKind::TooBusy, "the queue is full").retry_after(2);
        let response = problem.clone().into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.extensions().get::<Problem>(), Some(&problem));
    }
}
