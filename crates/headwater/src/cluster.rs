//! Several processes that share a log: who is there, and who does what.
//!
//! * Each process says every so often that it is there, in the topic `$processes`. One that isn't heard of for the
//!   session time is taken for gone.
//! * The processor that has been there longest leads: it gives out the work ([`balance`]), in the topic `$work`.
//! * Each process follows both, and so knows what is its own ([`headwater_log::work`]).
//!
//! Whether results are right depends on none of this. Two processes may take themselves for the leader, or for the one that does some
//! work, until they have heard of each other; what they commit meanwhile the log lets one of them commit only.

pub mod balance;
pub mod forward;
pub mod roles;

mod register;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use headwater_event::clock::{Clock, Micros};
use headwater_event::id::Ids;
use headwater_gateway::ingest::forward::Forward;
use headwater_log::error::{Kind, Result};
use headwater_log::topic::Cleanup;
use headwater_log::work::Work;
use headwater_log::{Claim, Commit, Log};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cluster::balance::{Owners, Unit, balance};
use crate::cluster::register::Register;
use crate::cluster::roles::{Role, Roles};

const PROCESSES: &str = "$processes";
const WORK: &str = "$work";

/// Under what the leader speaks, in the log and in its topic.
const LEADER: &str = "leader";

/// A process is heard of so many times in a session.
const BEATS: u32 = 5;

/// How long the leader may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// What was said of processes is kept for so long.
const KEPT: Duration = Duration::from_secs(3600);

/// A process, as it says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// The same after a restart with the same data directory.
    pub id: Arc<str>,
    pub roles: Roles,
    pub started: Micros,
    /// Where others reach its HTTP door: a host and a port.
    pub http: Option<String>,
    pub version: String,
}

/// Whether sources bring events in and sinks take rows out. Where statements are only checked, they don't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    Open,
    Shut,
}

/// What a process does of all that is to do.
#[derive(Clone, Debug)]
pub struct Part {
    pub roles: Roles,
    pub intake: Intake,
    /// The way to other gateways.
    pub forward: Option<Arc<dyn Forward>>,
    pub work: Work,
    /// Whether it is this process that deletes what is dropped, and puts in place what was built.
    pub leads: watch::Receiver<bool>,
    /// All work that is to be given out, as this process knows it; `None` before it knows.
    pub units: watch::Sender<Option<Arc<[Unit]>>>,
}

/// Who is there, and who does what.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// By id.
    pub processes: BTreeMap<Arc<str>, Process>,
    pub leader: Option<Arc<str>>,
    pub owners: Arc<Owners>,
    secret: Arc<str>,
}

/// What the leader says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct GivenOut {
    by: Arc<str>,
    owners: Arc<Owners>,
    /// What processes of this cluster know, and nobody else: by it they know each other where they speak over HTTP. The first leader makes it up.
    #[serde(default)]
    secret: Arc<str>,
}

/// This process among those that share its log.
#[derive(Debug)]
pub struct Cluster {
    pub me: Process,
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    ids: Arc<Ids>,
    session: Duration,
    /// For what goes past the log.
    pub http: reqwest::Client,
    view: watch::Sender<View>,
    mine: watch::Sender<Arc<BTreeSet<Arc<str>>>>,
    leads: watch::Sender<bool>,
    units: watch::Receiver<Option<Arc<[Unit]>>>,
}

impl Part {
    /// The part of a process that shares its log with nobody.
    pub fn alone(intake: Intake) -> Self {
        Self {
            roles: Roles::all(),
            intake,
            forward: None,
            work: Work::all(),
            leads: watch::channel(true).1,
            units: watch::Sender::default(),
        }
    }
}

impl View {
    /// The processor that has been there longest.
    fn first(&self) -> Option<&Process> {
        let processors = self
            .processes
            .values()
            .filter(|process| process.roles.has(Role::Processor));
        processors.min_by_key(|process| (process.started, process.id.clone()))
    }
}

