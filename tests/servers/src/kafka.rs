//! Apache Kafka: one broker that is its own controller, or several.
//!
//! Who comes in plaintext may do everything, and so may [`USER`] over the other listeners. [`GUEST`] may do what it is given: brokers ask
//! an authorizer.

mod certificates;
mod tokens;

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::network::Machine;
use crate::ports::free_ports;
use crate::{PATIENCE, find, missing};

/// A small machine shares its cores with the tests.
const JAVA_OPTIONS: [&str; 4] = [
    "-Xmx384m",
    "-Xshare:auto",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
];

/// A running cluster.
#[derive(Debug)]
pub struct Kafka {
    /// `host:port` of each, with commas.
    pub brokers: String,
    /// The first broker, where it asks for TLS and a user.
    pub secured: Secured,
    nodes: Vec<Node>,
}

/// A broker that is a controller as well.
#[derive(Debug)]
struct Node {
    folder: PathBuf,
    properties: PathBuf,
    place: Place,
    child: Option<Child>,
}

/// Where a broker is.
#[derive(Clone, Debug)]
struct Place {
    machine: Option<Machine>,
    plain: u16,
    secured: u16,
    mutual: u16,
    expired: u16,
    controller: u16,
}

/// How to get in where the broker asks who it is. PLAIN, SCRAM-SHA-512 and OAUTHBEARER are there.
#[derive(Clone, Debug)]
pub struct Secured {
    pub brokers: String,
    /// Where it asks for a certificate instead of a user.
    pub mutual: String,
    /// The same, but the broker's own has expired.
    pub expired: String,
    folder: PathBuf,
    pub user: &'static str,
    pub password: &'static str,
}

impl Secured {
    /// What brokers' certificates are checked against.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// What they have nothing to do with.
    pub fn other_ca(&self) -> PathBuf {
        self.folder.join("other.pem")
    }

    /// The user's certificate, and its key.
    pub fn certificate(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("client.pem"), self.folder.join("client.key"))
    }

    /// A token for the user, for so long from now on.
    pub fn token(&self, lifetime: Duration) -> String {
        tokens::issue(&self.folder, USER, lifetime)
    }
}

const USER: &str = "river";
/// Who may do nothing unless it is given the right to; over TLS, with the user's password.
pub const GUEST: &str = "guest";
const PASSWORD: &str = "bank-of-reeds";

/// The broker that all tests of this process share; `None` where there can't be one.
pub fn shared() -> Option<&'static Kafka> {
    static SHARED: OnceLock<Option<Kafka>> = OnceLock::new();
    let start = || {
        let (started, broker) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _ = started.send(Kafka::start());
            // The broker lives as long as this thread.
            loop {
                std::thread::park();
            }
        });
        broker.recv().ok().flatten()
    };
    SHARED.get_or_init(start).as_ref()
}

impl Kafka {
    /// Starts a broker with nothing in it.
    ///
    /// It ends with the thread that calls this.
    pub fn start() -> Option<Self> {
        Self::start_many(1)
    }

    /// Starts as many brokers, each with a copy of everything if there are up to three.
    pub fn start_many(count: usize) -> Option<Self> {
        Self::start_at(&vec![None; count])
    }

    /// The same, each on its machine, if it has one.
    pub fn start_at(machines: &[Option<Machine>]) -> Option<Self> {
        if !libraries().is_dir() {
            missing("Kafka", "`make kafka` fetches it");
            return None;
        }
        find("java", &[])?;
        find("openssl", &[])?;
        forget_the_dead();
        let all: Vec<_> = machines.iter().cloned().map(Place::new).collect();
        let mut nodes: Vec<_> = (0..all.len()).map(|number| Node::new(number, &all)).collect();
        let brokers: Vec<_> = all.iter().map(|place| place.at(place.plain)).collect();
        // Of several, none is up before most are there.
        nodes.iter_mut().for_each(Node::spawn);
        nodes.iter().for_each(Node::wait);
        Some(Self {
            brokers: brokers.join(","),
            secured: Secured {
                brokers: format!("localhost:{}", all[0].secured),
                mutual: format!("localhost:{}", all[0].mutual),
                expired: format!("localhost:{}", all[0].expired),
                folder: nodes[0].folder.clone(),
                user: USER,
                password: PASSWORD,
            },
            nodes,
        })
    }

    /// Starts a broker's process, on the data that is there.
    pub fn run(&mut self, broker: usize) {
        self.nodes[broker].spawn();
        self.nodes[broker].wait();
    }

    /// Ends a broker's process as `kill -9` does.
    pub fn kill(&mut self, broker: usize) {
        self.nodes[broker].kill();
    }
}

impl Place {
    fn new(machine: Option<Machine>) -> Self {
        let [plain, secured, mutual, expired, controller] = free_ports();
        Self {
            machine,
            plain,
            secured,
            mutual,
            expired,
            controller,
        }
    }

    fn address(&self) -> &str {
        self.machine.as_ref().map_or("127.0.0.1", |machine| &machine.address)
    }

    fn at(&self, port: u16) -> String {
        format!("{}:{port}", self.address())
    }
}

