//! Apache Kafka: one broker that is its own controller, or several.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::{PATIENCE, find, free_port, missing};

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
    ports: Ports,
    child: Option<Child>,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    plain: u16,
    secured: u16,
    controller: u16,
}

/// How to get in where the broker asks who it is. PLAIN and SCRAM-SHA-512 are there.
#[derive(Clone, Debug)]
pub struct Secured {
    pub brokers: String,
    /// The file of the certificate that the broker's is checked against.
    pub ca: PathBuf,
    pub user: &'static str,
    pub password: &'static str,
}

const USER: &str = "river";
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
        if !libraries().is_dir() {
            missing("Kafka", "`make kafka` fetches it");
            return None;
        }
        find("java", &[])?;
        forget_the_dead();
        let all: Vec<_> = (0..count).map(|_| Ports::free()).collect();
        let mut nodes: Vec<_> = (0..count).map(|number| Node::new(number, &all)).collect();
        let brokers: Vec<_> = all.iter().map(|ports| format!("127.0.0.1:{}", ports.plain)).collect();
        // Of several, none is up before most are there.
        nodes.iter_mut().for_each(Node::spawn);
        nodes.iter().for_each(Node::wait);
        Some(Self {
            brokers: brokers.join(","),
            secured: Secured {
                brokers: format!("localhost:{}", all[0].secured),
                ca: nodes[0].folder.join("ca.pem"),
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

impl Ports {
    fn free() -> Self {
        let [plain, secured, controller] = [(); 3].map(|()| free_port());
        Self {
            plain,
            secured,
            controller,
        }
    }
}

impl Node {
    /// Makes its folder.
    fn new(number: usize, all: &[Ports]) -> Self {
        let prefix = format!("{FOLDER}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir();
        let folder = folder.expect("a temporary folder").keep();
        certificate(&folder);
        let properties = folder.join("server.properties");
        std::fs::write(&properties, configuration(&folder, number, all)).expect("a file in a temporary folder");
        let formatted = java_command(&folder)
            .args([
                "kafka.tools.StorageTool",
                "format",
                "-t",
                "MkU3OEVBNTcwNTJENDM2Qg",
                "-c",
            ])
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
            ports: all[number],
            child: None,
        }
    }

    fn spawn(&mut self) {
        let output = std::fs::File::create(self.log()).expect("a file in a temporary folder");
        let java = java_command(&self.folder);
        let mut command = Command::new("setpriv");
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
        while TcpStream::connect(("127.0.0.1", self.ports.plain)).is_err() {
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
        .arg("-cp")
        .arg(libraries().join("*"))
        .current_dir(folder);
    command
}

/// Makes the broker's key, and its certificate in `ca.pem`.
fn certificate(folder: &Path) {
    let keytool = |arguments: &[&str]| {
        let mut command = Command::new("keytool");
        let common = [
            "-keystore",
            "broker.p12",
            "-storetype",
            "PKCS12",
            "-storepass",
            PASSWORD,
            "-alias",
            "broker",
        ];
        let done = command.args(arguments).args(common).current_dir(folder).output();
        let done = done.expect("keytool, which comes with java");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    };
    let name = ["-dname", "CN=localhost", "-ext", "SAN=dns:localhost,ip:127.0.0.1"];
    keytool(&[&["-genkeypair", "-keyalg", "EC", "-validity", "3650"][..], &name].concat());
    keytool(&["-exportcert", "-rfc", "-file", "ca.pem"]);
}

fn configuration(folder: &Path, number: usize, all: &[Ports]) -> String {
    let (data, keys) = (folder.join("data"), folder.join("broker.p12"));
    let Ports {
        plain: port,
        secured,
        controller,
    } = all[number];
    let node = number + 1;
    let voter = |(number, ports): (usize, &Ports)| format!("{}@127.0.0.1:{}", number + 1, ports.controller);
    let voters: Vec<_> = all.iter().enumerate().map(voter).collect();
    let voters = voters.join(",");
    let copies = all.len().min(3);
    let in_step = copies.div_ceil(2);
    format!(
        "process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{secured},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://localhost:{secured}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.location={}
ssl.keystore.type=PKCS12
ssl.keystore.password={PASSWORD}
ssl.key.password={PASSWORD}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={}
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
        keys.display(),
        data.display()
    )
}
