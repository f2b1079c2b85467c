//! `CREATE STREAM`, `CREATE MATERIALIZED VIEW`, `CREATE SOURCE`, `CREATE SINK` and `CREATE TABLE`.

use datafusion::sql::sqlparser::ast::{ColumnOption, TableConstraint};
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::{Place, Result, SqlError};
use crate::parse::cursor::Cursor;
use crate::parse::{options, simple};
use crate::statement::{
    ColumnDefinition, CreateSink, CreateSource, CreateStream, CreateTable, CreateView, Kind, Name, Select, WatermarkFor,
};

/// What `CREATE` knows, for hints.
const OBJECTS: [&str; 6] = ["STREAM", "MATERIALIZED", "VIEW", "SOURCE", "SINK", "TABLE"];

/// What `CREATE` and `DROP` will know.
pub const LATER: [&str; 6] = ["RULE", "FUNCTION", "MODEL", "ROLE", "USER", "SECRET"];

#[derive(Default)]
struct Body {
    columns: Vec<ColumnDefinition>,
    watermark: Option<WatermarkFor>,
    primary_key: Option<PrimaryKey>,
}

struct PrimaryKey {
    columns: Vec<Name>,
    place: Place,
}

pub fn create(cursor: &mut Cursor) -> Result<Kind> {
    cursor.expect("create")?;
    let or_replace = cursor.take(&["or", "replace"]);
    if cursor.take(&["stream"]) {
        return stream(cursor, or_replace).map(Kind::CreateStream);
    }
    if cursor.take(&["materialized", "view"]) {
        return view(cursor, or_replace).map(Kind::CreateView);
    }
    if cursor.take(&["source"]) {
        return source(cursor, or_replace).map(Kind::CreateSource);
    }
    if cursor.take(&["sink"]) {
        return sink(cursor, or_replace).map(Kind::CreateSink);
    }
    if cursor.take(&["table"]) {
        return table(cursor, or_replace).map(Kind::CreateTable);
    }
    Err(unknown_object(cursor, "CREATE"))
}

/// The error for an object that can't be created (or dropped).
pub fn unknown_object(cursor: &Cursor, verb: &str) -> SqlError {
    let found = cursor.peek_word().unwrap_or_default().to_uppercase();
    let place = cursor.here();
    if LATER.contains(&found.as_str()) {
        return SqlError::unsupported(format!("{verb} {found} is not available in this version")).at(place);
    }
    match found.as_str() {
        "VIEW" => {
            SqlError::unsupported("CREATE VIEW without MATERIALIZED is not available: every view is kept current")
                .at(place)
                .hint("write CREATE MATERIALIZED VIEW … AS SELECT …")
        }
        _ => {
            let near = headwater_catalog::snapshot::nearest(&found, OBJECTS.into_iter().chain(LATER));
            let error = cursor.expected("STREAM, MATERIALIZED VIEW, SOURCE, SINK or TABLE");
            match near {
                Some(near) => error.hint(format!("did you mean {verb} {near}?")),
                None => error,
            }
        }
    }
}

fn stream(cursor: &mut Cursor, or_replace: bool) -> Result<CreateStream> {
    let if_not_exists = cursor.take(&["if", "not", "exists"]);
    let name = cursor.object_name("the name of the stream")?;
    let body = match cursor.parser.peek_token_ref().token {
        Token::LParen => body(cursor)?,
        _ => Body::default(),
    };
    if let Some(key) = body.primary_key {
        return Err(primary_key().at(key.place));
    }
    let partition_by = partition_by(cursor)?;
    let options = options::with(cursor)?;
    // Either order is understood.
    let partition_by = if partition_by.is_empty() {
        self::partition_by(cursor)?
    } else {
        partition_by
    };
    let encode = encode(cursor)?;
    let query = if cursor.take(&["as"]) {
        Some(query(cursor)?)
    } else {
        None
    };
    let stream = CreateStream {
        name,
        or_replace,
        if_not_exists,
        columns: body.columns,
        watermark: body.watermark,
        partition_by,
        options,
        encode,
        query,
    };
    check_shape(cursor, stream)
}

/// A stream has columns or a query.
fn check_shape(cursor: &Cursor, stream: CreateStream) -> Result<CreateStream> {
    match (&stream.query, stream.columns.first(), &stream.watermark) {
        (None, None, _) => Err(cursor.expected("the stream's columns in brackets, or AS SELECT")),
        (Some(_), Some(column), _) => Err(SqlError::invalid("a stream has columns or a query, not both")
            .at(column.name.place.clone())
            .hint("the columns of a stream AS SELECT are those of its query: leave them out")),
        (Some(_), None, Some(watermark)) => {
            Err(SqlError::invalid("a stream AS SELECT takes its watermark from its input").at(watermark.place.clone()))
        }
        _ => Ok(stream),
    }
}

