//! In whose name this process commits, and how work changes hands.
//!
//! All commits of a process go through one writer, so that those of many tasks are one transaction. Its transactional ids are those of a *session*,
//! which nobody else ever has: whoever takes over the ids of a session ends it for good, and with it all claims that were made in it.
//!
//! Claims are records among the owners, in an order that all processes agree on. Of an owner's claims the last one counts:
//! 1. Whoever claims writes a record, and looks at what stands before it.
//! 2. A process that holds an earlier claim sees the record too. It commits nothing more in that name, and then marks its claim as given up
//!    ([`Held::give_up`]; the writer sees to the order).
//! 3. The claim is good when every earlier one is given up. Where that takes longer than [`GIVING_UP_TIME_MAX`], or the process has left, the
//!    session is ended instead.
//!
//! So nothing is committed in an owner's name behind a claim that is good, but with that claim: whoever had an earlier one has either said that it
//! will not, or can write no more. What was committed before stands before the mark, or before the end of the session, and is read first.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use headwater_event::offset::{Offset, TopicPartition};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::Claim;
use crate::error::{Error, Result};
use crate::kafka::cluster::{blocking, pause};
use crate::kafka::connection::Connection;
use crate::kafka::follower::{Consumed, Followed, offsets_of};
use crate::kafka::names::Names;
use crate::kafka::transactions::{Failure, Record, Transactions};
use crate::kafka::writer::{Open, Write, Writer};

/// How long to wait until a process that seems to be there gives up what it had: about what its longest commits take.
const GIVING_UP_TIME_MAX: Duration = Duration::from_secs(5);

/// Whoever lost to a later claim, as a rule claims again. Each waits so long, times what its record says, so that of many one comes to an end.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
const AGAIN_TIMES: i64 = 16;

/// What the key of a claim begins with.
pub(super) const CLAIM: u8 = b'c';

/// Between the parts of a claim's key. The owner, which may be any text, comes last.
const SEPARATOR: u8 = 0;

/// One claim: no other has the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ClaimKey {
    pub session: Arc<str>,
    /// Within the session.
    pub number: u64,
    pub owner: Arc<str>,
}

impl ClaimKey {
    fn encode(&self) -> Bytes {
        let mut key = vec![CLAIM];
        key.extend_from_slice(self.session.as_bytes());
        key.push(SEPARATOR);
        key.extend_from_slice(self.number.to_string().as_bytes());
        key.push(SEPARATOR);
        key.extend_from_slice(self.owner.as_bytes());
        key.into()
    }

    /// From a key without its first byte.
    pub fn decode(key: &[u8]) -> Option<Self> {
        let mut parts = key.splitn(3, |&byte| byte == SEPARATOR);
        let mut part = || std::str::from_utf8(parts.next()?).ok();
        Some(Self {
            session: part()?.into(),
            number: part()?.parse().ok()?,
            owner: part()?.into(),
        })
    }

    fn record(&self, topic: &Arc<str>, value: Option<Bytes>) -> Record {
        Record {
            topic: topic.clone(),
            partition: Some(0),
            key: Some(self.encode()),
            value,
            time: None,
        }
    }
}

/// The process that a session is of.
fn process_of(session: &str) -> &str {
    session.rsplit_once('.').map_or(session, |(process, _)| process)
}

/// Claims that are not given up, as far as they are known here: the record of each, by owner.
#[derive(Debug, Default)]
pub(super) struct Claims(HashMap<Arc<str>, BTreeMap<i64, ClaimKey>>);

impl Claims {
    pub fn made(&mut self, claim: ClaimKey, record: i64) {
        self.0.entry(claim.owner.clone()).or_default().insert(record, claim);
    }

    pub fn given_up(&mut self, claim: &ClaimKey) {
        if let Some(claims) = self.0.get_mut(&claim.owner) {
            claims.retain(|_, known| known != claim);
            if claims.is_empty() {
                self.0.remove(&claim.owner);
            }
        }
    }

