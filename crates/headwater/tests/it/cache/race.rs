//! Readers that ask all the time, beside a writer, while this or that is killed: none of them is answered with what is outdated.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headwater_test_servers::postgres::Postgres;
use headwater_test_servers::redis::Redis;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use super::{PATIENCE, SQL, click, get, metric, send, server};
use crate::server::Server;
use crate::sinks::delivered;

/// Whoever writes, and those that ask all the time and look whether they are answered with what is outdated.
struct Race {
    stop: AtomicBool,
    /// Whether an answer may be that it is unavailable.
    may_fail: AtomicBool,
    answers: AtomicU64,
    failures: AtomicU64,
    slowest_ms: AtomicU64,
    http: String,
    postgres: String,
}

const PAGES: u64 = 3;

impl Race {
    fn start(server: &Server, postgres: &Postgres, readers: u64) -> (Arc<Self>, Vec<JoinHandle<()>>, JoinHandle<u64>) {
        let race = Arc::new(Self {
            stop: AtomicBool::new(false),
            may_fail: AtomicBool::new(false),
            answers: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            slowest_ms: AtomicU64::new(0),
            http: server.url(),
            postgres: postgres.url(),
        });
        let readers = (0..readers).map(|reader| tokio::spawn(Arc::clone(&race).read(reader)));
        (
            Arc::clone(&race),
            readers.collect(),
            tokio::spawn(Arc::clone(&race).write()),
        )
    }

    /// An event after the other, each of which counts one page up.
    async fn write(self: Arc<Self>) -> u64 {
        let client = reqwest::Client::new();
        let mut n = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let event = click("u", &format!("/{}", n % PAGES), n).to_string();
            let sent = client
                .post(format!("{}/v1/streams/clicks/events", self.http))
                .body(event);
            let sent = sent.header("content-type", "application/json").send().await;
            // What was stored without an answer is stored: the newest is then the same once more.
            if sent.is_ok_and(|answer| answer.status().is_success()) {
                n += 1;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        n
    }

    async fn read(self: Arc<Self>, reader: u64) {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .build()
            .expect("a client");
        let mut table: Option<Client> = None;
        let mut seen = [None; PAGES as usize];
        let mut page = reader % PAGES;
        while !self.stop.load(Ordering::Relaxed) {
            page = (page + 1) % PAGES;
            // What is committed by now, at least, has to be in the answer.
            let committed = match &table {
                Some(client) => newest(client, page).await,
                None => {
                    table = connect(&self.postgres).await;
                    None
                }
            };
            if committed.is_none() {
                table = None;
            }
            let least = committed.flatten().max(seen[page as usize]);
            let began = Instant::now();
            let answer = client
                .get(format!("{}/counts?user_id=u&page_url=/{page}", self.http))
                .send()
                .await;
            let took = u64::try_from(began.elapsed().as_millis()).expect("milliseconds");
            let status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
            if status != 200 && status != 404 {
                assert!(self.may_fail.load(Ordering::Relaxed), "{answer:?}");
                self.failures.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let Ok(row) = answer.expect("an answer").json::<Value>().await else {
                continue;
            };
            let answered = row["newest"].as_i64();
            assert!(
                answered >= least,
                "page {page}: {answered:?}, and {committed:?} is committed, {:?} was seen",
                seen[page as usize]
            );
            seen[page as usize] = answered;
            self.answers.fetch_add(1, Ordering::Relaxed);
            if !self.may_fail.load(Ordering::Relaxed) {
                self.slowest_ms.fetch_max(took, Ordering::Relaxed);
            }
        }
    }

    /// Until all have stopped, and what they were answered with.
    async fn end(&self, readers: Vec<JoinHandle<()>>, writer: JoinHandle<u64>) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.await.expect("nothing outdated");
        }
        writer.await.expect("the writer ends")
    }
}

async fn connect(url: &str) -> Option<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}

/// None where the table can't be asked.
async fn newest(client: &Client, page: u64) -> Option<Option<i64>> {
    let sql = format!("SELECT max(newest) FROM counts WHERE page_url = '/{page}'");
    client.query_one(&sql, &[]).await.ok().map(|row| row.get(0))
}