fn view(cursor: &mut Cursor, or_replace: bool) -> Result<CreateView> {
    let if_not_exists = cursor.take(&["if", "not", "exists"]);
    let name = cursor.object_name("the name of the view")?;
    if cursor.parser.peek_token_ref().token == Token::LParen {
        return Err(
            SqlError::unsupported("a list of column names after a view's name is not available")
                .at(cursor.here())
                .hint("name the columns in the SELECT: expression AS name"),
        );
    }
    if cursor.peek_word().as_deref() == Some("partition") {
        return Err(SqlError::invalid("a view has no PARTITION BY: it is partitioned by its key").at(cursor.here()));
    }
    let options = options::with(cursor)?;
    cursor.expect("as")?;
    let query = query(cursor)?;
    Ok(CreateView {
        name,
        or_replace,
        if_not_exists,
        options,
        query,
    })
}

fn source(cursor: &mut Cursor, or_replace: bool) -> Result<CreateSource> {
    let if_not_exists = cursor.take(&["if", "not", "exists"]);
    let name = cursor.object_name("the name of the source")?;
    if !cursor.take(&["into"]) {
        return Err(cursor.expected("INTO and the stream that the source writes into").hint(
            "the stream has the columns: CREATE STREAM s (…), then CREATE SOURCE name INTO s WITH (connector = …)",
        ));
    }
    let stream = cursor.object_name("the name of a stream")?;
    let options = options::with(cursor)?;
    let encode = encode(cursor)?;
    Ok(CreateSource {
        name,
        or_replace,
        if_not_exists,
        stream,
        options,
        encode,
    })
}

/// `FORMAT PLAIN ENCODE name`, if it is there.
fn encode(cursor: &mut Cursor) -> Result<Option<Name>> {
    if !cursor.take(&["format"]) {
        return Ok(None);
    }
    cursor.expect("plain")?;
    cursor.expect("encode")?;
    cursor.name("a format like JSON or CSV").map(Some)
}

fn sink(cursor: &mut Cursor, or_replace: bool) -> Result<CreateSink> {
    let if_not_exists = cursor.take(&["if", "not", "exists"]);
    let name = cursor.object_name("the name of the sink")?;
    if !cursor.take(&["from"]) {
        let error = cursor.expected("FROM and the stream or view that the sink reads");
        return Err(match cursor.peek_word().as_deref() {
            Some("as") => error.hint("CREATE STREAM s AS SELECT …, then CREATE SINK name FROM s WITH (connector = …)"),
            _ => error,
        });
    }
    let reads = cursor.object_name("the name of a stream or view")?;
    Ok(CreateSink {
        name,
        or_replace,
        if_not_exists,
        reads,
        options: options::with(cursor)?,
    })
}

fn table(cursor: &mut Cursor, or_replace: bool) -> Result<CreateTable> {
    let if_not_exists = cursor.take(&["if", "not", "exists"]);
    let name = cursor.object_name("the name of the table")?;
    if cursor.parser.peek_token_ref().token != Token::LParen {
        let error = cursor.expected("the table's columns in brackets");
        return Err(match cursor.peek_word().as_deref() {
            Some("as") => error.hint("CREATE MATERIALIZED VIEW … AS SELECT … keeps a result current"),
            _ => error,
        });
    }
    let body = body(cursor)?;
    if let Some(watermark) = body.watermark {
        return Err(
            SqlError::invalid("a table has no WATERMARK: its rows are looked up as they are").at(watermark.place),
        );
    }
    Ok(CreateTable {
        name,
        or_replace,
        if_not_exists,
        columns: body.columns,
        key: body.primary_key.map(|key| key.columns).unwrap_or_default(),
        options: options::with(cursor)?,
    })
}

fn query(cursor: &mut Cursor) -> Result<Select> {
    let piece = cursor.rest();
    simple::query(piece)
}

fn partition_by(cursor: &mut Cursor) -> Result<Vec<Name>> {
    if !cursor.take(&["partition", "by"]) {
        return Ok(Vec::new());
    }
    cursor.names("a column")
}