impl Cluster {
    /// With the part that it gives this process, once it runs.
    ///
    /// # Errors
    /// If this machine can't open connections.
    pub fn new(
        me: Process,
        session: Duration,
        log: Arc<dyn Log>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Arc<Self>, Part), reqwest::Error> {
        let (mine, owners) = watch::channel(Arc::default());
        let (leads, is_leader) = watch::channel(false);
        let (units, to_give_out) = watch::channel(None);
        let part = Part {
            roles: me.roles.clone(),
            intake: Intake::Open,
            forward: None,
            work: Work::shared(owners),
            leads: is_leader,
            units,
        };
        let cluster = Self {
            me,
            log,
            ids: Ids::random(Arc::clone(&clock)),
            clock,
            session,
            http: reqwest::Client::builder().no_proxy().build()?,
            view: watch::Sender::default(),
            mine,
            leads,
            units: to_give_out,
        };
        Ok((Arc::new(cluster), part))
    }

    /// Where the process is that does an owner's work, if that is another one.
    pub fn address_of(&self, owner: &str) -> Option<String> {
        let view = self.view.borrow();
        let process = view.owners.get(owner).filter(|process| **process != self.me.id)?;
        view.processes.get(process)?.http.clone()
    }

    /// What the leader answers to a `GET` of `path`.
    ///
    /// # Errors
    /// Why it doesn't, with its address.
    pub async fn ask_leader(&self, path: &str) -> Result<String, String> {
        let view = self.view();
        let leader = view.leader.as_ref().and_then(|leader| view.processes.get(leader));
        let Some(leader) = leader else {
            return Err("no processor is there".to_owned());
        };
        let Some(address) = &leader.http else {
            return Err(format!("the processor {} has no HTTP door (http.listen)", leader.id));
        };
        let asked = async {
            let question = self.http.get(format!("http://{address}{path}")).timeout(ANSWER_TIMEOUT);
            question.send().await?.error_for_status()?.text().await
        };
        let answer = asked.await;
        answer.map_err(|error| format!("the processor at {address} does not answer: {}", error.without_url()))
    }

    /// Who is there and who does what, as this process has heard.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// What processes of this cluster know, and nobody else; nothing, before it was heard.
    pub fn secret(&self) -> Arc<str> {
        self.view.borrow().secret.clone()
    }

