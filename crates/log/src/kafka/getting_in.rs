//! Getting in where a cluster asks who it is: tokens, and what to do where it lets nobody in.
//!
//! A token (OAUTHBEARER) is in a file, which somebody else renews: a sidecar, say, or Kubernetes for its service accounts. A client that is polled
//! asks for a newer one in time (`Context`); [`keep`] sees to those that are not.

use std::ffi::{CString, c_char};
use std::sync::{Arc, Weak};
use std::time::Duration;

use headwater_event::clock::{Clock, SystemClock};
use rdkafka::ClientContext;
use rdkafka::admin::AdminClient;
use rdkafka::bindings::rd_kafka_oauthbearer_set_token;
use rdkafka::client::{Client, OAuthToken};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::IsError as _;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::kafka::connection::{Connection, Consumer};
use crate::kafka::context::Context;

/// The property of librdkafka that has the token's file: it hands it on to who makes tokens.
pub(super) const TOKEN_FILE: &str = "sasl.oauthbearer.config";

/// How long a token holds that doesn't say so itself.
const TOKEN_TIME: Duration = Duration::from_secs(300);

/// How often to look whether a newer one is needed.
const KEEP_TIME: Duration = Duration::from_secs(1);

/// Whom a token is for that doesn't say so itself. Brokers don't look at it.
const PRINCIPAL: &str = "headwater";

const REASON_BYTES_MAX: usize = 512;

/// What the client says where it can't get in, and what to do then.
const ADVICE: [(&str, &str); 7] = [
    (
        "certificate verify failed",
        "the broker's certificate has expired, is for another name than the one in brokers, or isn't signed by tls_ca; \
         `openssl s_client -connect HOST:PORT -CAfile FILE` says which",
    ),
    ("bad certificate", NO_CERTIFICATE),
    ("certificate required", NO_CERTIFICATE),
    ("unknown ca", NO_CERTIFICATE),
    (
        "connecting to a PLAINTEXT broker listener?",
        "the broker expects no TLS at this port: security = 'plaintext' or 'sasl_plaintext'",
    ),
    // Where it is, or something else, the client doesn't say.
    (
        "brokers are down",
        "they end the connection: is security = 'plaintext', 'ssl', 'sasl_plaintext' or 'sasl_ssl' what they expect at this port?",
    ),
    (
        "SASL",
        "are sasl_mechanism, and sasl_user and sasl_password or the token in sasl_token_file, what the broker knows?",
    ),
];
const NO_CERTIFICATE: &str = "the broker asks for a certificate that it trusts: tls_certificate and tls_key";

/// What a token says of itself, where it is a JWT.
#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
}

/// The client's words, and what to do.
pub(super) fn advised(reason: &str) -> String {
    let advice = ADVICE.iter().find(|(words, _)| reason.contains(words));
    match advice {
        Some((_, advice)) => format!("{reason}; {advice}"),
        None => reason.to_owned(),
    }
}

/// The token in the file.
pub(super) fn token(file: &str) -> Result<OAuthToken> {
    let failed = |what: &str| Error::Kafka(format!("the token in {file} (sasl_token_file) can't be used: {what}"));
    let text = std::fs::read_to_string(file).map_err(|error| failed(&error.to_string()))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(failed("the file is empty"));
    }
    let claims = token.split('.').nth(1).and_then(from_base64url);
    let claims = claims.and_then(|claims| serde_json::from_slice::<Claims>(&claims).ok());
    let until_ms = claims.as_ref().and_then(|claims| claims.exp);
    let until_ms = until_ms.map(|seconds| (seconds * 1000.0) as i64);
    let now_ms = now_ms();
    if until_ms.is_some_and(|until_ms| until_ms <= now_ms) {
        return Err(failed("it has expired, and whoever writes the file has not renewed it"));
    }
    let user = claims.and_then(|claims| claims.sub);
    Ok(OAuthToken {
        token: token.to_owned(),
        principal_name: user.unwrap_or_else(|| PRINCIPAL.to_owned()),
        lifetime_ms: until_ms.unwrap_or(now_ms + TOKEN_TIME.as_millis() as i64),
    })
}

/// Tokens hold by real time, whatever our clock says.
fn now_ms() -> i64 {
    SystemClock::new().now() / 1000
}