    fn has(&self, claim: &ClaimKey) -> bool {
        let claims = self.0.get(&claim.owner);
        claims.is_some_and(|claims| claims.values().any(|known| known == claim))
    }

    /// What stands before a record, by others than the session.
    fn before(&self, owner: &str, record: i64, session: &str) -> Vec<ClaimKey> {
        let claims = self.0.get(owner).into_iter().flat_map(|claims| claims.range(..record));
        let of_others = claims.filter(|(_, claim)| *claim.session != *session);
        of_others.map(|(_, claim)| claim.clone()).collect()
    }

    /// Whether somebody else has claimed it after that record.
    pub fn is_claimed_after(&self, owner: &str, record: i64, session: &str) -> bool {
        let claims = self.0.get(owner).into_iter().flat_map(|claims| claims.range(record..));
        claims.into_iter().any(|(_, claim)| *claim.session != *session)
    }

    fn sessions_of(&self, process: &str) -> HashSet<Arc<str>> {
        let all = self.0.values().flat_map(BTreeMap::values);
        let of_process = all.filter(|claim| process_of(&claim.session) == process);
        of_process.map(|claim| claim.session.clone()).collect()
    }
}

/// A claim of this process's.
pub(super) struct Hold {
    claim: ClaimKey,
    /// The record of the claim, once it is good; before, nothing is.
    token: AtomicU64,
    given_up: AtomicBool,
    consumed: Mutex<HashMap<TopicPartition, Consumed>>,
    /// Commits are written in the order in which they were asked for.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Hold {
    pub fn is_held_in(&self, session: &str) -> bool {
        *self.claim.session == *session && !self.is_given_up()
    }

    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::SeqCst)
    }

    fn offsets(&self) -> HashMap<TopicPartition, Offset> {
        offsets_of(&self.consumed.lock())
    }
}

/// What this process has claimed.
pub(super) struct Held {
    topic: Arc<str>,
    by_owner: Mutex<HashMap<Arc<str>, Arc<Hold>>>,
    /// Whose marks are to be written.
    given_up: Mutex<Vec<ClaimKey>>,
    writer: OnceLock<Weak<Writer>>,
}

impl Held {
    /// `topic` is that of the owners.
    pub fn new(topic: String) -> Arc<Self> {
        Arc::new(Self {
            topic: topic.into(),
            by_owner: Mutex::default(),
            given_up: Mutex::default(),
            writer: OnceLock::new(),
        })
    }

    fn get(&self, owner: &str) -> Option<Arc<Hold>> {
        self.by_owner.lock().get(owner).cloned()
    }

    /// From now on nothing is written in its name; the mark comes after what was.
    fn give_up(&self, hold: &Hold) {
        if !hold.given_up.swap(true, Ordering::SeqCst) {
            self.given_up.lock().push(hold.claim.clone());
        }
    }

    fn give_up_all(&self) {
        for hold in self.by_owner.lock().values() {
            self.give_up(hold);
        }
    }

