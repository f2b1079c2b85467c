//! Which owners' work is this process's to do, where several processes share a log.
//!
//! The log itself sees to it that nobody commits what somebody else has claimed since. What is said here keeps processes from
//! claiming each other's work: whoever does an owner's work waits until it is [`granted`](Work::granted), and ends when it
//! is [`withdrawn`](Work::withdrawn). Two processes may believe for a moment that the same work is theirs; then the log decides.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

/// The owners whose work has been given to a process.
pub type Owners = Arc<BTreeSet<Arc<str>>>;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Work(Share);

#[derive(Clone, Debug)]
enum Share {
    All,
    Some(watch::Receiver<Owners>),
}

impl Work {
    /// All work is this process's, because there is no other.
    pub fn all() -> Self {
        Self(Share::All)
    }

    /// What the sender says; when it is gone, what it has said last.
    pub fn shared(owners: watch::Receiver<Owners>) -> Self {
        Self(Share::Some(owners))
    }

    /// Whether there may be other processes.
    pub fn is_shared(&self) -> bool {
        matches!(self.0, Share::Some(_))
    }

    pub fn has(&self, owner: &str) -> bool {
        match &self.0 {
            Share::All => true,
            Share::Some(owners) => owners.borrow().contains(owner),
        }
    }

    /// Returns when the owner's work is this process's.
    pub async fn granted(&self, owner: &str) {
        self.until(|owners| owners.contains(owner)).await;
    }

    /// Returns when the owner's work is no longer this process's.
    pub async fn withdrawn(&self, owner: &str) {
        match &self.0 {
            Share::All => std::future::pending().await,
            Share::Some(_) => self.until(|owners| !owners.contains(owner)).await,
        }
    }

    /// Returns when what is this process's has changed.
    pub async fn changed(&mut self) {
        match &mut self.0 {
            Share::All => std::future::pending().await,
            Share::Some(owners) => {
                if owners.changed().await.is_err() {
                    std::future::pending().await
                }
            }
        }
    }

    async fn until(&self, is_so: impl Fn(&Owners) -> bool) {
        let Share::Some(owners) = &self.0 else { return };
        if owners.clone().wait_for(is_so).await.is_err() {
            // Nobody says anything any more.
            std::future::pending().await
        }
    }
}
