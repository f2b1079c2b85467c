//! Files of statements, as `serve` applies them: at every start, so what is there already stays.

use std::path::Path;

use headwater_catalog::snapshot::Snapshot;
use headwater_query::error::QueryError;
use headwater_sql::parse::parse;
use headwater_sql::statement::Kind;

/// A file with its text.
#[derive(Clone, Debug)]
pub struct SqlFile {
    /// As the user gave it.
    pub name: String,
    pub text: String,
}

impl SqlFile {
    /// # Errors
    /// On one line, what is wrong with the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Self { name, text }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(format!("there is no file {name}")),
            Err(error) => Err(format!("{name}: {error}")),
        }
    }

    /// The error as a person reads it, with the place in this file.
    pub fn render(&self, error: &QueryError) -> String {
        match error {
            QueryError::Sql(error) => error.render(&self.name, &self.text),
            error => format!("{}: {error}", self.name),
        }
    }
}

/// The file's text with every CREATE blanked out that made an object of the catalog in these very
/// words. Lines and columns stay what they are.
pub fn without_what_is_there(file: &SqlFile, catalog: &Snapshot) -> String {
    // A text that can't be parsed is left to the session, which says why.
    let Ok(statements) = parse(&file.text) else {
        return file.text.clone();
    };
    let mut text = file.text.clone().into_bytes();
    for statement in statements {
        let name = match &statement.kind {
            Kind::CreateStream(create) => &create.name,
            Kind::CreateView(create) => &create.name,
            Kind::CreateSource(create) => &create.name,
            Kind::CreateSink(create) => &create.name,
            Kind::CreateTable(create) => &create.name,
            _ => continue,
        };
        let known = catalog.get(&name.value);
        if known.is_some_and(|object| object.latest().sql == statement.source.text()) {
            for byte in &mut text[statement.source.range()] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
    }
    // Whole statements were replaced by spaces, so what is left is the UTF-8 that it was.
    String::from_utf8(text).unwrap_or_else(|_| file.text.clone())
}
