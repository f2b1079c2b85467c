//! What can go wrong while a query runs, and what the task that runs it must do.

use arrow::error::ArrowError;
use datafusion_common::DataFusionError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An expression can't be computed for some row. The operator is as it was before the batch,
    /// so the batch may be split and tried again.
    #[error("{0}")]
    Rows(Box<DataFusionError>),
    /// An aggregate failed half-way: what it had put together must not be used any more.
    #[error("an aggregate failed: {0}")]
    Aggregate(Box<DataFusionError>),
    #[error(transparent)]
    Log(#[from] headwater_log::error::Error),
    /// What the store gave back is not what an operator put there.
    #[error("the state of {place} can't be read: {what}")]
    State { place: String, what: String },
    #[error("the query can't run: {0}")]
    Plan(String),
    #[error("it was told to stop while it waited for a table")]
    Stopped,
    #[error("the task panicked: {0}")]
    Panic(String),
}

impl Error {
    pub fn aggregate(error: DataFusionError) -> Self {
        Self::Aggregate(Box::new(error))
    }

    /// Whether splitting the batch can find the rows that are to blame, and try the others again.
    pub fn is_of_rows(&self) -> bool {
        matches!(self, Self::Rows(_))
    }

    /// Whether some rows are to blame, and nothing that the task itself could mend.
    pub fn is_of_data(&self) -> bool {
        matches!(self, Self::Rows(_) | Self::Aggregate(_))
    }

    pub fn log_kind(&self) -> Option<headwater_log::error::Kind> {
        match self {
            Self::Log(error) => Some(error.kind()),
            _ => None,
        }
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        Self::Rows(Box::new(error))
    }
}

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        Self::Rows(Box::new(DataFusionError::from(error)))
    }
}
