//! `${env:NAME}` and `${file:/path}` in values: how a secret gets in without standing in a file that is kept in version
//! control, or in the catalog. Messages here never contain what a reference stands for.

/// A text, cut where references begin and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Text(&'a str),
    Env(&'a str),
    File(&'a str),
}

pub fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (reference, after) = after
            .split_once('}')
            .ok_or("a reference begins with '${' and ends with '}'")?;
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        pieces.push(match reference.split_once(':') {
            Some(("env", name)) => Piece::Env(name),
            Some(("file", path)) => Piece::File(path),
            _ => return Err("references are ${env:NAME} and ${file:/path}".to_owned()),
        });
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

impl Piece<'_> {
    pub fn is_reference(&self) -> bool {
        !matches!(self, Self::Text(_))
    }

    /// What it stands for.
    pub fn value(&self, environment: impl Fn(&str) -> Option<String>) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok((*text).to_owned()),
            Self::Env(name) => environment(name).ok_or_else(|| format!("the environment variable {name} is not set")),
            Self::File(path) => {
                let content = std::fs::read_to_string(path).map_err(|error| format!("can't read {path}: {error}"))?;
                // Editors and `echo` end a file with a newline that is no part of the secret.
                Ok(content.trim_end_matches(['\r', '\n']).to_owned())
            }
        }
    }
}

/// The text with every reference replaced by what it refers to.
pub fn resolve(text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    pieces(text)?.iter().map(|piece| piece.value(&environment)).collect()
}
