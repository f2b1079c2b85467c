//! A connection to Postgres, as the URL says: `sslmode` is what it is for Postgres's own programs.
//!
//! | sslmode | encrypted | certificate |
//! |---|---|---|
//! | `disable` | no | |
//! | `prefer` (the default) | where the server offers it | any |
//! | `require` | yes | any |
//! | `verify-ca` | yes | of an authority that the system trusts |
//! | `verify-full` | yes | the same, for this host |

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

use crate::address::Unconnected;
use crate::source::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that is gone without a word is noticed after so long.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const KEEPALIVE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

const MODES: [(&str, Encryption); 5] = [
    ("disable", Encryption::Disable),
    ("prefer", Encryption::Prefer),
    ("require", Encryption::Require),
    ("verify-ca", Encryption::VerifyCa),
    ("verify-full", Encryption::VerifyFull),
];

/// `url` has its secrets, `name` is what the server shows of whoever is connected.
pub(crate) async fn connect(url: &str, name: &str) -> Result<Client, Unconnected> {
    let (mut config, encryption) = parse(url).map_err(|why| Unconnected::Refused(Error::outside(why)))?;
    config
        .application_name(name)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(SILENCE_MAX)
        .keepalives_idle(KEEPALIVE)
        .keepalives_interval(KEEPALIVE)
        .keepalives_retries(2);
    config.ssl_mode(match encryption {
        Encryption::Disable => SslMode::Disable,
        Encryption::Prefer => SslMode::Prefer,
        Encryption::Require | Encryption::VerifyCa | Encryption::VerifyFull => SslMode::Require,
    });
    if encryption == Encryption::Disable {
        let (client, connection) = config.connect(NoTls).await.map_err(|error| refused(&error))?;
        tokio::spawn(async move {
            // Whoever uses the client is told as well.
            if let Err(error) = connection.await {
                debug!(%error, "the connection to Postgres ended");
            }
        });
        return Ok(client);
    }
    let tls = tls(encryption).map_err(|why| Unconnected::Refused(Error::outside(why)))?;
    let (client, connection) = config
        .connect(MakeRustlsConnect::new(tls))
        .await
        .map_err(|error| refused(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "the connection to Postgres ended");
        }
    });
    Ok(client)
}

/// The library's error for people, with what the server said.
pub(crate) fn sentence(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        let detail = said.detail().map_or_else(String::new, |detail| format!(": {detail}"));
        return format!("{}{detail}", said.message());
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// Whether it is the server's, of one of these classes of SQLSTATEs.
pub(crate) fn is_of(error: &tokio_postgres::Error, classes: &[&str]) -> bool {
    let is_of = |code: &SqlState| classes.iter().any(|class| code.code().starts_with(class));
    error.code().is_some_and(is_of)
}

fn refused(error: &tokio_postgres::Error) -> Unconnected {
    let what = Error::outside(format!("Postgres: {}", sentence(error)));
    // Wrong credentials, no such database, no right to connect.
    let is_final = is_of(error, &["28", "3D", "42"]);
    match is_final {
        true => Unconnected::Refused(what),
        false => Unconnected::Unreachable(what),
    }
}

/// The messages say nothing of what stands in the URL, which may be a secret.
fn parse(url: &str) -> Result<(Config, Encryption), String> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (modes, others): (Vec<&str>, Vec<&str>) = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .partition(|pair| pair.starts_with("sslmode="));
    let encryption = match modes.last().and_then(|pair| pair.split_once('=')) {
        None => Encryption::Prefer,
        Some((_, mode)) => {
            let known = MODES.iter().find(|(name, _)| *name == mode);
            let names = MODES.map(|(name, _)| name).join(", ");
            known.ok_or_else(|| format!("the url: sslmode is one of {names}"))?.1
        }
    };
    let has_scheme = base.starts_with("postgres://") || base.starts_with("postgresql://");
    let config = format!("{base}?{}", others.join("&")).parse();
    match config {
        Ok(config) if has_scheme => Ok((config, encryption)),
        _ => Err("the url is none of Postgres: postgres://user:password@host:5432/database".to_owned()),
    }
}

fn tls(encryption: Encryption) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let roots = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    };
    if encryption == Encryption::VerifyFull {
        return Ok(builder.with_root_certificates(roots()).with_no_client_auth());
    }
    let authority = match encryption {
        Encryption::VerifyCa => {
            let verifier = WebPkiServerVerifier::builder_with_provider(roots().into(), Arc::clone(&provider)).build();
            Some(verifier.map_err(|error| format!("the system trusts no authority: {error}"))?)
        }
        _ => None,
    };
    let verifier = Arc::new(AnyHost { authority, provider });
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Takes certificates of any host, and of anybody unless there is an authority.
#[derive(Debug)]
struct AnyHost {
    authority: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = &self.authority else {
            return Ok(ServerCertVerified::assertion());
        };
        match authority.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_says_how_to_connect() {
        let (config, encryption) =
            parse("postgres://me:p%40@h:5433/d?sslmode=verify-ca&target_session_attrs=any").unwrap();
        assert_eq!(
            (encryption, config.get_password()),
            (Encryption::VerifyCa, Some(b"p@".as_slice()))
        );
        assert_eq!(parse("postgres://h/d").unwrap().1, Encryption::Prefer);
        for wrong in [
            "postgres://h/d?sslmode=hunter2",
            "host=h password=hunter2",
            "postgres://me:hunter2@h:x/d",
        ] {
            let why = parse(wrong).err().unwrap();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
