//! All statements but `CREATE`.

use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::{Result, SqlError};
use crate::parse::create::{LATER, unknown_object};
use crate::parse::cursor::{Cursor, parser};
use crate::parse::rewrite;
use crate::parse::split::Piece;
use crate::statement::{Drop, Explain, Insert, Kind, ObjectKind, Select, Show};

/// What a statement may begin with, for hints.
const FIRST_WORDS: [&str; 10] = [
    "SELECT", "CREATE", "DROP", "SHOW", "DESCRIBE", "EXPLAIN", "INSERT", "WITH", "VALUES", "SET",
];

/// What Postgres clients say to a session.
const SESSION_WORDS: [&str; 14] = [
    "set",
    "reset",
    "begin",
    "start",
    "commit",
    "end",
    "rollback",
    "abort",
    "discard",
    "deallocate",
    "prepare",
    "execute",
    "savepoint",
    "release",
];

pub fn drop(cursor: &mut Cursor) -> Result<Kind> {
    cursor.expect("drop")?;
    let object = if cursor.take(&["stream"]) {
        ObjectKind::Stream
    } else if cursor.take(&["materialized", "view"]) || cursor.take(&["view"]) {
        ObjectKind::View
    } else if cursor.take(&["source"]) {
        ObjectKind::Source
    } else if cursor.take(&["sink"]) {
        ObjectKind::Sink
    } else if cursor.take(&["table"]) {
        ObjectKind::Table
    } else {
        return Err(unknown_object(cursor, "DROP"));
    };
    let if_exists = cursor.take(&["if", "exists"]);
    let name = cursor.object_name("the name of what to drop")?;
    let cascade = cursor.take(&["cascade"]);
    if !cascade {
        cursor.take(&["restrict"]);
    }
    Ok(Kind::Drop(Drop {
        object,
        name,
        if_exists,
        cascade,
    }))
}

pub fn show(cursor: &mut Cursor) -> Result<Kind> {
    let mut after = cursor.parser.peek_nth_token(1);
    if rewrite::is_word(&after, "materialized") {
        after = cursor.parser.peek_nth_token(2);
    }
    let show = match after.token.to_string().to_lowercase().as_str() {
        "streams" => Show::Streams,
        "views" => Show::Views,
        "sources" => Show::Sources,
        "sinks" => Show::Sinks,
        "tables" | "all" => Show::All,
        "state" => return state(cursor),
        later @ ("rules" | "functions" | "models" | "roles" | "grants") => {
            let message = format!("SHOW {} is not available in this version", later.to_uppercase());
            return Err(SqlError::unsupported(message).at(cursor.place(&after)));
        }
        "" | "eof" => {
            cursor.expect("show")?;
            return Err(cursor.expected("STREAMS, VIEWS, SOURCES, SINKS, TABLES or STATE"));
        }
        _ => return sqlparser(cursor),
    };
    cursor.expect("show")?;
    cursor.take(&["materialized"]);
    cursor.parser.advance_token();
    Ok(Kind::Show(show))
}

fn state(cursor: &mut Cursor) -> Result<Kind> {
    cursor.expect("show")?;
    cursor.parser.advance_token();
    let name = match cursor.take(&["for"]) {
        true => Some(cursor.object_name("the name of a stream or a view")?),
        false => None,
    };
    Ok(Kind::ShowState(name))
}

pub fn describe(cursor: &mut Cursor) -> Result<Kind> {
    cursor.parser.advance_token();
    cursor
        .object_name("the name of a stream, a view, a source, a sink or a table")
        .map(Kind::Describe)
}

pub fn explain(cursor: &mut Cursor) -> Result<Kind> {
    cursor.expect("explain")?;
    let (mut verbose, mut analyze) = (false, false);
    loop {
        if cursor.take(&["verbose"]) {
            verbose = true;
        } else if cursor.take(&["analyze"]) {
            analyze = true;
        } else {
            break;
        }
    }
    match cursor.peek_word().as_deref() {
        Some("select" | "with" | "values" | "create") => {}
        None if cursor.parser.peek_token_ref().token == Token::LParen => {}
        _ => return Err(cursor.expected("SELECT or CREATE after EXPLAIN")),
    }
    let statement = super::statement(cursor.rest())?;
    Ok(Kind::Explain(Explain {
        verbose,
        analyze,
        statement: Box::new(statement),
    }))
}

