//! Several processes that share a log on Kafka: they share the work, and whatever happens to any of them, every event counts once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use headwater_grpc::v1::LookupRequest;
use headwater_grpc::v1::query_client::QueryClient;
use headwater_grpc::v1::value::Kind;
use headwater_test_servers::kafka::{self, Kafka};
use headwater_test_servers::network::Network;
use serde_json::{Value, json};
use tonic::Code;

use crate::crash::{self, Load};
use crate::server::Server;

/// After so long without a word a process is taken for gone.
const SESSION: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(240);

/// A process of a cluster with these roles.
fn process(broker: &Kafka, prefix: &str, roles: &str) -> Server {
    Server::new(crash::SQL)
        .with("log.backend=kafka")
        .with(&format!("log.brokers={}", broker.brokers))
        .with(&format!("log.prefix={prefix}"))
        .with(&format!("cluster.roles={roles}"))
        .with(&format!("cluster.session={}s", SESSION.as_secs()))
}

async fn status(server: &Server) -> Value {
    serde_json::from_str(&server.get("/v1/status").await).expect("JSON")
}

/// Which processes have tasks.
async fn at_work(server: &Server) -> BTreeSet<String> {
    let status = status(server).await;
    let queries = status["queries"].as_array().expect("queries");
    let tasks = queries
        .iter()
        .flat_map(|query| query["tasks"].as_array().expect("tasks"));
    tasks
        .filter_map(|task| task["process"].as_str().map(str::to_owned))
        .collect()
}

async fn id(server: &Server) -> String {
    status(server).await["process"].as_str().expect("its id").to_owned()
}

