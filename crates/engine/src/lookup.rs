//! Tables that are kept elsewhere, as the engine knows them: by what they answer. Who runs the engine hands them in, and
//! knows where they are, how to ask them, and what to do when they don't answer.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use async_trait::async_trait;

use crate::error::Result;

/// All tables, by the names that plans have for them.
pub trait Tables: fmt::Debug + Send + Sync {
    fn open(&self, table: &str) -> Option<Arc<dyn Table>>;
}

/// A table that has a row at most for each key.
#[async_trait]
pub trait Table: Send + Sync {
    /// The rows with these keys, which are columns of one length, without NULLs. They may repeat.
    ///
    /// Waits for as long as it takes: who has no answer does not know that there is no such row either.
    async fn rows(&self, keys: &[ArrayRef]) -> Result<Found>;
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// All columns of the table.
    pub rows: Vec<ArrayRef>,
    /// For each key where its row is among them; NULL where there is none.
    pub places: UInt32Array,
    /// Keys whose rows are there and can't be used, with the reason.
    pub unusable: Vec<(usize, String)>,
}
