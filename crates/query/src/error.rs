//! Why a question was not answered, and what the asker can do about it.
//!
//! The same error goes out as a problem document over HTTP and with an SQLSTATE on the Postgres
//! port; both are decided here.

use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, SchemaError};
use headwater_catalog::store::Error as CatalogError;
use headwater_engine::error::Error as EngineError;
use headwater_gateway::ingest::error::IngestError;
use headwater_log::error::{Error as LogError, Kind as LogKind};
use headwater_problem::{Problem, ProblemItem, ProblemKind};
use headwater_sql::error::{Kind as SqlKind, Place, SqlError};

#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The text can't be done as it is.
    #[error("{0}")]
    Sql(#[from] SqlError),
    /// It could not be evaluated: what the rows hold doesn't allow it, or it needs too much.
    #[error("{}", plain(.0))]
    Evaluation(Box<DataFusionError>),
    #[error("{0}")]
    Ingest(#[from] IngestError),
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Catalog(#[from] CatalogError),
    #[error("{0}")]
    Arrow(#[from] ArrowError),
    /// The request asks for what isn't there or in a way that isn't known.
    #[error("{}", .0.detail)]
    Request(Box<Problem>),
    #[error("version {version} of the catalog is stored, but was not put into effect within {seconds} s")]
    NotApplied { version: u64, seconds: u64 },
    #[error("{0}")]
    Busy(String),
    #[error("{0}")]
    Internal(String),
}

impl QueryError {
    pub fn internal(message: impl Into<String>) -> Self {
        Self::Internal(message.into())
    }

    /// The class of the error as Postgres' clients know it.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Sql(error) => error.sqlstate,
            Self::Evaluation(error) => evaluation_state(error),
            Self::Arrow(error) => arrow_state(error),
            Self::Ingest(_) | Self::Log(_) | Self::Request(_) => kind_state(self.kind()),
            Self::Catalog(_) => "40001",
            Self::NotApplied { .. } => "57014",
            Self::Busy(_) => "53300",
            Self::Internal(_) => "XX000",
        }
    }

    /// Where in the text it is.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Sql(error) => error.place.as_ref(),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Sql(error) => error.hint.clone(),
            Self::Request(problem) => problem.hint.clone(),
            Self::Catalog(CatalogError::Conflict { .. }) => Some("send the statement again".to_owned()),
            Self::NotApplied { .. } => Some("look at the server's log for what keeps it from starting".to_owned()),
            Self::Evaluation(error) if matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)) => {
                Some("ask for fewer rows or columns, or give queries more memory".to_owned())
            }
            _ => None,
        }
    }

    /// The sentence alone, without the place.
    pub fn message(&self) -> String {
        match self {
            Self::Sql(error) => error.message.clone(),
            other => other.to_string(),
        }
    }

    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::Sql(error) if error.kind == SqlKind::Internal => ProblemKind::Internal,
            Self::Sql(_) => ProblemKind::SqlError,
            Self::Evaluation(error) => match error.find_root() {
                DataFusionError::Internal(_) => ProblemKind::Internal,
                DataFusionError::ResourcesExhausted(_) => ProblemKind::Unavailable,
                _ => ProblemKind::SqlError,
            },
            Self::Arrow(_) => ProblemKind::SqlError,
            Self::Log(error) => match (error, error.kind()) {
                (LogError::DiskFull { .. }, _) => ProblemKind::DiskFull,
                (LogError::UnknownTopic(_), _) => ProblemKind::Unavailable,
                (_, LogKind::Unavailable | LogKind::Conflict | LogKind::Closed) => ProblemKind::Unavailable,
                (_, LogKind::Invalid | LogKind::Corrupt) => ProblemKind::Internal,
            },
            Self::Ingest(error) => Problem::from(error.clone()).kind,
            Self::Catalog(CatalogError::Conflict { .. }) => ProblemKind::Conflict,
            Self::Catalog(_) | Self::Internal(_) => ProblemKind::Internal,
            Self::Request(problem) => problem.kind,
            Self::NotApplied { .. } => ProblemKind::Unavailable,
            Self::Busy(_) => ProblemKind::TooBusy,
        }
    }

    pub fn problem(&self) -> Problem {
        match self {
            Self::Request(problem) => return (**problem).clone(),
            Self::Ingest(error) => return error.clone().into(),
            _ => {}
        }
        let mut problem = Problem::new(self.kind(), self.message());
        if let Some(place) = self.place() {
            let item = ProblemItem {
                line: usize::try_from(place.line).ok(),
                column: usize::try_from(place.column).ok(),
                found: Some(place.text.clone()),
                message: self.message(),
                ..ProblemItem::default()
            };
            problem = problem.errors([item], 1);
        }
        problem.hint = self.hint();
        problem
    }
}