    /// Takes part until `stop`, and says goodbye.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        while let Err(error) = self.take_part(&stop).await {
            if stop.is_cancelled() {
                return;
            }
            warn!(%error, "out of touch with the other processes, trying again");
            self.clock.sleep(self.session / BEATS).await;
        }
    }

    async fn take_part(&self, stop: &CancellationToken) -> Result<()> {
        let kept = Cleanup::Delete {
            retention_ms: Some(KEPT.as_millis() as u64),
            retention_bytes: None,
        };
        let now = self.clock.now();
        let since = now - self.session.as_micros() as Micros;
        let mut processes = Register::open(&self.log, PROCESSES, kept, Some(since)).await?;
        let newest = Cleanup::Compact { key: "name".to_owned() };
        let mut work = Register::open(&self.log, WORK, newest, None).await?;
        let mut heard = Heard::default();
        let mut given_out = GivenOut::default();
        let mut claim = None;
        let mut units = self.units.clone();
        let mut next_beat = Duration::ZERO;
        while !stop.is_cancelled() {
            if self.clock.elapsed() >= next_beat {
                self.log
                    .append(vec![processes.saying(&self.me.id, Some(&self.me))?])
                    .await?;
                next_beat = self.clock.elapsed() + self.session / BEATS;
            }
            let now = self.clock.elapsed();
            for said in processes.news::<Process>().await? {
                heard.take_in(&said.name, said.what, now);
            }
            heard.forget(now.saturating_sub(self.session), &self.me.id);
            if let Some(said) = work
                .news::<GivenOut>()
                .await?
                .into_iter()
                .filter_map(|said| said.what)
                .next_back()
            {
                given_out = said;
            }
            let view = self.publish(&heard, &given_out);
            let known = units.borrow_and_update().clone();
            match known.filter(|_| *self.leads.borrow()) {
                Some(units) => {
                    let processes: Vec<_> = view.processes.into_values().collect();
                    let owners = balance(&units, &processes, &given_out.owners);
                    if owners != *given_out.owners || given_out.by != self.me.id {
                        let secret = given_out.secret.clone();
                        self.give_out(&mut claim, &work, owners, secret).await?;
                        continue;
                    }
                }
                None => claim = None,
            }
            let until = next_beat.min(heard.next_to_forget(&self.me.id) + self.session);
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.clock.sleep(until.saturating_sub(self.clock.elapsed())) => {}
                waited = processes.wait() => waited?,
                waited = work.wait() => waited?,
                Ok(()) = units.changed() => {}
            }
        }
        self.log
            .append(vec![processes.saying::<Process>(&self.me.id, None)?])
            .await?;
        Ok(())
    }

    /// Says who does what; what an earlier leader says from now on nobody will hear.
    async fn give_out(
        &self,
        claim: &mut Option<Claim>,
        work: &Register,
        owners: Owners,
        secret: Arc<str>,
    ) -> Result<()> {
        let said = GivenOut {
            by: self.me.id.clone(),
            owners: Arc::new(owners),
            secret: match secret.is_empty() {
                true => self.ids.uuid().to_string().into(),
                false => secret,
            },
        };
        let commit = Commit {
            produced: vec![work.saying(LEADER, Some(&said))?],
            ..Commit::default()
        };
        let Some(held) = claim else {
            // Looked at once more before it speaks: the last leader may just have said something.
            *claim = Some(self.log.claim(WORK).await?);
            return Ok(());
        };
        match self.log.commit(held, commit).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == Kind::Conflict => {
                *claim = None;
                // Whoever it was has been heard of by then, or isn't there any more.
                self.clock.sleep(self.session / BEATS).await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn publish(&self, heard: &Heard, given_out: &GivenOut) -> View {
        let mut view = View {
            processes: heard.processes(),
            leader: None,
            owners: Arc::clone(&given_out.owners),
            secret: given_out.secret.clone(),
        };
        view.leader = view.first().map(|process| process.id.clone());
        let former = self.view.send_replace(view.clone());
        // Before this process takes up what they did.
        for gone in former.processes.keys().filter(|id| !view.processes.contains_key(*id)) {
            self.log.left(gone);
        }
        let leads = view.leader.as_ref() == Some(&self.me.id);
        let is_new = |known: &mut bool| std::mem::replace(known, leads) != leads;
        if self.leads.send_if_modified(is_new) && leads {
            info!(process = &*self.me.id, "leads the processes that share the log");
        }
        let mine = given_out.owners.iter().filter(|(_, process)| **process == self.me.id);
        let mine: BTreeSet<_> = mine.map(|(owner, _)| owner.clone()).collect();
        self.mine.send_if_modified(|known| {
            let is_new = **known != mine;
            if is_new {
                *known = Arc::new(mine);
            }
            is_new
        });
        view
    }
}

/// The processes, and when each was last heard of, by this process's own time: clocks of machines differ.
#[derive(Debug, Default)]
struct Heard(BTreeMap<Arc<str>, (Process, Duration)>);

impl Heard {
    fn take_in(&mut self, id: &str, what: Option<Process>, now: Duration) {
        match what {
            Some(process) => {
                let former = self.0.insert(process.id.clone(), (process.clone(), now));
                if former.is_none() {
                    info!(process = id, roles = %process.roles, http = process.http, "a process is there");
                }
            }
            None => {
                if self.0.remove(id).is_some() {
                    info!(process = id, "a process has left");
                }
            }
        }
    }

    /// Takes those for gone that were last heard of before that time.
    fn forget(&mut self, before: Duration, me: &str) {
        self.0.retain(|id, (_, last)| {
            let is_there = **id == *me || *last >= before;
            if !is_there {
                warn!(
                    process = &**id,
                    "a process has not been heard of for the session time: others do its work"
                );
            }
            is_there
        });
    }

    /// When the next one was last heard of that may have to be forgotten.
    fn next_to_forget(&self, me: &str) -> Duration {
        let others = self.0.iter().filter(|(id, _)| ***id != *me);
        // Half of it, so that adding to it is safe.
        others.map(|(_, (_, last))| *last).min().unwrap_or(Duration::MAX / 2)
    }

    fn processes(&self) -> BTreeMap<Arc<str>, Process> {
        let processes = self.0.iter();
        processes
            .map(|(id, (process, _))| (id.clone(), process.clone()))
            .collect()
    }
}