/// Waits until just these have work.
async fn until_at_work(asked: &Server, expected: &[&str]) {
    let expected: BTreeSet<_> = expected.iter().map(|id| (*id).to_owned()).collect();
    let started = Instant::now();
    while at_work(asked).await != expected {
        assert!(
            started.elapsed() < PATIENCE,
            "{expected:?} and no others: {:#}\n{}",
            status(asked).await,
            asked.log()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Processors come, are killed, freeze and wake up again, and leave, while events come in elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processors_come_and_go() {
    let Some(broker) = tokio::task::block_in_place(kafka::shared) else {
        return;
    };
    let mut first = process(broker, "shared", "processor");
    first.start().await;
    let mut front = process(broker, "shared", "gateway,query,sinks");
    front.start().await;
    let first_id = id(&first).await;
    until_at_work(&first, &[&first_id]).await;
    let load = Arc::new(Load::new(front.url()));
    let clients = tokio::spawn(Arc::clone(&load).run(1));

    let mut second = process(broker, "shared", "processor");
    second.start().await;
    let second_id = id(&second).await;
    until_at_work(&first, &[&first_id, &second_id]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;

    second.kill();
    until_at_work(&first, &[&first_id]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    second.start().await;
    until_at_work(&second, &[&first_id, &second_id]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    // The one that leads is frozen for longer than a session, and goes on as if nothing had been.
    first.signal("STOP");
    until_at_work(&second, &[&second_id]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    first.signal("CONT");
    until_at_work(&second, &[&first_id, &second_id]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;

    first.signal("TERM");
    assert!(first.ended().await.success(), "{}", first.log());
    until_at_work(&second, &[&second_id]).await;

    load.stop.store(true, Ordering::Relaxed);
    let sent = clients.await.expect("the clients end");
    assert!(sent > 0, "no wave was ever acknowledged");
    second.caught_up().await;
    crash::check(&front, sent).await;
}

/// A processor that nobody reaches, and that reaches nobody, for longer than a session and than Kafka leaves its transactions open, loses its work to the others;
/// back on the network it takes part again. A gateway that is cut off keeps nobody else from taking events in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cut_off_takes_part_again() {
    const TRANSACTION: Duration = Duration::from_secs(10);
    let Some(mut network) = Network::new() else {
        return;
    };
    let [for_broker, for_gateway, for_first, for_second, for_front] = [(); 5].map(|()| network.machine());
    let Some(broker) = tokio::task::block_in_place(|| Kafka::start_at(&[Some(for_broker)])) else {
        return;
    };
    let start = async |roles: &str, machine| {
        let mut server = process(&broker, "cut", roles).on(Some(machine));
        server.start().await;
        server
    };
    let first = start("processor", &for_first).await;
    let second = start("processor", &for_second).await;
    let front = start("gateway,query,sinks", &for_front).await;
    let gateway = start("gateway", &for_gateway).await;
    let (first_id, second_id) = (id(&first).await, id(&second).await);
    until_at_work(&second, &[&first_id, &second_id]).await;
    let load = Arc::new(Load::over(vec![front.url(), gateway.url()]));
    let clients = tokio::spawn(Arc::clone(&load).run(1));
    tokio::time::sleep(Duration::from_secs(2)).await;

    for_first.cut();
    until_at_work(&second, &[&second_id]).await;
    let before = load.acknowledged();
    tokio::time::sleep(TRANSACTION).await;
    for_first.join();
    until_at_work(&first, &[&first_id, &second_id]).await;
    assert!(load.acknowledged() > before, "events came in meanwhile");

    for_gateway.cut();
    tokio::time::sleep(SESSION * 2).await;
    let before = load.acknowledged();
    tokio::time::sleep(TRANSACTION).await;
    assert!(load.acknowledged() > before, "the other gateway takes events in");
    for_gateway.join();

    load.stop.store(true, Ordering::Relaxed);
    let sent = clients.await.expect("the clients end");
    second.caught_up().await;
    crash::check(&front, sent).await;
}

/// What a process has no role for it doesn't do, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_are_kept_to() {
    let Some(broker) = tokio::task::block_in_place(kafka::shared) else {
        return;
    };
    let mut gateway = process(broker, "roles", "gateway");
    let mut query = process(broker, "roles", "query");
    let mut processor = process(broker, "roles", "processor");
    for server in [&mut gateway, &mut query, &mut processor] {
        server.start().await;
    }
    let event = json!({"id": "1", "key": "a", "n": 1, "at": 1_700_000_000_000_u64}).to_string();
    let path = "/v1/streams/events/events";
    assert_eq!(gateway.post(path, event.clone()).await, (200, json!({"accepted": 1})));
    let (status, problem) = query.post(path, event.clone()).await;
    assert_eq!(status, 405, "{problem}");
    let (status, problem) = processor.post(path, event).await;
    assert_eq!(status, 404, "{problem}");
    assert!(problem.to_string().contains("processor alone"), "{problem}");
    // Where gateways hand rows on to each other there is nothing for anybody else.
    let (status, problem) = gateway.post("/internal/streams/events/rows?id=2", "").await;
    assert_eq!(status, 404, "{problem}");
    let started = Instant::now();
    let rows = "SELECT key, events FROM per_key";
    while query.sql(rows).await != [json!({"key": "a", "events": 1})] {
        assert!(started.elapsed() < PATIENCE, "{}", processor.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let statuses: Value = serde_json::from_str(&query.get("/v1/status").await).expect("JSON");
    assert_eq!(statuses["processes"].as_array().map(Vec::len), Some(3), "{statuses:#}");
    assert_eq!(statuses["leader"], id(&processor).await);
    assert!(!statuses.to_string().contains("secret"));
    let queries = statuses["queries"].as_array().expect("queries");
    let of_processor = |task: &Value| task["process"] == statuses["leader"];
    assert!(
        queries.iter().any(|query| query["tasks"]
            .as_array()
            .is_some_and(|tasks| tasks.iter().all(of_processor))),
        "{statuses:#}"
    );

    // Who leads can't be asked, or is taken for gone by then: that is said.
    processor.signal("STOP");
    let unknown: Value = serde_json::from_str(&query.get("/v1/status").await).expect("JSON");
    processor.signal("CONT");
    let why = unknown["unknown"].as_str().unwrap_or_default();
    assert!(why.contains("processor"), "{unknown:#}");
}

/// Who has stored events at a gateway sees them in the next answer of a query server, through all stages and queries, wherever these run; and hears in time
/// where that can't be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gateway_took_a_query_server_shows() {
    const ROUNDS: u64 = 40;
    let Some(broker) = tokio::task::block_in_place(kafka::shared) else {
        return;
    };
    let mut processors = [
        process(broker, "written", "processor"),
        process(broker, "written", "processor"),
    ];
    for processor in &mut processors {
        processor.start().await;
    }
    let mut gateways = [
        process(broker, "written", "gateway"),
        process(broker, "written", "gateway"),
    ];
    for gateway in &mut gateways {
        gateway.start().await;
    }
    let mut query = process(broker, "written", "query").with("query.min_offset_timeout=20s");
    query.start().await;
    let (first, second) = (id(&processors[0]).await, id(&processors[1]).await);
    until_at_work(&processors[0], &[&first, &second]).await;

    let client = reqwest::Client::new();
    // Stores ten events of one bucket, half of them odd; what the answer says about where they are.
    let send = async |gateway: &Server, round: u64| {
        let event = |n: u64| {
            let n = round * 10 + n;
            json!({"id": format!("{n}"), "key": format!("k{}", n % 3), "n": n * 7, "at": 1_700_000_000_000 + n})
        };
        let events: Vec<_> = (0..10).map(event).collect();
        let request = client.post(format!("{}/v1/streams/events/events", gateway.url()));
        let answer = request.json(&events).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{}", gateway.log());
        answer.headers()["headwater-offset"]
            .to_str()
            .expect("a token")
            .to_owned()
    };
    let ask = async |sql: &str, min_offset: &str| {
        let request = client.post(format!("{}/v1/sql?min_offset={min_offset}", query.url()));
        let answer = request.json(&json!({"sql": sql})).send().await.expect("an answer");
        let (status, headers) = (answer.status(), answer.headers().clone());
        (status, headers, answer.json::<Value>().await.expect("JSON"))
    };
    let mut tokens = Vec::new();
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        let gateway = &gateways[round as usize % 2];
        tokens.push(send(gateway, round).await);
        let events = (round + 1) * 10;
        for (sql, expected) in [
            ("SELECT sum(events) AS n FROM per_key", events),
            ("SELECT sum(events) AS n FROM per_bucket", events),
            ("SELECT sum(events) AS n FROM odd_per_key", events / 2),
        ] {
            let started = Instant::now();
            let (status, _, answer) = ask(sql, &tokens.join(",")).await;
            assert_eq!(
                answer["rows"],
                json!([{"n": expected}]),
                "{status} {sql} in round {round}: {answer}"
            );
            slowest = slowest.max(started.elapsed());
        }
        // What the other gateway has taken before is a duplicate here, and found all the same.
        let again = send(&gateways[(round as usize + 1) % 2], round).await;
        let (_, _, answer) = ask("SELECT sum(events) AS n FROM per_bucket", &again).await;
        assert_eq!(answer["rows"], json!([{"n": events}]), "round {round}: {answer}");
    }
    println!("{slowest:?} for the slowest answer");

    // Nobody computes any more.
    for processor in &processors {
        processor.signal("STOP");
    }
    query.kill();
    let mut query = query.with("query.min_offset_timeout=1s");
    query.start().await;
    let token = send(&gateways[0], ROUNDS).await;
    let path = format!("{}/v1/views/per_bucket?min_offset={token}", query.url());
    let answer = client.get(&path).send().await.expect("an answer");
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["retry-after"]),
        (503, &"1".parse().expect("a value"))
    );
    let problem = answer.text().await.expect("a text");
    assert!(
        problem.contains("/problems/behind") && problem.contains("'per_bucket' has not taken in"),
        "{problem}"
    );
    let address = format!("http://127.0.0.1:{}", query.grpc_port);
    let mut grpc = QueryClient::connect(address).await.expect("a connection");
    let lookup = LookupRequest {
        view: "per_key".to_owned(),
        key: [("key".to_owned(), Kind::Text("k1".to_owned()).into())].into(),
        min_offset: vec![token.clone()],
    };
    let refused = grpc.lookup(lookup.clone()).await.expect_err("nobody computes");
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    // What is shown is behind, and says so.
    let started = Instant::now();
    while behind(&query, "per_bucket").await.is_none_or(|behind| behind < 2.0) {
        assert!(started.elapsed() < PATIENCE, "{}", query.get("/metrics").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Others are answered meanwhile.
    let plain = LookupRequest {
        min_offset: Vec::new(),
        ..lookup.clone()
    };
    grpc.lookup(plain).await.expect("the row as it is");
    for processor in &processors {
        processor.signal("CONT");
    }
    let started = Instant::now();
    while let Err(refused) = grpc.lookup(lookup.clone()).await {
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
        assert!(started.elapsed() < PATIENCE, "{}", processors[0].log());
    }
    loop {
        let status = reqwest::get(&path).await.expect("an answer").status().as_u16();
        if status == 200 {
            break;
        }
        assert_eq!(status, 503);
        assert!(started.elapsed() < PATIENCE, "{}", processors[0].log());
    }
    let started = Instant::now();
    while behind(&query, "per_bucket").await.is_none_or(|behind| behind > 1.0) {
        assert!(started.elapsed() < PATIENCE, "{}", query.get("/metrics").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How far a server says that what it shows of a view is behind.
async fn behind(server: &Server, view: &str) -> Option<f64> {
    let metrics = server.get("/metrics").await;
    let gauge = format!("headwater_view_behind_seconds{{view=\"{view}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&gauge))?;
    Some(value.parse().expect("a number"))
}

/// An event that is sent to several gateways, at once and again after one of them is gone, is there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_holds_at_every_gateway() {
    const REQUESTS: u64 = 40;
    const EVENTS: u64 = 25;
    let Some(broker) = tokio::task::block_in_place(kafka::shared) else {
        return;
    };
    let mut processor = process(broker, "keys", "processor,query");
    processor.start().await;
    let mut gateways = [process(broker, "keys", "gateway"), process(broker, "keys", "gateway")];
    for gateway in &mut gateways {
        gateway.start().await;
    }
    let path = "/v1/streams/events/events";
    let started = Instant::now();
    for request in 0..REQUESTS {
        let event = |n: u64| json!({"id": format!("{n}"), "key": "k", "n": n, "at": 1_700_000_000_000 + n});
        let body = json!(
            (request * EVENTS..(request + 1) * EVENTS)
                .map(event)
                .collect::<Vec<_>>()
        )
        .to_string();
        let [first, second] = &gateways;
        let (first, second) = tokio::join!(accepted(first, path, &body), accepted(second, path, &body));
        let count = |answer: &Value| (answer["accepted"].as_u64(), answer["duplicates"].as_u64().unwrap_or(0));
        let mut counts = [count(&first), count(&second)];
        counts.sort_unstable();
        assert_eq!(counts, [(Some(0), EVENTS), (Some(EVENTS), 0)]);
    }
    println!("{:?} for a request to both", started.elapsed() / REQUESTS as u32);
    // What a client does that got no answer.
    gateways[0].kill();
    let again = json!([{"id": "7", "key": "k", "n": 7, "at": 1_700_000_000_007_u64}]).to_string();
    let answer = accepted(&gateways[1], path, &again).await;
    assert_eq!(answer["duplicates"].as_u64(), Some(1), "{answer}");
    processor.caught_up().await;
    let sent = REQUESTS * EVENTS;
    assert_eq!(
        processor.sql("SELECT sum(events) AS n FROM per_key").await,
        [json!({"n": sent})]
    );
}

/// Sends events until they are taken, as a client does.
async fn accepted(server: &Server, path: &str, body: &str) -> Value {
    let started = Instant::now();
    loop {
        let (status, answer) = server.post(path, body.to_owned()).await;
        match status {
            200 => return answer,
            429 | 503 if started.elapsed() < PATIENCE => {
                println!("{status} {answer}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            _ => panic!("{status} {answer}\n{}", server.log()),
        }
    }
}