impl Node {
    /// Makes its folder.
    fn new(number: usize, all: &[Place]) -> Self {
        let prefix = format!("{FOLDER}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir();
        let folder = folder.expect("a temporary folder").keep();
        certificates::make(&folder);
        let keys = tokens::make(&folder);
        let properties = folder.join("server.properties");
        std::fs::write(&properties, configuration(&folder, &keys, number, all)).expect("a file in a temporary folder");
        let formatted = java_command(&folder)
            .args(["kafka.tools.StorageTool", "format", "-t", &cluster_id(all), "-c"])
            .arg(&properties)
            .arg("--add-scram")
            .arg(format!("SCRAM-SHA-512=[name={USER},password={PASSWORD}]"))
            .output();
        let formatted = formatted.expect("java, which was there a moment ago");
        assert!(
            formatted.status.success(),
            "{}",
            String::from_utf8_lossy(&formatted.stderr)
        );
        Self {
            folder,
            properties,
            place: all[number].clone(),
            child: None,
        }
    }

    fn spawn(&mut self) {
        let output = std::fs::File::create(self.log()).expect("a file in a temporary folder");
        let java = java_command(&self.folder);
        let mut command = match &self.place.machine {
            Some(machine) => machine.command("setpriv"),
            None => Command::new("setpriv"),
        };
        command
            .arg("--pdeathsig=KILL")
            .arg(java.get_program())
            .args(java.get_args())
            .arg("kafka.Kafka")
            .arg(&self.properties)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("the log file"))
            .stderr(output);
        self.child = Some(command.spawn().expect("java starts"));
    }

    /// Waits until it listens.
    fn wait(&self) {
        let begun = Instant::now();
        while TcpStream::connect(self.place.at(self.place.plain)).is_err() {
            assert!(
                begun.elapsed() < PATIENCE,
                "Kafka doesn't come up, see {}",
                self.log().display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.join("output.log")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What a broker's folder is called, before the number of its process.
const FOLDER: &str = "headwater-kafka-";

/// Removes the folders of brokers whose process has ended without removing them: a shared one lives as long as its process.
fn forget_the_dead() {
    for folder in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = folder.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_prefix(FOLDER)?.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            // Somebody else may be at it as well.
            let _ = std::fs::remove_dir_all(folder.path());
        }
    }
}

/// Where `make kafka` puts the jars.
fn libraries() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/kafka"))
}

fn java_command(folder: &Path) -> Command {
    let mut command = Command::new("java");
    command
        .args(JAVA_OPTIONS)
        // Brokers look up the keys of tokens only where they are allowed to.
        .arg(format!(
            "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{}/jwks.json",
            folder.display()
        ))
        .arg("-cp")
        .arg(libraries().join("*"))
        .current_dir(folder);
    command
}

/// Clusters differ by where they are.
fn cluster_id(all: &[Place]) -> String {
    let mut id = [1; 16];
    id[1..3].copy_from_slice(&all[0].plain.to_be_bytes());
    id[3..7].copy_from_slice(&std::process::id().to_be_bytes());
    tokens::base64url(&id)
}

fn configuration(folder: &Path, keys: &Path, number: usize, all: &[Place]) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    let (data, ca, certificate, expired) = (path("data"), path("ca.pem"), path("broker.pem"), path("expired.pem"));
    let (keys, client) = (keys.display(), certificates::CLIENT);
    let (issuer, audience) = (tokens::ISSUER, tokens::AUDIENCE);
    let place = &all[number];
    let [port, secured, mutual, outdated, controller] = [
        place.plain,
        place.secured,
        place.mutual,
        place.expired,
        place.controller,
    ]
    .map(|port| place.at(port));
    let node = number + 1;
    let voter = |(number, place): (usize, &Place)| format!("{}@{}", number + 1, place.at(place.controller));
    let voters: Vec<_> = all.iter().enumerate().map(voter).collect();
    let voters = voters.join(",");
    let copies = all.len().min(3);
    let in_step = copies.div_ceil(2);
    format!(
        "process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://{port},SASL_SSL://{secured},MUTUAL://{mutual},EXPIRED://{outdated},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{port},SASL_SSL://localhost:{},MUTUAL://localhost:{},EXPIRED://localhost:{}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,MUTUAL:SSL,EXPIRED:SSL,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\" user_{GUEST}=\"{PASSWORD}\";
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.server.callback.handler.class=org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler
listener.name.sasl_ssl.oauthbearer.connections.max.reauth.ms=3600000
sasl.oauthbearer.jwks.endpoint.url=file://{keys}
sasl.oauthbearer.expected.issuer={issuer}
sasl.oauthbearer.expected.audience={audience}
listener.name.mutual.ssl.client.auth=required
listener.name.expired.ssl.keystore.location={expired}
ssl.keystore.location={certificate}
ssl.keystore.type=PEM
ssl.truststore.location={ca}
ssl.truststore.type=PEM
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{USER};User:{client}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor={copies}
min.insync.replicas={in_step}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_step}
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=4194304
",
        place.secured, place.mutual, place.expired
    )
}