pub fn insert(cursor: &mut Cursor) -> Result<Kind> {
    cursor.expect("insert")?;
    cursor.expect("into")?;
    let stream = cursor.object_name("the name of a stream")?;
    let bracket = cursor.parser.peek_token_ref().token == Token::LParen;
    let query_next = ["select", "with", "values"]
        .iter()
        .any(|word| rewrite::is_word(cursor.parser.peek_nth_token_ref(1), word));
    let columns = if bracket && !query_next {
        cursor.names("a column")?
    } else {
        Vec::new()
    };
    let select = query(cursor.rest())?;
    if select.emit_changes {
        return Err(SqlError::invalid("INSERT appends once; it can't follow a query")
            .at(select.source.start())
            .hint("CREATE STREAM … AS SELECT … appends for ever"));
    }
    Ok(Kind::Insert(Insert {
        stream,
        columns,
        query: select.query,
    }))
}

pub fn select(cursor: &mut Cursor) -> Result<Select> {
    query(cursor.rest())
}

/// A query up to the end of the piece.
pub fn query(piece: Piece) -> Result<Select> {
    let source = piece.source.clone();
    let (tokens, emit_changes) = rewrite::query(&source, piece.tokens.clone())?;
    let mut cursor = Cursor::new(Piece {
        source: source.clone(),
        tokens: tokens.clone(),
    });
    cursor.parser = parser(tokens);
    let starts = ["select", "with", "values", "from", "table"];
    let bracket = cursor.parser.peek_token_ref().token == Token::LParen;
    if !bracket && !cursor.peek_word().is_some_and(|word| starts.contains(&word.as_str())) {
        return Err(cursor.expected("SELECT"));
    }
    let query = cursor.parser.parse_query().map_err(|error| cursor.error(error))?;
    cursor.expect_end()?;
    Ok(Select {
        source,
        query,
        emit_changes,
    })
}

/// A statement that is for the session, not here yet, or nothing at all.
pub fn other(cursor: &mut Cursor, word: &str) -> Result<Kind> {
    if SESSION_WORDS.contains(&word) {
        return sqlparser(cursor);
    }
    let upper = word.to_uppercase();
    let place = cursor.here();
    match word {
        "alter" => {
            let object = cursor.parser.peek_nth_token(1).token.to_string().to_uppercase();
            let known = ["STREAM", "MATERIALIZED", "VIEW", "SOURCE", "SINK"].contains(&object.as_str())
                || LATER.contains(&object.as_str());
            let what = if known { format!("ALTER {object}") } else { upper };
            Err(
                SqlError::unsupported(format!("{what} is not available in this version"))
                    .at(place)
                    .hint("CREATE OR REPLACE makes it anew"),
            )
        }
        "grant" | "revoke" | "copy" | "merge" | "truncate" | "call" | "declare" | "fetch" | "listen" | "notify"
        | "vacuum" | "analyze" | "comment" => {
            Err(SqlError::unsupported(format!("{upper} is not available in this version")).at(place))
        }
        "update" | "delete" => Err(
            SqlError::unsupported(format!("{upper} is not available: events are not changed"))
                .at(place)
                .hint("INSERT INTO a stream appends; views follow"),
        ),
        _ => {
            let error = cursor.expected("a statement");
            match headwater_catalog::snapshot::nearest(&upper, FIRST_WORDS.into_iter()) {
                Some(near) => Err(error.hint(format!("did you mean {near}?"))),
                None => Err(error),
            }
        }
    }
}

fn sqlparser(cursor: &mut Cursor) -> Result<Kind> {
    let statement: ast::Statement = cursor.parser.parse_statement().map_err(|error| cursor.error(error))?;
    Ok(Kind::Other(Box::new(statement)))
}
