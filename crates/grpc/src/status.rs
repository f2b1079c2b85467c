//! Problems as statuses, and back.
//!
//! The message is the problem's sentence with its hint; the details hold the whole problem
//! ([`v1::Problem`]) and, where the same request may succeed later, a `google.rpc.RetryInfo`. So whoever passes a
//! status on over HTTP loses nothing of it.

use headwater_problem::{Problem, ProblemItem, ProblemKind};
use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};
use tonic_types::pb;

use crate::v1;

const PROBLEM: &str = "type.googleapis.com/headwater.v1.Problem";
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// A client reads no more than 8 KiB of headers and trailers unless told otherwise, and the details travel there.
const DETAILS_BYTES_MAX: usize = 4 << 10;
/// So does the message, in which some characters take three bytes.
const MESSAGE_BYTES_MAX: usize = 1 << 10;

/// The status that says what the problem is.
pub fn status(problem: &Problem) -> Status {
    let message = match &problem.hint {
        Some(hint) => format!("{}; {hint}", problem.detail),
        None => problem.detail.clone(),
    };
    let message = shortened(message);
    let code = code(problem.kind);
    let details = details(problem, code, &message);
    Status::with_details(code, message, details.into())
}

/// The problem that a status tells of; one without details came from a library or from between us and the server.
pub fn problem(status: &Status) -> Problem {
    let details = pb::Status::decode(status.details()).unwrap_or_default().details;
    let told = details.iter().find(|any| any.type_url == PROBLEM);
    let told = told.and_then(|any| v1::Problem::decode(&*any.value).ok());
    let mut problem = match told {
        Some(told) => of_message(told),
        None => Problem::new(kind(status.code()), status.message()),
    };
    let retry = details.iter().find(|any| any.type_url == RETRY_INFO);
    let retry = retry.and_then(|any| pb::RetryInfo::decode(&*any.value).ok()?.retry_delay);
    problem.retry_after_s = retry.and_then(|delay| u64::try_from(delay.seconds).ok());
    problem
}

pub fn code(kind: ProblemKind) -> Code {
    match kind {
        ProblemKind::InvalidEvents
        | ProblemKind::InvalidBody
        | ProblemKind::UnknownContentType
        | ProblemKind::UnknownStream
        | ProblemKind::UnknownView
        | ProblemKind::InvalidQuery
        | ProblemKind::UnknownParameter
        | ProblemKind::BodyTooLarge
        | ProblemKind::DecompressionBomb
        | ProblemKind::SqlError => Code::InvalidArgument,
        ProblemKind::NotFound => Code::NotFound,
        ProblemKind::MethodNotAllowed => Code::Unimplemented,
        ProblemKind::NotWritable => Code::FailedPrecondition,
        ProblemKind::Conflict => Code::Aborted,
        ProblemKind::BodyTimeout | ProblemKind::Behind => Code::DeadlineExceeded,
        ProblemKind::TooBusy | ProblemKind::DiskFull => Code::ResourceExhausted,
        ProblemKind::Unavailable => Code::Unavailable,
        ProblemKind::Internal => Code::Internal,
    }
}

/// Of statuses that say nothing more.
fn kind(code: Code) -> ProblemKind {
    match code {
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => ProblemKind::InvalidQuery,
        Code::NotFound => ProblemKind::NotFound,
        Code::Aborted | Code::AlreadyExists => ProblemKind::Conflict,
        Code::ResourceExhausted => ProblemKind::TooBusy,
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded => ProblemKind::Unavailable,
        _ => ProblemKind::Internal,
    }
}

fn details(problem: &Problem, code: Code, message: &str) -> Vec<u8> {
    let mut told = to_message(problem);
    // Whose errors are long hears of fewer; the count still says how many there are.
    while told.encoded_len() > DETAILS_BYTES_MAX && told.errors.pop().is_some() {}
    if told.encoded_len() > DETAILS_BYTES_MAX {
        told.detail = shortened(told.detail);
        told.hint = shortened(told.hint);
    }
    let mut details = vec![Any {
        type_url: PROBLEM.to_owned(),
        value: told.encode_to_vec(),
    }];
    if let Some(seconds) = problem.retry_after_s {
        let retry = pb::RetryInfo {
            retry_delay: Some(prost_types::Duration {
                seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
                nanos: 0,
            }),
        };
        details.push(Any {
            type_url: RETRY_INFO.to_owned(),
            value: retry.encode_to_vec(),
        });
    }
    let status = pb::Status {
        code: code.into(),
        message: message.to_owned(),
        details,
    };
    status.encode_to_vec()
}

fn shortened(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
        text.push('…');
    }
    text
}

fn to_message(problem: &Problem) -> v1::Problem {
    v1::Problem {
        r#type: problem.kind.slug().to_owned(),
        detail: problem.detail.clone(),
        hint: problem.hint.clone().unwrap_or_default(),
        errors: problem.errors.iter().map(item).collect(),
        count: problem.count as u64,
    }
}

/// One of a problem's errors as a message.
pub fn item(item: &ProblemItem) -> v1::ProblemItem {
    let number = |number: Option<usize>| number.map(|number| number as u64);
    v1::ProblemItem {
        index: number(item.index),
        field: item.field.clone(),
        line: number(item.line),
        column: number(item.column),
        expected: item.expected.clone(),
        found: item.found.clone(),
        message: item.message.clone(),
    }
}

fn of_message(told: v1::Problem) -> Problem {
    let number = |number: Option<u64>| number.and_then(|number| usize::try_from(number).ok());
    let kind = ProblemKind::ALL.into_iter().find(|kind| kind.slug() == told.r#type);
    let items = told.errors.into_iter().map(|item| ProblemItem {
        index: number(item.index),
        field: item.field,
        line: number(item.line),
        column: number(item.column),
        expected: item.expected,
        found: item.found,
        message: item.message,
    });
    let problem = Problem::new(kind.unwrap_or(ProblemKind::Internal), told.detail);
    let mut problem = problem.errors(items, usize::try_from(told.count).unwrap_or(usize::MAX));
    problem.hint = Some(told.hint).filter(|hint| !hint.is_empty());
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(message: &str) -> Problem {
        let item = ProblemItem {
            index: Some(3),
            field: Some("user_id".to_owned()),
            line: Some(1),
            message: message.to_owned(),
            ..ProblemItem::default()
        };
        let problem = Problem::new(ProblemKind::InvalidEvents, "nothing was stored");
        problem.errors(vec![item; 20], 25).hint("correct it").retry_after(2)
    }

    #[test]
    fn a_problem_survives_the_way_through_a_status() {
        let told = full("user_id must be text");
        assert_eq!(problem(&status(&told)), told);
        let plain = Status::unavailable("nobody listens");
        assert_eq!(
            problem(&plain),
            Problem::new(ProblemKind::Unavailable, "nobody listens")
        );
    }

    #[test]
    fn every_kind_of_problem_keeps_its_word() {
        for kind in ProblemKind::ALL {
            assert_eq!(problem(&status(&Problem::new(kind, "so"))).kind, kind);
        }
    }

    #[test]
    fn long_problems_fit_into_trailers() {
        for long in ["x".repeat(3000), "ü".repeat(100_000)] {
            let mut told = full(&long);
            told.detail = long;
            let status = status(&told);
            assert!(status.details().len() < DETAILS_BYTES_MAX + 2 * MESSAGE_BYTES_MAX);
            assert!(status.message().len() < MESSAGE_BYTES_MAX + 20);
            assert_eq!(problem(&status).count, 25);
        }
    }
}
