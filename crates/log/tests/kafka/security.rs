//! Getting in where the broker asks who it is: by a password, a token, a certificate; and what is said to who doesn't get in.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headwater_event::clock::{Clock as _, SystemClock};
use headwater_log::Log as _;
use headwater_log::embedded::options::EmbeddedOptions;
use headwater_log::error::Result;
use headwater_log::kafka::KafkaLog;
use headwater_log::kafka::connection::Security;
use headwater_log::kafka::options::KafkaOptions;
use headwater_test_servers::kafka::{self, Secured};

use crate::{all, commit, numbers, spec};

type Properties<'a> = &'a [(&'a str, &'a str)];

/// Opens a log whose prefix is the last part of the directory.
fn open(brokers: &str, directory: &Path, properties: Properties<'_>) -> Result<Arc<KafkaLog>> {
    let mut copies = EmbeddedOptions::new(directory);
    copies.disk_free_bytes_min = 0;
    let prefix = directory.file_name().unwrap().to_str().unwrap();
    let mut options = KafkaOptions::new(brokers, prefix, copies);
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    options.security = Security(properties.iter().map(owned).collect());
    for (_, secret) in properties.iter().filter(|(key, _)| *key == "sasl.password") {
        assert!(!format!("{options:?}").contains(secret), "a secret is shown");
    }
    KafkaLog::open(options, SystemClock::new())
}

async fn use_it(log: &KafkaLog) {
    log.create_topic(spec()).await.unwrap();
    log.append(vec![numbers(0, 0..3)]).await.unwrap();
    let claim = log.claim("task").await.unwrap();
    log.commit(&claim, commit(3)).await.unwrap();
    assert_eq!(all(log, 0).await, [0, 1, 2, 3]);
    log.delete_topic("numbers").await.unwrap();
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn ca(secured: &Secured) -> String {
    text(&secured.ca())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_the_password_gets_in() {
    let Some(broker) = kafka::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (secured, ca) = (&broker.secured, ca(&broker.secured));
    for mechanism in ["PLAIN", "SCRAM-SHA-512"] {
        let properties = [
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", ca.as_str()),
            ("sasl.mechanism", mechanism),
            ("sasl.username", secured.user),
            ("sasl.password", secured.password),
        ];
        use_it(&open(&secured.brokers, &folder.path().join(mechanism), &properties).unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_certificate_gets_in() {
    let Some(broker) = kafka::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (secured, ca) = (&broker.secured, ca(&broker.secured));
    let (certificate, key) = secured.certificate();
    let properties = [
        ("security.protocol", "ssl"),
        ("ssl.ca.location", ca.as_str()),
        ("ssl.certificate.location", &text(&certificate)),
        ("ssl.key.location", &text(&key)),
    ];
    use_it(&open(&secured.mutual, &folder.path().join("mutual"), &properties).unwrap()).await;
}

/// A token that is renewed in its file is used by connections that are made after the first one has expired; the broker ends those that go on with an old one.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_token_gets_in_and_stays() {
    const LIFETIME: Duration = Duration::from_secs(10);
    let Some(broker) = kafka::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (secured, ca) = (&broker.secured, ca(&broker.secured));
    let file = folder.path().join("token");
    let renew = || std::fs::write(&file, secured.token(LIFETIME)).unwrap();
    renew();
    let token = text(&file);
    let properties = [
        ("security.protocol", "sasl_ssl"),
        ("ssl.ca.location", ca.as_str()),
        ("sasl.mechanism", "OAUTHBEARER"),
        ("sasl.oauthbearer.config", token.as_str()),
    ];
    let log = open(&secured.brokers, &folder.path().join("token-holder"), &properties).unwrap();
    use_it(&log).await;
    for _ in 0..5 {
        SystemClock::new().sleep(LIFETIME / 2).await;
        renew();
    }
    // All of these clients were idle meanwhile.
    use_it(&log).await;
}

/// What is wrong, and what to do.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_get_in_is_told_why() {
    let Some(broker) = kafka::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (secured, ca) = (&broker.secured, ca(&broker.secured));
    let other_ca = text(&secured.other_ca());
    let outdated = folder.path().join("outdated");
    std::fs::write(&outdated, secured.token(Duration::ZERO)).unwrap();
    let forged = folder.path().join("forged");
    let token = secured.token(Duration::from_secs(60));
    std::fs::write(&forged, format!("{}AAAA", &token[..token.len() - 4])).unwrap();
    let (outdated, forged) = (text(&outdated), text(&forged));
    let by_password = |password: &'static str| {
        [
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", ca.as_str()),
            ("sasl.mechanism", "PLAIN"),
            ("sasl.username", secured.user),
            ("sasl.password", password),
        ]
    };
    let by_token = |file| {
        [
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", ca.as_str()),
            ("sasl.mechanism", "OAUTHBEARER"),
            ("sasl.oauthbearer.config", file),
        ]
    };
    let tls = |ca| [("security.protocol", "ssl"), ("ssl.ca.location", ca)];
    let cases: [(&str, &str, Properties<'_>, &[&str]); 8] = [
        (
            "a wrong password",
            &secured.brokers,
            &by_password("guessed"),
            &["uthentication failed", "sasl_password"],
        ),
        (
            "a token that has expired",
            &secured.brokers,
            &by_token(&outdated),
            &[&outdated, "has expired"],
        ),
        (
            "a token that others have signed",
            &secured.brokers,
            &by_token(&forged),
            &["invalid_token", "sasl_token_file"],
        ),
        (
            "another authority",
            &secured.brokers,
            &tls(&other_ca),
            &["certificate verify failed", "tls_ca"],
        ),
        (
            "a broker whose certificate has expired",
            &secured.expired,
            &tls(&ca),
            &["certificate verify failed", "expired"],
        ),
        ("no certificate", &secured.mutual, &tls(&ca), &["tls_certificate"]),
        (
            "plaintext where TLS is spoken",
            &secured.brokers,
            &[],
            &["'ssl'", "at this port"],
        ),
        (
            "TLS where plaintext is spoken",
            &broker.brokers,
            &tls(&ca),
            &["security = 'plaintext'"],
        ),
    ];
    for (case, brokers, properties, words) in cases {
        let error = open(brokers, &folder.path().join("refused"), properties).map(|_| ());
        let error = error.unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{case}, without '{word}': {error}");
        }
    }
}
