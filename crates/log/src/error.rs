//! What can go wrong in the log, and what the caller can do about it.

use std::path::PathBuf;

use headwater_event::offset::{Offset, TopicPartition};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The call can't succeed as it is.
    Invalid,
    /// It may succeed later: try again.
    Unavailable,
    /// Somebody else was first: look again and decide.
    Conflict,
    /// What is stored is damaged.
    Corrupt,
    /// The log is closed, or broken until a restart.
    Closed,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no topic '{0}'")]
    UnknownTopic(String),
    #[error("topic {topic} has {partitions} partitions, there is no partition {partition}")]
    UnknownPartition {
        topic: String,
        partition: u32,
        partitions: u32,
    },
    #[error("topic '{topic}' exists already with {what}")]
    TopicDiffers { topic: String, what: String },
    #[error("rows for {partition} have the schema {found}, expected {expected}")]
    SchemaDiffers {
        partition: TopicPartition,
        expected: String,
        found: String,
    },
    #[error("{0}")]
    Invalid(String),
    /// Of a topic with a record for each event.
    #[error("{partition}: row {row} can't be written as a record: {what}")]
    Unwritable {
        partition: TopicPartition,
        row: usize,
        what: String,
    },
    #[error(
        "an event of {bytes} bytes is too large for Kafka's topic '{topic}', which takes {bytes_max} (max.message.bytes) with what is around it"
    )]
    TooLarge {
        topic: String,
        bytes: usize,
        bytes_max: usize,
    },
    #[error("the claim of '{owner}' is outdated: somebody else has taken over its work")]
    Fenced { owner: String },
    /// Nobody else has it, and it has to be claimed again.
    #[error("the claim of '{owner}' is lost: {what}")]
    ClaimLost { owner: String, what: String },
    #[error("{partition}: the batch at offset {base} is damaged ({what}); reading can go on at offset {next}")]
    Damaged {
        partition: TopicPartition,
        base: Offset,
        next: Offset,
        what: String,
    },
    #[error("{} is damaged: {what}", .file.display())]
    DamagedFile { file: PathBuf, what: String },
    #[error("the disk of {} is full: {free_bytes} bytes free, {free_bytes_min} are kept in reserve. Nothing was written; make room and try again", .directory.display())]
    DiskFull {
        directory: PathBuf,
        free_bytes: u64,
        free_bytes_min: u64,
    },
    #[error("the data directory {} is in use by another process; stop that one, or choose another directory with --data", .directory.display())]
    InUse { directory: PathBuf },
    #[error("the data directory {} was written by a newer version of Headwater (format {found}, this one knows {known})", .directory.display())]
    NewerFormat { directory: PathBuf, found: u32, known: u32 },
    #[error("{} can't be used: {source}", .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("Kafka: {0}")]
    Kafka(String),
    #[error("Kafka refuses this user the right {right} on {on}; who administers it gives that by: {grant}")]
    NoRight { right: String, on: String, grant: String },
    #[error("storage: {0}")]
    Storage(String),
    #[error("arrow: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    #[error("the log is closed")]
    Closed,
}

impl Error {
    pub fn kind(&self) -> Kind {
        match self {
            Self::UnknownTopic(_)
            | Self::UnknownPartition { .. }
            | Self::SchemaDiffers { .. }
            | Self::Unwritable { .. }
            | Self::TooLarge { .. }
            | Self::Invalid(_)
            | Self::Arrow(_) => Kind::Invalid,
            Self::TopicDiffers { .. }
            | Self::Fenced { .. }
            | Self::ClaimLost { .. }
            | Self::InUse { .. }
            | Self::NewerFormat { .. } => Kind::Conflict,
            Self::Damaged { .. } | Self::DamagedFile { .. } => Kind::Corrupt,
            Self::DiskFull { .. } | Self::Io { .. } | Self::Kafka(_) | Self::NoRight { .. } => Kind::Unavailable,
            Self::Storage(_) | Self::Closed => Kind::Closed,
        }
    }
}
