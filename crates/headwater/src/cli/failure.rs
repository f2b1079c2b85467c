//! How a command ends when it doesn't end well.

use std::process::ExitCode;

pub type Failed<T = ()> = Result<T, Failure>;

/// A message for people and an exit code for programs.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// Empty where everything has been said already.
    pub message: String,
    pub code: u8,
}

/// What shells report for a process that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

impl Failure {
    /// It was tried and did not work.
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 1,
        }
    }

    /// It could not be tried: the arguments, the configuration or the machine must change first.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 2,
        }
    }

    /// It did not work, and the output says so.
    pub fn said() -> Self {
        Self {
            message: String::new(),
            code: 1,
        }
    }

    pub fn interrupted() -> Self {
        Self {
            message: String::new(),
            code: INTERRUPTED,
        }
    }

    /// Says it on standard error.
    pub fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("headwater: {}", self.message);
        }
        ExitCode::from(self.code)
    }
}

impl From<std::io::Error> for Failure {
    /// Of writing to standard output. A reader that has gone away (`| head`) has what it wanted.
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self {
                message: String::new(),
                code: 0,
            },
            _ => Self::failed(error.to_string()),
        }
    }
}