    /// Somebody else's claim of an owner was seen, `known` being those before it.
    pub fn claimed_elsewhere(&self, claim: &ClaimKey, known: &Claims) {
        let Some(hold) = self.get(&claim.owner) else { return };
        // An own claim that isn't known yet is a later one.
        if *hold.claim.session != *claim.session && known.has(&hold.claim) && !hold.is_given_up() {
            self.give_up(&hold);
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(writer) = self.writer.get().and_then(Weak::upgrade) {
            writer.wake();
        }
    }

    /// The marks of what was given up. Those of other sessions are left out: who ends those will write them, when nothing of theirs is undecided.
    pub fn take_given_up(&self, session: Option<&str>) -> Vec<Record> {
        let given_up = std::mem::take(&mut *self.given_up.lock());
        let of_session = given_up.iter().filter(|claim| session == Some(&*claim.session));
        of_session.map(|claim| claim.record(&self.topic, None)).collect()
    }
}

/// See the module.
pub(super) struct Owners {
    names: Names,
    connection: Connection,
    followed: Arc<Followed>,
    held: Arc<Held>,
    writer: Arc<Writer>,
    claims: AtomicU64,
    /// Sessions that can write no more.
    ended: tokio::sync::Mutex<HashSet<Arc<str>>>,
    /// Sessions of processes that have left, or are taken for it.
    left: watch::Sender<HashSet<Arc<str>>>,
}

impl Owners {
    pub fn start(
        names: &Names,
        connection: &Connection,
        followed: &Arc<Followed>,
        held: Arc<Held>,
        open: Open,
    ) -> Result<Self> {
        let writer = Arc::new(Writer::start("log-committer", held.clone(), open)?);
        held.writer.get_or_init(|| Arc::downgrade(&writer));
        Ok(Self {
            names: names.clone(),
            connection: connection.clone(),
            followed: followed.clone(),
            held,
            writer,
            claims: AtomicU64::new(0),
            ended: tokio::sync::Mutex::default(),
            left: watch::Sender::default(),
        })
    }

    pub async fn claim(&self, owner: &str) -> Result<Claim> {
        let claim = ClaimKey {
            session: self.writer.session().await?,
            number: self.claims.fetch_add(1, Ordering::Relaxed),
            owner: owner.into(),
        };
        let hold = Arc::new(Hold {
            claim: claim.clone(),
            token: AtomicU64::new(u64::MAX),
            given_up: AtomicBool::new(false),
            consumed: Mutex::default(),
            turn: Arc::default(),
        });
        let former = self.held.by_owner.lock().insert(claim.owner.clone(), hold.clone());
        if let Some(former) = former {
            self.held.give_up(&former);
        }
        let made = claim.record(&self.held.topic, Some(Bytes::new()));
        let written = self.writer.write(Some(hold.clone()), vec![made]).await;
        let record = match written {
            Ok(placed) => placed[0],
            Err(Failure::Aborted(error)) => return Err(error),
            Err(Failure::Broken(error)) => return Err(lost(owner, &error)),
        };
        self.followed.wait(&self.held.topic, record).await?;
        self.end_earlier(&hold, record).await?;
        if hold.is_given_up() {
            pause(AGAIN_AFTER * u32::try_from(record % AGAIN_TIMES).unwrap_or(0)).await;
            return Err(fenced(owner));
        }
        let token = u64::try_from(record).unwrap_or(0);
        *hold.consumed.lock() = self.followed.consumed_by(owner);
        hold.token.store(token, Ordering::SeqCst);
        Ok(Claim {
            owner: claim.owner,
            token,
            consumed: hold.offsets(),
        })
    }

    /// Returns when nothing comes of the claims before a record any more.
    async fn end_earlier(&self, hold: &Arc<Hold>, record: i64) -> Result<()> {
        let ClaimKey { session, owner, .. } = &hold.claim;
        loop {
            let earlier = self.followed.claims.read().before(owner, record, session);
            let Some(claim) = earlier.first() else {
                return Ok(());
            };
            if self.is_given_up_soon(claim).await? {
                continue;
            }
            self.end(&claim.session).await?;
            let marks = earlier.iter().filter(|other| other.session == claim.session);
            let marks = marks.map(|other| other.record(&self.held.topic, None)).collect();
            let placed = match self.writer.write(Some(hold.clone()), marks).await {
                Ok(placed) => placed,
                Err(Failure::Aborted(error)) => return Err(error),
                Err(Failure::Broken(error)) => return Err(lost(owner, &error)),
            };
            let last = placed.last().copied().unwrap_or(record);
            self.followed.wait(&self.held.topic, last).await?;
        }
    }

