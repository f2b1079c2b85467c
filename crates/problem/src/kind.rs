//! The kinds of problems: the stable words, and the status that goes with each.

use http::StatusCode;

/// What a problem's `type` says. The words are part of the product: they may be added to, and
/// don't change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    InvalidEvents,
    BodyTooLarge,
    DecompressionBomb,
    InvalidBody,
    BodyTimeout,
    UnknownContentType,
    UnknownStream,
    UnknownView,
    NotFound,
    MethodNotAllowed,
    NotWritable,
    InvalidQuery,
    UnknownParameter,
    SqlError,
    Conflict,
    TooBusy,
    Unavailable,
    Behind,
    DiskFull,
    Internal,
}

impl ProblemKind {
    /// All of them, for documentation and tests.
    pub const ALL: [Self; 20] = [
        Self::InvalidEvents,
        Self::BodyTooLarge,
        Self::DecompressionBomb,
        Self::InvalidBody,
        Self::BodyTimeout,
        Self::UnknownContentType,
        Self::UnknownStream,
        Self::UnknownView,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::NotWritable,
        Self::InvalidQuery,
        Self::UnknownParameter,
        Self::SqlError,
        Self::Conflict,
        Self::TooBusy,
        Self::Unavailable,
        Self::Behind,
        Self::DiskFull,
        Self::Internal,
    ];

    /// What the `type` ends in.
    pub fn slug(self) -> &'static str {
        self.parts().0
    }

    pub fn status(self) -> StatusCode {
        self.parts().1
    }

    pub fn title(self) -> &'static str {
        self.parts().2
    }

    fn parts(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::InvalidEvents => (
                "invalid-events",
                S::UNPROCESSABLE_ENTITY,
                "Events do not fit the stream",
            ),
            Self::BodyTooLarge => ("body-too-large", S::PAYLOAD_TOO_LARGE, "The body is too large"),
            Self::DecompressionBomb => (
                "decompression-bomb",
                S::PAYLOAD_TOO_LARGE,
                "The decompressed body is too large",
            ),
            Self::InvalidBody => ("invalid-body", S::BAD_REQUEST, "The body can't be read"),
            Self::BodyTimeout => ("body-timeout", S::REQUEST_TIMEOUT, "The body came too slowly"),
            Self::UnknownContentType => (
                "unknown-content-type",
                S::UNSUPPORTED_MEDIA_TYPE,
                "The body's format is not known",
            ),
            Self::UnknownStream => ("unknown-stream", S::NOT_FOUND, "There is no such stream"),
            Self::UnknownView => ("unknown-view", S::NOT_FOUND, "There is no such view"),
            Self::NotFound => ("not-found", S::NOT_FOUND, "There is nothing here"),
            Self::MethodNotAllowed => (
                "method-not-allowed",
                S::METHOD_NOT_ALLOWED,
                "The method is not allowed here",
            ),
            Self::NotWritable => ("not-writable", S::CONFLICT, "The stream takes no events from outside"),
            Self::InvalidQuery => ("invalid-query", S::BAD_REQUEST, "The request is not valid"),
            Self::UnknownParameter => ("unknown-parameter", S::BAD_REQUEST, "A parameter is not known"),
            Self::SqlError => ("sql-error", S::BAD_REQUEST, "The SQL is not valid"),
            Self::Conflict => ("conflict", S::CONFLICT, "Something else was first"),
            Self::TooBusy => ("too-busy", S::TOO_MANY_REQUESTS, "More than can be taken now"),
            Self::Unavailable => ("unavailable", S::SERVICE_UNAVAILABLE, "Not available at the moment"),
            Self::Behind => ("behind", S::SERVICE_UNAVAILABLE, "Not yet as far as that"),
            Self::DiskFull => ("disk-full", S::INSUFFICIENT_STORAGE, "The disk is full"),
            Self::Internal => ("internal", S::INTERNAL_SERVER_ERROR, "A fault in Headwater"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_words_are_distinct_and_the_statuses_say_whose_fault_it_is() {
        let slugs: HashSet<_> = ProblemKind::ALL.iter().map(|kind| kind.slug()).collect();
        assert_eq!(slugs.len(), ProblemKind::ALL.len());
        for kind in ProblemKind::ALL {
            assert!(kind.status().is_client_error() || kind.status().is_server_error());
        }
    }
}
