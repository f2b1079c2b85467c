//! What a data directory knows of itself: which process it is, and of which cluster it has copies.

use bytes::Bytes;
use headwater_event::clock::Clock;

use crate::embedded::EmbeddedLog;
use crate::error::{Error, Result};
use crate::{Commit, Log as _, StateWrite};

/// The table of the copies' log that has it.
pub(super) const TABLE: &str = "process";

const ID: &[u8] = b"id";
const CLUSTER: &[u8] = b"cluster";

/// What this directory's process is called: the same after a restart, so that it takes over from itself.
pub(super) async fn process_id(copies: &EmbeddedLog, clock: &dyn Clock) -> Result<String> {
    if let Some(id) = noted(copies, ID).await? {
        return Ok(id);
    }
    let id = format!("{:x}-{:x}", clock.now(), std::process::id());
    note(copies, ID, &id).await?;
    Ok(id)
}

/// Fails where the copies are of another cluster than this one: their places there mean something else here. Some clusters don't say who they are.
pub(super) async fn check_cluster(copies: &EmbeddedLog, cluster: Option<String>) -> Result<()> {
    let Some(cluster) = cluster else {
        return Ok(());
    };
    match noted(copies, CLUSTER).await? {
        None => note(copies, CLUSTER, &cluster).await,
        Some(known) if known == cluster => Ok(()),
        Some(known) => Err(Error::Invalid(format!(
            "the data directory belongs to the Kafka cluster {known}, and these brokers are of the cluster {cluster}: name the brokers of that one \
             (log.brokers), or take another data directory (data.directory, --data)"
        ))),
    }
}

async fn noted(copies: &EmbeddedLog, key: &'static [u8]) -> Result<Option<String>> {
    let noted = copies.state(TABLE).await?.get(key)?;
    Ok(noted.map(|value| String::from_utf8_lossy(&value).into_owned()))
}

async fn note(copies: &EmbeddedLog, key: &'static [u8], value: &str) -> Result<()> {
    let claim = copies.claim(TABLE).await?;
    let write = StateWrite {
        table: TABLE.into(),
        entries: [(Bytes::from_static(key), Some(Bytes::from(value.to_owned())))].into(),
    };
    let commit = Commit {
        state: vec![write],
        ..Commit::default()
    };
    copies.commit(&claim, commit).await.map(|_| ())
}