    /// Waits for whoever has made the claim, if it may still be there.
    async fn is_given_up_soon(&self, claim: &ClaimKey) -> Result<bool> {
        let own = self.writer.session().await?;
        let is_former = process_of(&claim.session) == process_of(&own);
        if is_former || self.ended.lock().await.contains(&claim.session) {
            return Ok(false);
        }
        let (mut changes, mut left) = (self.followed.changes(), self.left.subscribe());
        let waited = async {
            tokio::select! {
                biased;
                changed = changes.wait_for(|_| !self.followed.claims.read().has(claim)) => changed.map(|_| true),
                left = left.wait_for(|left| left.contains(&claim.session)) => left.map(|_| false),
            }
        };
        match tokio::time::timeout(GIVING_UP_TIME_MAX, waited).await {
            Ok(answer) => answer.map_err(|_| Error::Closed),
            Err(_) => Ok(false),
        }
    }

    /// When it returns, all that was written in a session is decided, and no more can come.
    async fn end(&self, session: &Arc<str>) -> Result<()> {
        let mut ended = self.ended.lock().await;
        if ended.contains(session) {
            return Ok(());
        }
        tracing::info!(%session, "what another process did, or this one did before, is taken over: its session is ended");
        let (connection, ids, topic) = (
            self.connection.clone(),
            self.names.session(session),
            self.held.topic.clone(),
        );
        blocking(move || Transactions::open_all(&connection, &ids, &topic).map(drop)).await?;
        ended.insert(session.clone());
        Ok(())
    }

    /// Who has claimed from there need not be waited for.
    pub fn left(&self, process: &str) {
        let sessions = self.followed.claims.read().sessions_of(process);
        self.left.send_modify(|left| left.extend(sessions));
    }

    /// What was claimed, if the claim is still good.
    fn held(&self, claim: &Claim) -> Result<Arc<Hold>> {
        let hold = self.held.get(&claim.owner);
        let is_good = |hold: &Arc<Hold>| hold.token.load(Ordering::SeqCst) == claim.token && !hold.is_given_up();
        hold.filter(is_good).ok_or_else(|| fenced(&claim.owner))
    }

    /// The turn to commit.
    pub async fn turn(&self, claim: &Claim) -> Result<Turn> {
        let hold = self.held(claim)?;
        let turn = hold.turn.clone().lock_owned().await;
        Ok(Turn { hold, _turn: turn })
    }

    /// Writes in the name of whose turn it is, and keeps the turn until it is done.
    pub async fn write(
        &self,
        turn: Turn,
        records: Vec<Record>,
        done: impl FnOnce(Turn, Result<Vec<i64>, Failure>) + Send + 'static,
    ) -> Result<()> {
        let write = Write {
            hold: Some(turn.hold.clone()),
            records,
            done: Box::new(move |placed| done(turn, placed)),
        };
        self.writer.send(write).await
    }

    /// Why nothing can be committed with a claim any more.
    pub fn why_broken(&self, claim: &Claim, error: &Error) -> Error {
        let hold = self.held.get(&claim.owner);
        let session = hold.map(|hold| hold.claim.session.clone()).unwrap_or_default();
        let claims = self.followed.claims.read();
        let record = i64::try_from(claim.token).unwrap_or(i64::MAX);
        match self.held(claim).is_err() || claims.is_claimed_after(&claim.owner, record, &session) {
            true => fenced(&claim.owner),
            false => lost(&claim.owner, error),
        }
    }

    /// What this process has committed of an owner, where nobody else has claimed it.
    pub fn consumed(&self, owner: &str) -> Option<HashMap<TopicPartition, Offset>> {
        let hold = self.held.get(owner)?;
        let is_good = hold.token.load(Ordering::SeqCst) != u64::MAX && !hold.is_given_up();
        is_good.then(|| hold.offsets())
    }