/// Gives the client the token, so that it gets in before it is first polled.
#[allow(unsafe_code, reason = "rdkafka gives tokens to clients that are polled alone")]
pub(super) fn give<C: ClientContext>(client: &Client<C>, token: &OAuthToken) -> Result<()> {
    let text = |text: &str| CString::new(text).map_err(|error| Error::Kafka(format!("the token: {error}")));
    let (value, user) = (text(&token.token)?, text(&token.principal_name)?);
    let mut reason: [c_char; REASON_BYTES_MAX] = [0; REASON_BYTES_MAX];
    // SAFETY: the client is borrowed, so it is there; what is pointed to lives beyond the call, which copies it, and writes at most as many
    // bytes into the reason as it has.
    let refused = unsafe {
        rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.lifetime_ms,
            user.as_ptr(),
            std::ptr::null_mut(),
            0,
            reason.as_mut_ptr(),
            reason.len(),
        )
    };
    if !refused.is_error() {
        return Ok(());
    }
    let bytes = reason
        .iter()
        .map(|byte| byte.to_ne_bytes()[0])
        .take_while(|byte| *byte != 0);
    let reason = String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned();
    Err(Error::Kafka(format!("the token can't be used: {reason}")))
}

/// Gives those that are not polled newer tokens, as long as they are there. Does nothing where no tokens are needed.
pub(super) fn keep(
    connection: &Connection,
    asking: [&Arc<Consumer>; 2],
    admin: &Arc<AdminClient<Context>>,
) -> Result<()> {
    let Some(file) = connection.token_file() else {
        return Ok(());
    };
    let (asking, admin) = (asking.map(Arc::downgrade), Arc::downgrade(admin));
    let work = move || {
        let mut renew_ms = 0;
        while let Some(clients) = all(&asking, &admin) {
            if renew_ms <= now_ms() {
                match renew(&file, &clients) {
                    // Some time before it ends.
                    Ok(until_ms) => renew_ms = now_ms() + (until_ms - now_ms()) / 10 * 8,
                    Err(error) => tracing::warn!(%error, "no newer token for Kafka, trying again"),
                }
            }
            drop(clients);
            std::thread::sleep(KEEP_TIME);
        }
    };
    let thread = std::thread::Builder::new().name("kafka-tokens".to_owned()).spawn(work);
    thread
        .map(|_| ())
        .map_err(|error| Error::Kafka(format!("no thread: {error}")))
}

type Clients = ([Arc<Consumer>; 2], Arc<AdminClient<Context>>);

fn all([asking, asking_for_all]: &[Weak<Consumer>; 2], admin: &Weak<AdminClient<Context>>) -> Option<Clients> {
    Some(([asking.upgrade()?, asking_for_all.upgrade()?], admin.upgrade()?))
}

/// Until when the new token holds.
fn renew(file: &str, (asking, admin): &Clients) -> Result<i64> {
    let token = token(file)?;
    for asking in asking {
        give(asking.client(), &token)?;
    }
    give(admin.inner(), &token)?;
    Ok(token.lifetime_ms)
}

/// RFC 4648, section 5, without padding.
fn from_base64url(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.bytes() {
        bits = bits << 6 | u32::from(digit(byte)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_for_whom_and_until_when_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            let file = folder.path().join("token");
            std::fs::write(&file, text).unwrap();
            token(file.to_str().unwrap())
        };
        // {"sub":"river","exp":33333333333}
        let told = read("e30.eyJzdWIiOiJyaXZlciIsImV4cCI6MzMzMzMzMzMzMzN9.c2lnbmVk\n").unwrap();
        assert_eq!(
            (told.principal_name.as_str(), told.lifetime_ms),
            ("river", 33_333_333_333_000)
        );
        let opaque = read("opaque").unwrap();
        assert_eq!(
            (opaque.token.as_str(), opaque.principal_name.as_str()),
            ("opaque", PRINCIPAL)
        );
        // {"exp":1}
        for (text, words) in [("e30.eyJleHAiOjF9.c2ln", "has expired"), (" \n", "is empty")] {
            let error = read(text).err().unwrap().to_string();
            assert!(error.contains(words), "{error}");
        }
        let error = token("/nowhere/token").err().unwrap().to_string();
        assert!(error.contains("/nowhere/token"), "{error}");
    }
}
