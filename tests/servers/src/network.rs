//! A network of machines that can be cut from each other: each is a network namespace with one cable to a switch, a bridge on this
//! machine. Whoever is in no namespace is at the switch itself, at [`Network::address`].
//!
//! That takes root and iproute2.

use std::path::Path;
use std::process::{Command, Output};

use crate::{find, id};

/// What the names of bridges, cables and namespaces begin with, before the number of their process. With the number of a machine they have
/// to fit in the 15 characters of a device's name.
const NAME: &str = "hw";

/// 198.18.0.0/15 is for tests of networks (RFC 2544): nobody's address is in there.
const NETWORKS: u32 = 512;
const MACHINES_MAX: u32 = 250;

/// See the module. Removed when dropped.
#[derive(Debug)]
pub struct Network {
    name: String,
    number: u32,
    machines: u32,
}

/// Where processes run that are cut off together.
#[derive(Clone, Debug)]
pub struct Machine {
    switch: String,
    name: String,
    pub address: String,
}

impl Network {
    /// `None` where this user can't make one.
    pub fn new() -> Option<Self> {
        find("ip", &["/usr/sbin".into(), "/sbin".into()])?;
        if id(&["-u"]) != "0" {
            println!("left out: cuts of the network, which only root can make");
            return None;
        }
        forget_the_dead();
        let process = std::process::id();
        let name = format!("{NAME}{process}");
        // A container may have root without the right to.
        let made = run(&["link", "add", &name, "type", "bridge"]);
        if !made.status.success() {
            let why = String::from_utf8_lossy(&made.stderr).trim().to_owned();
            println!("left out: cuts of the network, which can't be made here ({why})");
            return None;
        }
        let numbers = (0..NETWORKS).map(|number| (process + number) % NETWORKS);
        let number = numbers.into_iter().find(|&number| is_free(number));
        let network = Self {
            name,
            number: number.expect("a network that nobody uses"),
            machines: 0,
        };
        ip(&[
            "address",
            "add",
            &format!("{}/24", network.address()),
            "dev",
            &network.name,
        ]);
        ip(&["link", "set", &network.name, "up"]);
        Some(network)
    }

    /// Where machines reach what is not on one of them.
    pub fn address(&self) -> String {
        address(self.number, 1)
    }

    /// One more machine.
    pub fn machine(&mut self) -> Machine {
        self.machines += 1;
        assert!(self.machines < MACHINES_MAX, "too many machines");
        let machine = Machine {
            switch: self.name.clone(),
            name: format!("{}-{}", self.name, self.machines),
            address: address(self.number, 1 + self.machines),
        };
        let name = machine.name.as_str();
        ip(&["netns", "add", name]);
        ip(&[
            "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name,
        ]);
        let within = |arguments: &[&str]| ip(&[&["-n", name], arguments].concat());
        within(&["address", "add", &format!("{}/24", machine.address), "dev", "eth0"]);
        within(&["link", "set", "eth0", "up"]);
        within(&["link", "set", "lo", "up"]);
        ip(&["link", "set", name, "up"]);
        machine.join();
        machine
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

impl Machine {
    /// A command that runs there.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program.as_ref());
        command
    }

    /// From now on nothing comes through, neither way, and nobody is told.
    pub fn cut(&self) {
        ip(&["link", "set", &self.name, "nomaster"]);
    }

    /// Ends the cut.
    pub fn join(&self) {
        ip(&["link", "set", &self.name, "master", &self.switch]);
    }
}

fn address(network: u32, host: u32) -> String {
    format!("198.{}.{}.{host}", 18 + network / 256, network % 256)
}

fn is_free(network: u32) -> bool {
    let network = format!("{}/24", address(network, 0));
    run(&["route", "show", &network]).stdout.is_empty()
}

/// Networks of processes that have ended without removing them.
fn forget_the_dead() {
    let bridges = run(&["-o", "link", "show", "type", "bridge"]).stdout;
    for line in String::from_utf8_lossy(&bridges).lines() {
        let Some(name) = line.split(": ").nth(1) else { continue };
        let process = name.strip_prefix(NAME).and_then(|process| process.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            remove(name);
        }
    }
}

/// Removes a network with its machines; the cables go with these.
fn remove(network: &str) {
    let spaces = run(&["netns", "list"]).stdout;
    let spaces = String::from_utf8_lossy(&spaces).into_owned();
    let names = spaces.lines().filter_map(|line| line.split_whitespace().next());
    for name in names.filter(|name| name.strip_prefix(network).is_some_and(|rest| rest.starts_with('-'))) {
        // Somebody else may be at it as well.
        let _ = run(&["netns", "delete", name]);
    }
    let _ = run(&["link", "delete", network]);
}

fn run(arguments: &[&str]) -> Output {
    Command::new("ip")
        .args(arguments)
        .output()
        .expect("ip, which was there a moment ago")
}

fn ip(arguments: &[&str]) {
    let done = run(arguments);
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {}: {why}", arguments.join(" "));
}
