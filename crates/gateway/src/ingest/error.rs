//! Why events were not taken, and what the sender can do about it.

use std::sync::Arc;
use std::time::Duration;

use headwater_log::error::{Error as LogError, Kind as LogKind};
use headwater_problem::{ERRORS_MAX, Problem, ProblemItem, ProblemKind};
use headwater_schema::decode::{Decoded, Failure, OnError};

/// When a sender that found no room had best come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Nothing of the request was stored.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IngestError {
    #[error("there is no stream '{name}'")]
    UnknownStream { name: String, nearest: Option<String> },
    #[error("'{name}' is a view, and events go into streams")]
    NotAStream { name: String },
    #[error("the stream '{name}' is filled by {by}, and takes no events from outside")]
    NotWritable { name: String, by: &'static str },
    #[error("{}", invalid(failures, *failed))]
    Invalid {
        /// The first of them.
        failures: Vec<Failure>,
        /// How many there are.
        failed: usize,
    },
    /// Too many for dead letters.
    #[error("nothing was stored: {} events are bad, and the rest of the request was not read", failed - 1)]
    TooManyInvalid {
        /// The first of them.
        failures: Vec<Failure>,
        /// How many there are; the rest of the request counts for one.
        failed: usize,
    },
    #[error("the request takes more than the {bytes_max} bytes that all requests may hold together")]
    TooLarge { bytes_max: usize },
    #[error("more events are waiting to be stored than there is room for")]
    TooBusy { retry_after: Duration },
    #[error("{0}")]
    Log(Arc<LogError>),
    /// The stream was dropped or the server is stopping while the request waited.
    #[error("the stream was changed, or the server is stopping, while the events waited to be stored")]
    Gone,
    #[error("{0}")]
    Internal(String),
}

impl IngestError {
    pub(super) fn busy() -> Self {
        Self::TooBusy {
            retry_after: RETRY_AFTER,
        }
    }

    /// Of a body that the decoder rejected.
    pub(super) fn of_rejected(decoded: Decoded, on_error: OnError) -> Self {
        let Decoded {
            mut failures, failed, ..
        } = decoded;
        failures.truncate(ERRORS_MAX);
        match on_error {
            OnError::Reject => Self::Invalid { failures, failed },
            OnError::Collect => Self::TooManyInvalid { failures, failed },
        }
    }

    /// When it makes sense to send the same again, where it does.
    pub fn retry_after(&self) -> Option<Duration> {
        match (self, self.problem_kind()) {
            (Self::TooBusy { retry_after }, _) => Some(*retry_after),
            (_, ProblemKind::Unavailable | ProblemKind::DiskFull) => Some(RETRY_AFTER),
            _ => None,
        }
    }

    /// A word for metrics: what `headwater_ingest_errors_total` calls it.
    pub fn reason(&self) -> &'static str {
        self.problem_kind().slug()
    }

    pub fn problem_kind(&self) -> ProblemKind {
        match self {
            Self::UnknownStream { .. } => ProblemKind::UnknownStream,
            Self::NotAStream { .. } | Self::NotWritable { .. } => ProblemKind::NotWritable,
            Self::Invalid { .. } | Self::TooManyInvalid { .. } => ProblemKind::InvalidEvents,
            Self::TooLarge { .. } => ProblemKind::BodyTooLarge,
            Self::TooBusy { .. } => ProblemKind::TooBusy,
            Self::Gone => ProblemKind::Unavailable,
            Self::Internal(_) => ProblemKind::Internal,
            Self::Log(error) => match (&**error, error.kind()) {
                (LogError::DiskFull { .. }, _) => ProblemKind::DiskFull,
                // The topic went away between looking and appending.
                (LogError::UnknownTopic(_), _) => ProblemKind::Unavailable,
                (LogError::Unwritable { .. } | LogError::TooLarge { .. }, _) => ProblemKind::InvalidEvents,
                (_, LogKind::Unavailable | LogKind::Conflict | LogKind::Closed) => ProblemKind::Unavailable,
                (_, LogKind::Invalid | LogKind::Corrupt) => ProblemKind::Internal,
            },
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownStream {
                nearest: Some(nearest), ..
            } => Some(format!("did you mean '{nearest}'?")),
            Self::UnknownStream { nearest: None, .. } => Some("CREATE STREAM makes one".to_owned()),
            Self::NotAStream { .. } => Some("send to the stream that the view reads".to_owned()),
            Self::NotWritable { .. } => Some("send to the stream that its query reads".to_owned()),
            Self::Invalid { .. } => Some(
                "nothing was stored: correct the events and send all again, or use on_error=dead_letter to store \
                 the good ones and keep the bad ones in dead_letters"
                    .to_owned(),
            ),
            Self::TooManyInvalid { .. } => Some(
                "check that the body is in the format that the request says, or send fewer events in a request"
                    .to_owned(),
            ),
            Self::TooBusy { .. } => Some("send the same request again after a pause".to_owned()),
            _ => None,
        }
    }
}

impl From<LogError> for IngestError {
    fn from(error: LogError) -> Self {
        Self::Log(Arc::new(error))
    }
}

impl From<IngestError> for Problem {
    fn from(error: IngestError) -> Self {
        let mut problem = Self::new(error.problem_kind(), error.to_string());
        problem.hint = error.hint();
        problem.retry_after_s = error.retry_after().map(|after| after.as_secs().max(1));
        if let IngestError::Invalid { failures, failed } | IngestError::TooManyInvalid { failures, failed } = &error {
            let items: Vec<_> = failures.iter().take(ERRORS_MAX).map(item).collect();
            problem = problem.errors(items, *failed);
        }
        problem
    }
}

/// A failure as problem documents and answers list it.
pub fn item(failure: &Failure) -> ProblemItem {
    ProblemItem {
        index: Some(failure.index),
        field: failure.field.clone(),
        line: (failure.line > 0).then_some(failure.line),
        column: (failure.column > 0).then_some(failure.column),
        expected: failure.expected.clone(),
        found: failure.found.clone(),
        message: failure.message.clone(),
    }
}

fn invalid(failures: &[Failure], failed: usize) -> String {
    let first = failures
        .first()
        .map_or("an event does not fit the stream", |first| &first.message);
    match failed {
        0 | 1 => format!("nothing was stored: {first}"),
        _ => format!("nothing was stored: {failed} events do not fit the stream; the first: {first}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logs_troubles_become_answers_that_say_whether_to_come_back() {
        let full = LogError::DiskFull {
            directory: "/data".into(),
            free_bytes: 5,
            free_bytes_min: 10,
        };
        for (error, status, retry) in [
            (full, 507, Some(1)),
            (LogError::Closed, 503, Some(1)),
            (
                LogError::TooLarge {
                    topic: "orders".to_owned(),
                    bytes: 2_000_000,
                    bytes_max: 1_048_588,
                },
                422,
                None,
            ),
            (LogError::UnknownTopic("clicks-1".to_owned()), 503, Some(1)),
            (LogError::Arrow(arrow::error::ArrowError::DivideByZero), 500, None),
        ] {
            let problem = Problem::from(IngestError::from(error));
            assert_eq!(
                (problem.kind.status().as_u16(), problem.retry_after_s),
                (status, retry),
                "{problem:?}"
            );
        }
    }
}