    /// Forgets what the owner has consumed.
    pub async fn release(&self, owner: &str, nothing: Record) -> Result<()> {
        let claim = self.claim(owner).await?;
        let hold = self.held(&claim)?;
        let written = self.writer.write(Some(hold.clone()), vec![nothing]).await;
        let placed = written.map_err(Failure::into_error)?;
        self.held.by_owner.lock().remove(owner);
        self.held.give_up(&hold);
        self.held.wake();
        self.followed.wait(&self.held.topic, placed[0]).await
    }

    /// Gives up everything; what is still waiting isn't written. Blocks until it is done.
    pub fn close(&self) {
        self.held.give_up_all();
        self.writer.close();
    }
}

impl Drop for Owners {
    fn drop(&mut self) {
        self.close();
    }
}

/// While it is there, nobody else commits in that owner's name.
pub(super) struct Turn {
    hold: Arc<Hold>,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

impl Turn {
    pub fn consumed(&self) -> HashMap<TopicPartition, Consumed> {
        self.hold.consumed.lock().clone()
    }

    pub fn has_consumed(&self, consumed: HashMap<TopicPartition, Consumed>) {
        *self.hold.consumed.lock() = consumed;
    }
}

fn fenced(owner: &str) -> Error {
    Error::Fenced {
        owner: owner.to_owned(),
    }
}

fn lost(owner: &str, error: &Error) -> Error {
    Error::ClaimLost {
        owner: owner.to_owned(),
        what: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(session: &str, number: u64) -> ClaimKey {
        ClaimKey {
            session: session.into(),
            number,
            owner: "a\0b.0".into(),
        }
    }

    #[test]
    fn keys_of_claims_are_read_back() {
        let claim = claim("p-1.7", 12);
        let key = claim.encode();
        assert_eq!(key[0], CLAIM);
        assert_eq!(ClaimKey::decode(&key[1..]), Some(claim));
        for broken in [&b""[..], b"p", b"p\0x\0o", b"\xff\x001\0o"] {
            assert_eq!(ClaimKey::decode(broken), None);
        }
    }

    #[test]
    fn what_stands_before_counts() {
        let mut claims = Claims::default();
        let [first, second, third] = [claim("p.1", 0), claim("q.1", 0), claim("p.1", 1)];
        for (record, claim) in [(3, &first), (5, &second), (9, &third)] {
            claims.made(claim.clone(), record);
        }
        assert_eq!(claims.before("a\0b.0", 9, "p.1"), std::slice::from_ref(&second));
        assert_eq!(claims.before("a\0b.0", 5, "q.1"), std::slice::from_ref(&first));
        assert!(claims.is_claimed_after("a\0b.0", 5, "q.1") && !claims.is_claimed_after("a\0b.0", 9, "p.1"));
        claims.given_up(&second);
        assert!(claims.before("a\0b.0", 9, "p.1").is_empty() && claims.has(&first));
        assert_eq!(claims.sessions_of("p"), ["p.1".into()].into());
    }

    /// An earlier claim gives way to a later one, and not the other way round.
    #[test]
    fn an_earlier_claim_gives_way() {
        let held = Held::new("owners".to_owned());
        let hold = Arc::new(Hold {
            claim: claim("p.1", 0),
            token: AtomicU64::new(0),
            given_up: AtomicBool::new(false),
            consumed: Mutex::default(),
            turn: Arc::default(),
        });
        held.by_owner.lock().insert(hold.claim.owner.clone(), hold.clone());
        let mut known = Claims::default();
        held.claimed_elsewhere(&claim("q.1", 0), &known);
        assert!(hold.is_held_in("p.1") && !hold.is_held_in("p.2"));
        known.made(hold.claim.clone(), 4);
        held.claimed_elsewhere(&claim("q.1", 1), &known);
        assert!(!hold.is_held_in("p.1"));
        assert_eq!(held.take_given_up(Some("p.1")).len(), 1);
        assert!(held.take_given_up(Some("p.1")).is_empty());
    }
}
