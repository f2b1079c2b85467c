//! Keeps a panic in code that rows were handed to, an expression or an aggregate, from ending the
//! task: it becomes an error like any other, and the rows to blame can be found.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use datafusion_common::{Result, exec_err};

/// What `compute` gives, or an error where it panics. Whatever it changed must not be used after
/// an error.
pub fn guarded<T>(compute: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(compute)) {
        Ok(result) => result,
        Err(panic) => exec_err!("it panicked: {}", words_of(&*panic)),
    }
}

/// What a panic said.
pub fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without words".to_owned())
}