impl From<Problem> for QueryError {
    fn from(problem: Problem) -> Self {
        Self::Request(Box::new(problem))
    }
}

impl From<EngineError> for QueryError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Log(error) => Self::Log(error),
            EngineError::Rows(error) | EngineError::Aggregate(error) => Self::from(*error),
            other => Self::Internal(other.to_string()),
        }
    }
}

/// Our own errors pass through DataFusion and come out as they went in.
impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::Context(_, inner) => Self::from(*inner),
            DataFusionError::External(inner) => match inner.downcast::<Self>() {
                Ok(own) => *own,
                Err(inner) => match inner.downcast::<LogError>() {
                    Ok(log) => Self::Log(*log),
                    Err(inner) => match inner.downcast::<SqlError>() {
                        Ok(sql) => Self::Sql(*sql),
                        Err(inner) => Self::Evaluation(Box::new(DataFusionError::External(inner))),
                    },
                },
            },
            other => Self::Evaluation(Box::new(other)),
        }
    }
}

fn plain(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::ArrowError(error, _) => error.to_string(),
        DataFusionError::Internal(message) => format!("a fault while evaluating the query: {message}"),
        root => root.message().into_owned(),
    }
}

fn evaluation_state(error: &DataFusionError) -> &'static str {
    match error.find_root() {
        DataFusionError::SQL(..) => "42601",
        DataFusionError::SchemaError(schema, _) => match **schema {
            SchemaError::FieldNotFound { .. } => "42703",
            SchemaError::AmbiguousReference { .. } => "42702",
            _ => "42701",
        },
        DataFusionError::NotImplemented(_) => "0A000",
        DataFusionError::Plan(_) => "42000",
        DataFusionError::ResourcesExhausted(_) => "53200",
        DataFusionError::ArrowError(error, _) => arrow_state(error),
        DataFusionError::Execution(_) => "22000",
        _ => "XX000",
    }
}

fn arrow_state(error: &ArrowError) -> &'static str {
    match error {
        ArrowError::DivideByZero => "22012",
        ArrowError::ArithmeticOverflow(_) => "22003",
        ArrowError::CastError(_) | ArrowError::ParseError(_) => "22P02",
        _ => "22000",
    }
}

fn kind_state(kind: ProblemKind) -> &'static str {
    match kind {
        ProblemKind::UnknownStream | ProblemKind::UnknownView | ProblemKind::NotFound => "42P01",
        ProblemKind::NotWritable => "42809",
        ProblemKind::InvalidEvents => "22000",
        ProblemKind::InvalidQuery | ProblemKind::UnknownParameter => "22023",
        ProblemKind::BodyTooLarge => "54000",
        ProblemKind::TooBusy => "53300",
        ProblemKind::Unavailable | ProblemKind::Behind => "57P03",
        ProblemKind::DiskFull => "53100",
        _ => "XX000",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_errors_survive_the_way_through_datafusion() {
        let inner = DataFusionError::External(Box::new(LogError::Closed));
        let error = QueryError::from(DataFusionError::Context("scan".to_owned(), Box::new(inner)));
        assert!(matches!(error, QueryError::Log(LogError::Closed)));
        assert_eq!(error.sqlstate(), "57P03");
    }

    #[test]
    fn a_place_is_part_of_the_problem() {
        let place = Place {
            line: 2,
            column: 8,
            text: "pge".to_owned(),
        };
        let error = QueryError::from(SqlError::new(SqlKind::UnknownColumn, "there is no column 'pge'").at(place));
        let problem = error.problem();
        assert_eq!((problem.errors[0].line, problem.errors[0].column), (Some(2), Some(8)));
        assert_eq!(error.sqlstate(), "42703");
    }
}
