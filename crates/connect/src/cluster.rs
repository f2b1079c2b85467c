//! The options by which sources and sinks find a Kafka cluster, and get in.

use headwater_log::kafka::connection::{Connection, Security};

use crate::options::{About, Options, Refusal};
use crate::reference::{Piece, pieces};
use crate::source::Error;
use crate::within::Within;

/// Options that are handed to Kafka's client, by its names for them.
const SECURITY: [(&str, &str); 8] = [
    ("security", "security.protocol"),
    ("tls_ca", "ssl.ca.location"),
    ("tls_certificate", "ssl.certificate.location"),
    ("tls_key", "ssl.key.location"),
    ("sasl_mechanism", "sasl.mechanism"),
    ("sasl_user", "sasl.username"),
    (PASSWORD, "sasl.password"),
    ("sasl_token_file", TOKEN_FILE),
];
/// Kafka's client hands it on to who makes tokens.
const TOKEN_FILE: &str = "sasl.oauthbearer.config";
const PASSWORD: &str = "sasl_password";

/// What the client takes of these; of the others it takes anything.
const KNOWN: [(&str, &[&str]); 2] = [
    ("security", &["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]),
    (
        "sasl_mechanism",
        &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"],
    ),
];

/// The options as they were written, with references instead of secrets.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    brokers: String,
    security: Vec<(&'static str, String)>,
}

impl Cluster {
    /// `example` shows what a statement looks like.
    pub(crate) fn read(options: &mut Options<'_>, example: &str) -> Result<Self, Refusal> {
        let missing = || Refusal::new(About::Statement, "the option brokers says where Kafka is").hint(example);
        let brokers = options.text("brokers").ok_or_else(missing)?.to_owned();
        let mut security = Vec::new();
        for (name, property) in SECURITY {
            let Some(value) = options.text(name) else { continue };
            let refused = |message: String| Refusal::new(About::Option(name.to_owned()), message);
            let pieces = pieces(value).map_err(|why| refused(format!("the option {name}: {why}")))?;
            if name == PASSWORD && pieces.iter().any(|piece| matches!(piece, Piece::Text(_))) {
                let message = "a password doesn't belong into a statement, which is kept and shown".to_owned();
                return Err(refused(message).hint("sasl_password = '${env:KAFKA_PASSWORD}', or '${file:/path}'"));
            }
            let known = KNOWN.iter().find(|(known, _)| *known == name).map(|(_, known)| *known);
            if let Some(known) = known.filter(|known| !known.contains(&value)) {
                return Err(Refusal::option(name, &known.join(" or ")));
            }
            security.push((property, value.to_owned()));
        }
        Ok(Self { brokers, security })
    }

    /// With the secrets. Files have to be where files may be.
    pub(crate) fn connection(&self, within: &Within) -> Result<Connection, Error> {
        let mut security = Security::default();
        for (property, value) in &self.security {
            let failed = |why: String| Error::outside(format!("{property}: {why}"));
            let mut resolved = String::new();
            for piece in pieces(value).map_err(failed)? {
                if let Piece::File(path) = piece {
                    within.check(path.as_ref())?;
                }
                resolved.push_str(&piece.value(|name| std::env::var(name).ok()).map_err(failed)?);
            }
            if property.ends_with(".location") || *property == TOKEN_FILE {
                within.check(resolved.as_ref())?;
            }
            security.0.insert((*property).to_owned(), resolved);
        }
        Ok(Connection::new(&self.brokers, "headwater", &security))
    }
}
