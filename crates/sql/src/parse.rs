//! From text to statements.
//!
//! 1. [`split`]: the text becomes tokens, and the tokens of each statement, without comments, a list
//!    of their own. Every token keeps its place in the whole text.
//! 2. [`rewrite`]: what sqlparser would not understand is brought into a form that it does
//!    (`EMIT CHANGES` is taken off, Flink's long window form is shortened, `FOR SYSTEM_TIME AS OF` becomes a function).
//! 3. By their first words the statements go to [`create`] and [`simple`], or, where they are not
//!    there yet, to an error that names them. Queries and expressions are sqlparser's.

mod as_of;
mod create;
mod cursor;
mod options;
mod rewrite;
mod simple;
mod split;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::sql::sqlparser::dialect::GenericDialect;

use crate::error::{Result, SqlError};
pub(crate) use crate::parse::as_of::AS_OF;
use crate::parse::cursor::Cursor;
pub(crate) use crate::parse::cursor::normalize;
use crate::parse::split::Piece;
use crate::statement::{Kind, Select, Statement};

/// Queries may nest this deep; more is an error, not a stack overflow.
pub const NESTING_MAX: usize = 50;

/// So many operators may follow one another in one expression (`a + b + c …`).
pub const CHAIN_MAX: usize = 500;

/// So many words that begin or combine queries may stand in one statement.
pub const QUERIES_MAX: usize = 200;

/// Threads that plan statements have this much stack; the limits above are made for it.
pub const STACK_BYTES: usize = 8 << 20;

pub(crate) static DIALECT: GenericDialect = GenericDialect {};

/// All statements of a text.
///
/// # Errors
/// The first statement that can't be understood, with its place.
pub fn parse(text: &str) -> Result<Vec<Statement>> {
    split::split(Arc::from(text))?.into_iter().map(statement).collect()
}

/// A text that has to be one query, as a definition keeps it.
pub fn parse_query(text: &str) -> Result<Select> {
    let mut statements = parse(text)?;
    match (statements.pop().map(|statement| statement.kind), statements.is_empty()) {
        (Some(Kind::Select(select)), true) => Ok(select),
        _ => Err(SqlError::syntax("expected one query")),
    }
}

fn statement(piece: Piece) -> Result<Statement> {
    let source = piece.source.clone();
    let mut cursor = Cursor::new(piece);
    let kind = kind(&mut cursor)?;
    cursor.expect_end()?;
    Ok(Statement { source, kind })
}

fn kind(cursor: &mut Cursor) -> Result<Kind> {
    let word = cursor.peek_word().unwrap_or_default();
    match word.as_str() {
        "create" => create::create(cursor),
        "drop" => simple::drop(cursor),
        "show" => simple::show(cursor),
        "describe" | "desc" => simple::describe(cursor),
        "explain" => simple::explain(cursor),
        "insert" => simple::insert(cursor),
        "select" | "with" | "values" | "" | "from" | "table" => simple::select(cursor).map(Kind::Select),
        _ => simple::other(cursor, &word),
    }
}
