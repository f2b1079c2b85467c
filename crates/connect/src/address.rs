//! URLs of servers, with references to secrets in them. The catalog keeps the references: a password that stands in the statement is
//! refused, and no message shows what a reference stands for.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::options::{About, Options, Refusal};
use crate::reference::{Piece, pieces};
use crate::source::Error;
use crate::within::Within;

/// What is written as it is in a part of a URL.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Stands for a reference while the rest is looked at.
const HIDDEN: &str = "\0";

/// An option that is a URL, as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    option: &'static str,
    text: String,
}

impl Address {
    /// The option `url`. `schemes` are those that the connector knows, `example` shows one.
    pub(crate) fn read(options: &mut Options<'_>, schemes: &[&str], example: &str) -> Result<Self, Refusal> {
        Self::named("url", options, schemes, example)
    }

    pub(crate) fn named(
        option: &'static str,
        options: &mut Options<'_>,
        schemes: &[&str],
        example: &str,
    ) -> Result<Self, Refusal> {
        let refused = |message: String| Refusal::new(About::Option(option.to_owned()), message).hint(example);
        let missing = || format!("the {option} of the server is missing");
        let text = options
            .text(option)
            .ok_or_else(|| Refusal::new(About::Statement, missing()).hint(example))?;
        let address = Self {
            option,
            text: text.to_owned(),
        };
        let pieces = pieces(text).map_err(|why| refused(format!("the option {option}: {why}")))?;
        if let [reference] = pieces.as_slice()
            && reference.is_reference()
        {
            return Ok(address);
        }
        let shown: String = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => *text,
                Piece::Env(_) | Piece::File(_) => HIDDEN,
            })
            .collect();
        let known = shown.split_once("://").filter(|(scheme, _)| schemes.contains(scheme));
        let Some((_, rest)) = known else {
            let schemes: Vec<_> = schemes.iter().map(|scheme| format!("{scheme}://")).collect();
            return Err(refused(format!(
                "the option {option} begins with {}",
                schemes.join(" or ")
            )));
        };
        match has_password(rest) {
            true => Err(refused(
                "a password doesn't belong into a statement, which is kept and shown".to_owned(),
            )),
            false => Ok(address),
        }
    }

    /// As it was written, with references in the place of secrets.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The URL with its secrets: for the client library alone. Files have to be where files may be.
    pub(crate) fn resolve(&self, within: &Within) -> Result<String, Error> {
        let failed = |why: String| Error::outside(format!("the {}: {why}", self.option));
        let pieces = pieces(&self.text).map_err(failed)?;
        let is_whole = pieces.len() == 1;
        let mut url = String::new();
        for piece in pieces {
            if let Piece::File(path) = piece {
                within.check(path.as_ref())?;
            }
            let value = piece.value(|name| std::env::var(name).ok()).map_err(failed)?;
            match piece {
                Piece::Text(_) => url.push_str(&value),
                _ if is_whole => url.push_str(&value),
                // A part of the URL, whatever characters it has.
                _ => url.extend(utf8_percent_encode(&value, PLAIN)),
            }
        }
        Ok(url)
    }
}

/// Why there is no connection.
pub(crate) enum Unconnected {
    /// The server has answered, and would answer the same again; or the URL is none.
    Refused(Error),
    /// The server can't be reached at present.
    Unreachable(Error),
}

impl From<Unconnected> for Error {
    fn from(why: Unconnected) -> Self {
        match why {
            Unconnected::Refused(error) | Unconnected::Unreachable(error) => error,
        }
    }
}

/// Whether a password stands in a URL behind its scheme.
fn has_password(rest: &str) -> bool {
    // A password may have any character in it, by mistake.
    let user = rest.rsplit_once('@').map_or("", |(user, _)| user);
    let in_user = user.split_once(':').is_some_and(|(_, password)| is_shown(password));
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    let mut parameters = query.split('&').filter_map(|pair| pair.split_once('='));
    in_user || parameters.any(|(name, value)| name == "password" && is_shown(value))
}

fn is_shown(password: &str) -> bool {
    !password.is_empty() && password != HIDDEN
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(url: &str) -> Result<Address, Refusal> {
        let options = BTreeMap::from([("url".to_owned(), url.to_owned())]);
        Address::read(&mut Options::new(&options), &["postgres"], "…")
    }

    #[test]
    fn passwords_are_references() {
        for accepted in [
            "postgres://localhost/d",
            "postgres://me@localhost/d?sslmode=disable",
            "postgres://me:${env:PASSWORD}@localhost:5432/d",
            "postgres://me:${file:/run/secrets/p}@localhost/d",
            "postgres://localhost/d?user=me&password=${env:P}",
            "${env:URL}",
        ] {
            read(accepted).unwrap_or_else(|refusal| panic!("{accepted}: {refusal}"));
        }
        for refused in [
            "postgres://me:hunter2@localhost/d",
            "postgres://me:hunter2${env:P}@localhost/d",
            "postgres://me:a@b@localhost/d",
            "postgres://me:a/b?c@localhost/d",
            "postgres://localhost/d?password=hunter2",
            "mysql://localhost/d",
            "host=localhost password=hunter2",
            "postgres://${env:P/d",
            "postgres://${vault:P}/d",
        ] {
            let message = read(refused).err().map(|refusal| refusal.to_string());
            let message = message.unwrap_or_else(|| panic!("{refused} is accepted"));
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_secret_is_one_part_of_the_url() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "p@ss/w?rd\n").unwrap();
        let within = Within::default();
        let url = |text: &str| read(&text.replace("FILE", &file.display().to_string())).unwrap();
        let resolved = url("postgres://me:${file:FILE}@h/d").resolve(&within).unwrap();
        assert_eq!(resolved, "postgres://me:p%40ss%2Fw%3Frd@h/d");
        std::fs::write(&file, "postgres://me:p%40@h/d\n").unwrap();
        assert_eq!(url("${file:FILE}").resolve(&within).unwrap(), "postgres://me:p%40@h/d");
        let elsewhere = tempfile::tempdir().unwrap();
        let within = Within::folder(elsewhere.path()).unwrap();
        assert!(url("${file:FILE}").resolve(&within).is_err());
    }
}
