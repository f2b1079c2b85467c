//! What becomes of what Kafka's client has to say: it says the same for each of many connections, again and again.

use std::sync::Arc;

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::kafka::getting_in;
use crate::kafka::rights::is_about_group;

/// Shared by all clients of a connection.
#[derive(Clone, Default)]
pub struct Context {
    last: Arc<Mutex<Option<String>>>,
}

impl Context {
    /// The last error that a client spoke of.
    pub(super) fn last(&self) -> Option<String> {
        self.last.lock().clone()
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, file: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let file = file.ok_or("OAUTHBEARER needs sasl_token_file, the file that has the token")?;
        Ok(getting_in::token(file)?)
    }

    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::PartitionEOF) || is_about_group(&error) {
            return;
        }
        let mut last = self.last.lock();
        // That all are down follows on why each of them is.
        let follows = last.is_some() && code == Some(RDKafkaErrorCode::AllBrokersDown);
        if follows || last.as_deref().is_some_and(|last| gist(last) == gist(reason)) {
            tracing::debug!("Kafka: {reason}");
            return;
        }
        tracing::warn!("Kafka: {reason}");
        *last = Some(reason.to_owned());
    }
}

impl ConsumerContext for Context {}

/// Without how long it took.
fn gist(reason: &str) -> &str {
    reason.split(" (after").next().unwrap_or(reason)
}