fn body(cursor: &mut Cursor) -> Result<Body> {
    cursor.expect_token(&Token::LParen)?;
    let mut body = Body::default();
    loop {
        element(cursor, &mut body)?;
        if cursor.take_token(&Token::RParen) {
            return Ok(body);
        }
        if !cursor.take_token(&Token::Comma) {
            return Err(cursor.expected("a comma or a closing bracket after the column"));
        }
    }
}

fn element(cursor: &mut Cursor, body: &mut Body) -> Result<()> {
    let place = cursor.here();
    if cursor.take(&["watermark", "for"]) {
        if body.watermark.is_some() {
            return Err(SqlError::invalid("a stream has one WATERMARK").at(place));
        }
        body.watermark = Some(watermark(cursor)?);
        return Ok(());
    }
    let constraint = ["unique", "foreign", "constraint", "check"];
    if cursor
        .peek_word()
        .is_some_and(|word| constraint.contains(&word.as_str()))
        && let Ok(Some(constraint)) = cursor
            .parser
            .try_parse(|parser| parser.parse_optional_table_constraint())
    {
        return Err(refused_constraint(&constraint).at(place));
    }
    if cursor.take(&["primary", "key"]) {
        let columns = cursor.names("a column")?;
        return body.set_key(PrimaryKey { columns, place });
    }
    let (column, key) = column(cursor)?;
    if let Some(place) = key {
        let columns = vec![column.name.clone()];
        body.set_key(PrimaryKey { columns, place })?;
    }
    if body.columns.iter().any(|other| other.name.value == column.name.value) {
        return Err(
            SqlError::invalid(format!("the column {} is there twice", column.name.value)).at(column.name.place),
        );
    }
    body.columns.push(column);
    Ok(())
}

impl Body {
    fn set_key(&mut self, key: PrimaryKey) -> Result<()> {
        if self.primary_key.is_some() {
            return Err(SqlError::invalid("there is one PRIMARY KEY")
                .at(key.place)
                .hint("a key of several columns: PRIMARY KEY (a, b)"));
        }
        self.primary_key = Some(key);
        Ok(())
    }
}

fn watermark(cursor: &mut Cursor) -> Result<WatermarkFor> {
    let column = cursor.name("the watermark's column")?;
    cursor.expect("as")?;
    let (expression, place) = cursor.expression()?;
    Ok(WatermarkFor {
        column,
        expression,
        place,
    })
}

/// The column, and the place where it says that it is the key.
fn column(cursor: &mut Cursor) -> Result<(ColumnDefinition, Option<Place>)> {
    let name = cursor.name("a column's name")?;
    let type_place = cursor.here();
    if !matches!(cursor.parser.peek_token_ref().token, Token::Word(_)) {
        return Err(cursor.expected(&format!("the type of column {}", name.value)));
    }
    let data_type = cursor.parser.parse_data_type().map_err(|error| cursor.error(error))?;
    let mut column = ColumnDefinition {
        name,
        data_type,
        type_place,
        nullable: true,
        default: None,
    };
    let mut key = None;
    loop {
        let place = cursor.here();
        let option = cursor.parser.parse_optional_column_option();
        let Some(option) = option.map_err(|error| cursor.error(error))? else {
            return Ok((column, key));
        };
        match option {
            ColumnOption::Null => column.nullable = true,
            ColumnOption::NotNull => column.nullable = false,
            ColumnOption::Default(expression) => column.default = Some((expression, place)),
            ColumnOption::PrimaryKey(_) => key = Some(place),
            ColumnOption::Unique(_) => return Err(unique().at(place)),
            other => {
                return Err(
                    SqlError::unsupported(format!("{other} is not available for a stream's column"))
                        .at(place)
                        .hint("a column has a name, a type, and if need be NOT NULL and DEFAULT"),
                );
            }
        }
    }
}

fn refused_constraint(constraint: &TableConstraint) -> SqlError {
    match constraint {
        TableConstraint::PrimaryKey(_) => {
            SqlError::unsupported("a key has no name here").hint("write PRIMARY KEY (columns)")
        }
        TableConstraint::Unique(_) => unique(),
        other => SqlError::unsupported(format!("a stream has no constraint like {other}")),
    }
}

fn primary_key() -> SqlError {
    SqlError::unsupported("a stream has no PRIMARY KEY: it keeps every event")
        .hint("WITH (idempotency_key = 'column') stores a repeated event once; a view with GROUP BY keeps one row for each key")
}

fn unique() -> SqlError {
    SqlError::unsupported("a stream has no UNIQUE columns: it keeps every event")
        .hint("WITH (idempotency_key = 'column') stores a repeated event once")
}