/// What is there in the end is what was sent.
async fn complete(server: &Server, sent: u64) {
    delivered(server).await;
    for page in 0..PAGES {
        let last = (0..sent).rev().find(|n| n % PAGES == page);
        let started = Instant::now();
        loop {
            let (_, row) = get(server, &format!("/counts?user_id=u&page_url=/{page}")).await;
            if row["newest"].as_u64() == last {
                break;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "{row} instead of {last:?}\n{}",
                server.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reader_is_ever_behind_the_table() {
    let (Some(postgres), Some(redis)) = (Postgres::start().await, Redis::start().await) else {
        return;
    };
    let mut server = server(&postgres, &redis, SQL);
    server.start().await;
    send(&server, click("u", "/0", 0)).await;
    let (race, readers, writer) = Race::start(&server, &postgres, 8);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let sent = race.end(readers, writer).await;
    complete(&server, sent).await;
    let cached = metric(&server, "headwater_lookup_cached_keys_total").await;
    let answers = race.answers.load(Ordering::Relaxed);
    println!("{sent} events, {answers} answers, {cached} of them from Redis");
    assert!(
        sent > 20 && answers > 50 && cached > 10,
        "{sent} events, {answers} answers, {cached} cached"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_dies_or_hangs_makes_answers_slower_alone() {
    let (Some(postgres), Some(mut redis)) = (Postgres::start().await, Redis::start().await) else {
        return;
    };
    let mut server = server(&postgres, &redis, SQL);
    server.start().await;
    send(&server, click("u", "/0", 0)).await;
    let (race, readers, writer) = Race::start(&server, &postgres, 6);
    let mut random = StdRng::seed_from_u64(1);
    for round in 0..6 {
        // Long enough for rows to be there again, most of the time.
        tokio::time::sleep(Duration::from_millis(random.random_range(500..5000))).await;
        let away = Duration::from_millis(random.random_range(0..2500));
        match round % 2 {
            0 => {
                redis.kill();
                tokio::time::sleep(away).await;
                redis.run().await;
            }
            _ => {
                redis.suspend();
                tokio::time::sleep(away).await;
                redis.resume();
            }
        }
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    let sent = race.end(readers, writer).await;
    complete(&server, sent).await;
    let cached = metric(&server, "headwater_lookup_cached_keys_total").await;
    let (answers, slowest) = (
        race.answers.load(Ordering::Relaxed),
        race.slowest_ms.load(Ordering::Relaxed),
    );
    println!("{sent} events, {answers} answers, {cached} of them from Redis, the slowest took {slowest} ms");
    assert!(
        slowest < 5000 && cached > 10 && sent > 20,
        "{slowest} ms, {cached} cached, {sent} events"
    );
    assert!(metric(&server, "headwater_cache_errors_total").await > 0);
    assert!(server.log().contains("the cache answers again"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_else_is_killed_leaves_nothing_outdated() {
    let (Some(mut postgres), Some(redis)) = (Postgres::start().await, Redis::start().await) else {
        return;
    };
    let mut server = server(&postgres, &redis, SQL);
    server.start().await;
    send(&server, click("u", "/0", 0)).await;
    let (race, readers, writer) = Race::start(&server, &postgres, 6);
    race.may_fail.store(true, Ordering::Relaxed);
    let mut random = StdRng::seed_from_u64(2);
    for round in 0..8 {
        tokio::time::sleep(Duration::from_millis(random.random_range(300..2500))).await;
        match round % 4 {
            3 => {
                postgres.kill();
                tokio::time::sleep(Duration::from_millis(random.random_range(0..1000))).await;
                postgres.run().await;
            }
            _ => {
                server.kill();
                server.start().await;
            }
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let sent = race.end(readers, writer).await;
    complete(&server, sent).await;
    let answers = race.answers.load(Ordering::Relaxed);
    println!(
        "{sent} events, {answers} answers, {} unavailable",
        race.failures.load(Ordering::Relaxed)
    );
    assert!(answers > 50 && sent > 20, "{answers} answers, {sent} events");
}
