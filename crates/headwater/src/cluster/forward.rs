//! The way from one gateway to the one that has a stream's idempotency keys.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use headwater_catalog::definition::Definition;
use headwater_gateway::http::OFFSET_HEADER;
use headwater_gateway::ingest::Kept;
use headwater_gateway::ingest::error::IngestError;
use headwater_gateway::ingest::forward::{Forward, Forwarded, SECRET_HEADER, encode};
use headwater_log::work::Work;
use reqwest::{StatusCode, Url};
use tokio::runtime::Handle;

use crate::cluster::Cluster;

/// Rows are sent in lots of about this size.
const BYTES_MAX: usize = 4 << 20;

/// How long another gateway may take to store a lot.
const TIMEOUT: Duration = Duration::from_secs(10);

/// When a client is to send again what could not be handed on.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct OverHttp {
    cluster: Arc<Cluster>,
    work: Work,
    /// Events are stored on threads without sockets.
    sockets: Handle,
}

/// Why another gateway hasn't stored rows.
enum Failure {
    /// It isn't there.
    Away,
    /// It may have stored them.
    Unknown(String),
}

impl OverHttp {
    /// To be called where there are sockets.
    pub fn new(cluster: Arc<Cluster>, work: Work) -> Self {
        Self {
            cluster,
            work,
            sockets: Handle::current(),
        }
    }

    async fn send(&self, to: &str, stream: &Definition, rows: &RecordBatch) -> Result<Kept, Failure> {
        let unknown = |why: String| Failure::Unknown(format!("the gateway at {to} has the stream's keys: {why}"));
        let mut url = Url::parse(&format!("http://{to}/internal")).map_err(|error| unknown(error.to_string()))?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(["streams", &stream.name, "rows"]);
        }
        url.query_pairs_mut().append_pair("id", &stream.id.to_string());
        let body = encode(rows).map_err(|error| unknown(error.to_string()))?;
        let secret = self.cluster.secret();
        let request = self.cluster.http.post(url).timeout(TIMEOUT);
        let request = request.header(SECRET_HEADER, &*secret).body(body);
        let answered = self.sockets.spawn(async move {
            let answer = request.send().await?;
            let stored = answer.headers().get(OFFSET_HEADER).cloned();
            Ok::<_, reqwest::Error>((answer.status(), stored, answer.bytes().await?))
        });
        let answered = answered.await.map_err(|error| unknown(error.to_string()))?;
        let (status, stored, bytes) = answered.map_err(|error| match error.is_connect() {
            true => Failure::Away,
            false => unknown(error.to_string()),
        })?;
        if status != StatusCode::OK {
            return Err(unknown(format!("it answers with {status}")));
        }
        let stored = stored.and_then(|stored| stored.to_str().ok()?.parse().ok());
        match stored.filter(|_| bytes.len() == rows.num_rows()) {
            Some(stored) => Ok(Kept {
                fresh: bytes.iter().map(|&fresh| fresh == 1).collect(),
                stored,
            }),
            None => Err(unknown("its answer is for other rows".to_owned())),
        }
    }
}

impl Forward for OverHttp {
    fn is_here(&self, owner: &str) -> bool {
        self.work.has(owner)
    }

    fn admits(&self, secret: &str) -> bool {
        let ours = self.cluster.secret();
        !ours.is_empty() && *ours == *secret
    }

    fn store<'a>(&'a self, owner: &'a str, stream: &'a Definition, rows: &'a RecordBatch) -> Forwarded<'a> {
        Box::pin(async move {
            let to = self.cluster.address_of(owner)?;
            let lots = rows.get_array_memory_size().div_ceil(BYTES_MAX).max(1);
            let lot_rows = rows.num_rows().div_ceil(lots).max(1);
            let mut kept = Kept::default();
            while kept.fresh.len() < rows.num_rows() {
                let done = kept.fresh.len();
                let count = lot_rows.min(rows.num_rows() - done);
                match self.send(&to, stream, &rows.slice(done, count)).await {
                    Ok(of_lot) => {
                        kept.fresh.extend(of_lot.fresh);
                        kept.stored.merge(&of_lot.stored);
                    }
                    Err(Failure::Away) if done == 0 => return None,
                    Err(failure) => {
                        if let Failure::Unknown(why) = failure {
                            tracing::warn!(stream = stream.name, "{why}");
                        }
                        return Some(Err(IngestError::TooBusy {
                            retry_after: RETRY_AFTER,
                        }));
                    }
                }
            }
            Some(Ok(kept))
        })
    }
}
