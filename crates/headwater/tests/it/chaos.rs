//! A cluster under load in which anything may happen: three brokers, two gateways, three processors, two query servers and a database;
//! killed, frozen, stopped, cut off from all others, and started again, at random. Afterwards every acknowledged event counts once, in every
//! view and in the database.
//!
//! `HEADWATER_CHAOS_SECONDS` sets how long, `HEADWATER_CHAOS_SEED` another run. Only with `HEADWATER_CHAOS_CUTS=1` is anybody cut off.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use headwater_test_servers::kafka::Kafka;
use headwater_test_servers::network::{Machine, Network};
use headwater_test_servers::postgres::Postgres;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::crash::{self, Load, from_env};
use crate::server::Server;

const SECONDS: u64 = 60;
const SEED: u64 = 1;
const BROKERS: usize = 3;
/// After so long without a word a process is taken for gone.
const SESSION: Duration = Duration::from_secs(3);
/// A transaction that nobody ends for so long is taken back by the brokers.
const TRANSACTION: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(240);

const ROLES: [&str; 7] = [
    "gateway",
    "gateway",
    "processor",
    "processor,sinks",
    "processor,sinks",
    "query",
    "query",
];
const GATEWAYS: std::ops::Range<usize> = 0..2;
const PROCESSORS: std::ops::Range<usize> = 2..5;
const QUERIES: std::ops::Range<usize> = 5..7;

const SINK: &str = "
CREATE SINK per_key_out FROM per_key WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'per_key');
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_counts_once_whatever_happens() {
    let mut network = from_env("HEADWATER_CHAOS_CUTS").and_then(|_| Network::new());
    let mut machines =
        |count: usize| -> Vec<Option<Machine>> { (0..count).map(|_| network.as_mut().map(Network::machine)).collect() };
    let (for_brokers, for_servers) = (machines(BROKERS), machines(ROLES.len()));
    let Some(mut brokers) = tokio::task::block_in_place(|| Kafka::start_at(&for_brokers)) else {
        return;
    };
    let Some(mut postgres) = Postgres::stopped() else {
        return;
    };
    if let Some(network) = &network {
        postgres = postgres.at(&network.address());
    }
    postgres.run().await;
    let seed = from_env("HEADWATER_CHAOS_SEED").unwrap_or(SEED);
    let seconds = from_env("HEADWATER_CHAOS_SECONDS").unwrap_or(SECONDS);
    println!("chaos: {seconds} s, HEADWATER_CHAOS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let process = |(roles, machine): (&str, &Option<Machine>)| {
        Server::new(&format!("{}{SINK}", crash::SQL))
            .with("log.backend=kafka")
            .with(&format!("log.brokers={}", brokers.brokers))
            .with(&format!("cluster.roles={roles}"))
            .with(&format!("cluster.session={}s", SESSION.as_secs()))
            .with("memory.limit=512MiB")
            .with_variable("PG_URL", &postgres.url())
            .on(machine.as_ref())
    };
    let mut servers: Vec<_> = ROLES.into_iter().zip(&for_servers).map(process).collect();
    for server in &mut servers {
        server.start().await;
    }
    let gateways = servers[GATEWAYS].iter().map(Server::url).collect();
    let load = Arc::new(Load::over(gateways));
    let clients = tokio::spawn(Arc::clone(&load).run(random.next_u64()));

    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(seconds) {
        let what = random.random_range(0..14);
        let which = random.random_range(0..servers.len());
        let pause = Duration::from_millis(random.random_range(100..3000));
        match what {
            0..4 => {
                println!("{:?}: kill -9 of {which} ({})", started.elapsed(), ROLES[which]);
                servers[which].kill();
                tokio::time::sleep(pause).await;
                servers[which].start().await;
            }
            4..6 => {
                println!("{:?}: {which} ({}) is frozen", started.elapsed(), ROLES[which]);
                servers[which].signal("STOP");
                tokio::time::sleep(SESSION + pause).await;
                servers[which].signal("CONT");
            }
            6..8 => {
                let which = random.random_range(PROCESSORS);
                println!("{:?}: {which} is told to stop", started.elapsed());
                servers[which].signal("TERM");
                servers[which].ended().await;
                tokio::time::sleep(pause).await;
                servers[which].start().await;
            }
            8 => {
                let which = random.random_range(0..BROKERS);
                println!("{:?}: kill -9 of broker {which}", started.elapsed());
                tokio::task::block_in_place(|| brokers.kill(which));
                tokio::time::sleep(pause).await;
                tokio::task::block_in_place(|| brokers.run(which));
            }
            9..13 => {
                let (name, machine) = match random.random_range(0..servers.len() + BROKERS) {
                    server if server < servers.len() => (format!("{server} ({})", ROLES[server]), &for_servers[server]),
                    broker => {
                        let broker = broker - servers.len();
                        (format!("broker {broker}"), &for_brokers[broker])
                    }
                };
                let time = match random.random_range(0..3) {
                    0 => pause,
                    1 => SESSION + pause,
                    _ => TRANSACTION + pause,
                };
                let Some(machine) = machine else { continue };
                println!("{:?}: {name} is cut off for {time:?}", started.elapsed());
                machine.cut();
                tokio::time::sleep(time).await;
                machine.join();
            }
            _ => {
                println!("{:?}: kill -9 of PostgreSQL", started.elapsed());
                postgres.kill();
                tokio::time::sleep(pause).await;
                postgres.run().await;
            }
        }
        tokio::time::sleep(pause).await;
    }

    load.stop.store(true, Ordering::Relaxed);
    let sent = clients.await.expect("the clients end");
    println!("{sent} events");
    assert!(sent > 0, "no wave was ever acknowledged");
    servers[PROCESSORS.start].caught_up().await;
    for query in &servers[QUERIES] {
        crash::check(query, sent).await;
    }
    let delivered = Instant::now();
    let counted = || {
        postgres.value("SELECT coalesce(sum(events), 0)::bigint || ' ' || coalesce(sum(total), 0)::bigint FROM per_key")
    };
    let expected = Some(format!("{sent} {}", sent * (sent - 1) / 2));
    while counted().await != expected {
        assert!(
            delivered.elapsed() < PATIENCE,
            "{:?} instead of {expected:?}",
            counted().await
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
