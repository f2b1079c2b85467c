//! The gRPC port, from outside: the library of another language (grpcio), which learns the services by reflection,
//! and input that is none.
//!
//! `make test` sees to it that the library is there. Where it is not, its tests say that they were skipped; with `CI`
//! set that is a failure.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

use headwater_grpc::v1::query_client::QueryClient;
use headwater_grpc::v1::{LookupRequest, SqlRequest};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::postgres::there;
use crate::server::Server;

const SQL: &str = "
CREATE STREAM clicks (user_id TEXT NOT NULL, page_url TEXT NOT NULL, price DECIMAL(10, 2), time_stamp TIMESTAMP NOT NULL) PARTITION BY (user_id);
CREATE MATERIALIZED VIEW page_clicks WITH (http.path = '/counts') AS SELECT user_id, page_url, count(*) AS click_count, max(time_stamp) AS last_seen, sum(price) AS paid
FROM clicks GROUP BY user_id, page_url;
INSERT INTO clicks VALUES ('u1', '/home', 1.50, '2026-01-31T12:00:00.5Z'), ('u1', '/home', NULL, '2026-01-31T12:00:00Z'), ('u2', '/cart', 2.25, '1969-01-31T12:00:00Z');
";

/// What each script begins with: a channel, and the messages and methods as the server describes them.
const PRELUDE: &str = r#"
import grpc, sys, threading, time
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

channel = grpc.insecure_channel(sys.argv[1])
database = ProtoReflectionDescriptorDatabase(channel)
pool = descriptor_pool.DescriptorPool(database)

def message(name):
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))

def method(service, name):
    found = pool.FindServiceByName(service).FindMethodByName(name)
    take, give = (message_factory.GetMessageClass(kind) for kind in (found.input_type, found.output_type))
    kind = channel.unary_stream if found.server_streaming else channel.unary_unary
    return take, kind(f"/{service}/{name}", take.SerializeToString, give.FromString)

def refused(ask):
    try:
        for _ in [ask()]:
            pass
    except grpc.RpcError as error:
        return error
    raise AssertionError("not refused")

Lookup, lookup = method("headwater.v1.Query", "Lookup")
Sql, sql = method("headwater.v1.Query", "Sql")
"#;

#[tokio::test]
async fn grpcio_asks() {
    let script = r#"
assert "headwater.v1.Query" in database.get_services(), database.get_services()
home = {"user_id": {"text": "u1"}, "page_url": {"text": "/home"}}
row, asked = lookup.with_call(Lookup(view="page_clicks", key=home), metadata=[("x-request-id", "abc-1")])
row = row.row
assert row["click_count"].integer == 2 and row["paid"].text == "1.50", row
assert row["last_seen"].timestamp.ToJsonString() == "2026-01-31T12:00:00.500Z", row
assert ("x-request-id", "abc-1") in asked.initial_metadata(), asked.initial_metadata()

answers = list(sql(Sql(sql="SELECT user_id, paid FROM page_clicks WHERE click_count < $1 ORDER BY 1", parameters=[{"integer": 10}])))
assert [column.type for column in answers[0].columns.columns][0] == "TEXT", answers
assert [[value.text for value in row.values] for row in answers[1].rows.rows] == [["u1", "1.50"], ["u2", "2.25"]], answers

error = refused(lambda: lookup(Lookup(view="page_click", key=home)))
assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
assert error.details() == "there is no view 'page_click'; did you mean 'page_clicks'?", error
status = rpc_status.from_call(error)
problem = message("headwater.v1.Problem")()
assert status.details[0].Unpack(problem), status
assert (problem.type, problem.hint) == ("unknown-view", "did you mean 'page_clicks'?"), problem

error = refused(lambda: next(sql(Sql(sql="SELECT user_id FROM page_clicks EMIT CHANGES"), timeout=0)))
assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error

# A live query in one thread, the event that it waits for in this one.
changes = sql(Sql(sql="SELECT click_count FROM page_clicks WHERE user_id = 'u1' EMIT CHANGES"))
assert next(changes).columns.live
list(sql(Sql(sql="INSERT INTO clicks VALUES ('u1', '/home', 1, '2026-01-31T12:00:01Z')")))
seen = []
while len(seen) < 2:
    seen += [(row.values[1].text, row.values[0].integer) for row in next(changes).rows.rows]
assert seen == [("update_before", 2), ("update_after", 3)], seen
changes.cancel()
try:
    next(changes)
    raise AssertionError("it goes on")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.CANCELLED, error

Send, send = method("headwater.v1.Ingest", "Send")
answer = send(Send(stream="clicks", events=b'{"user_id":"u3","page_url":"/new","time_stamp":"2026-01-31T12:00:00Z"}'))
assert (answer.accepted, answer.rejected) == (1, 0), answer
error = refused(lambda: send(Send(stream="clicks", events=b'{"user_id":"u3"}')))
assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
assert rpc_status.from_call(error).details[0].Unpack(problem)
assert (problem.errors[0].field, problem.errors[0].index, problem.count) == ("page_url", 0, 1), problem
assert next(sql(Sql(sql="SELECT count(*) FROM clicks"))).columns.last

Check, check = method("grpc.health.v1.Health", "Check")
for service in "", "headwater.v1.Query", "headwater.v1.Ingest":
    assert check(Check(service=service)).status == 1
assert refused(lambda: check(Check(service="nothing"))).code() == grpc.StatusCode.NOT_FOUND
print("grpcio is content")
"#;
    if !there("python3", &["-c", "import grpc_reflection, grpc_status"]) {
        return;
    }
    let mut server = Server::new(SQL);
    server.start().await;
    server.caught_up().await;
    let output = python(&server, script);
    assert!(text(&output).contains("grpcio is content"), "{}", text(&output));
    let metrics = server.get("/metrics").await;
    for line in [
        r#"headwater_grpc_requests_total{method="/headwater.v1.Query/Lookup",code="Ok"} 1"#,
        r#"headwater_grpc_requests_total{method="/headwater.v1.Query/Lookup",code="InvalidArgument"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is missing");
    }
}

#[tokio::test]
async fn health_follows_readiness() {
    let mut server = Server::new(SQL);
    server.start().await;
    let mut client = HealthClient::new(channel(&server).await);
    let request = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    let watched = client.watch(request("")).await.expect("an answer");
    let mut watched = watched.into_inner();
    let status = watched.message().await.expect("a status").expect("a status").status();
    assert_eq!(status, ServingStatus::Serving);
    // What is watched ends when the server stops, and doesn't keep it from stopping.
    server.signal("TERM");
    assert!(!matches!(watched.message().await, Ok(Some(_))));
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn what_is_no_call_harms_nobody() {
    let mut server = Server::new(SQL);
    server.start().await;
    let mut random = ChaCha8Rng::seed_from_u64(7);
    for round in 0..200 {
        let mut bytes = vec![0; random.random_range(0..4000)];
        random.fill(&mut bytes[..]);
        let mut socket = TcpStream::connect(("127.0.0.1", server.grpc_port)).expect("it listens");
        // Some begin as HTTP/2 does, with the preface and empty settings.
        if round % 2 == 0 {
            socket
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
                .expect("it takes the preface");
        }
        // It may have hung up already, as it should.
        let _ = socket.write_all(&bytes);
        let _ = socket.shutdown(Shutdown::Write);
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a timeout");
        let _ = socket.read(&mut [0; 100]);
    }
    calls_that_are_wrong(&server).await;
    let mut client = QueryClient::new(channel(&server).await);
    let request = SqlRequest {
        sql: "SELECT 1".to_owned(),
        ..SqlRequest::default()
    };
    let answer = client
        .sql(request)
        .await
        .expect("an answer")
        .into_inner()
        .message()
        .await;
    assert!(matches!(answer, Ok(Some(_))), "{answer:?}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// Calls with a well-formed frame that holds what is no message, or none that there is.
async fn calls_that_are_wrong(server: &Server) {
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .build()
        .expect("a client");
    let method = "headwater.v1.Query/Lookup";
    let mut rounds: Vec<(&str, Vec<u8>, &str)> = vec![
        (method, b"\0\0\0\0\x03\xff\xff\xff".to_vec(), "13"),
        (method, b"\0\xff\xff\xff\xff".to_vec(), "11"),
        (method, b"\x07\0\0\0\0".to_vec(), "13"),
        ("headwater.v1.Query/Nothing", b"\0\0\0\0\0".to_vec(), "12"),
        ("nothing.at.All/Nothing", b"\0\0\0\0\0".to_vec(), "12"),
        (method, b"\0\0\0\0\0".to_vec(), "3"),
    ];
    let mut random = ChaCha8Rng::seed_from_u64(8);
    for _ in 0..100 {
        let mut bytes = vec![0; random.random_range(0..100)];
        random.fill(&mut bytes[..]);
        let mut framed = vec![0, 0, 0, 0, bytes.len() as u8];
        framed.append(&mut bytes);
        rounds.push((method, framed, ""));
    }
    for (method, body, code) in rounds {
        let url = format!("http://127.0.0.1:{}/{method}", server.grpc_port);
        let request = client
            .post(url)
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let answer = request.body(body.clone()).send().await.expect("an answer");
        let told = answer.headers()["grpc-status"].to_str().expect("a code").to_owned();
        assert!(
            told == code || code.is_empty() && told != "0",
            "{method} {body:?}: {told}"
        );
        assert!(answer.headers().contains_key("x-request-id"));
    }
}

#[tokio::test]
async fn a_deadline_that_has_passed_ends_the_work() {
    let mut server = Server::new(SQL);
    server.start().await;
    let mut client = QueryClient::new(channel(&server).await);
    let mut request = Request::new(SqlRequest {
        sql: "SELECT count(*) FROM generate_series(1, 1000000000000)".to_owned(),
        ..SqlRequest::default()
    });
    request
        .metadata_mut()
        .insert("grpc-timeout", "200m".parse().expect("a value"));
    let mut answer = client.sql(request).await.expect("columns come first").into_inner();
    let ended = loop {
        match answer.message().await {
            Ok(Some(_)) => {}
            other => break other.expect_err("it does not finish"),
        }
    };
    assert_eq!(ended.code(), Code::DeadlineExceeded);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = cpu_ticks(server.process_id());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ticks = cpu_ticks(server.process_id()) - before;
    assert!(ticks < 50, "{ticks} ticks of 10 ms in 2 s, after the call has ended");
}

#[tokio::test]
async fn a_server_in_front_passes_questions_on() {
    let mut server = Server::new(SQL);
    server.start().await;
    server.caught_up().await;
    let upstream = format!("query.upstream=grpc://127.0.0.1:{}", server.grpc_port);
    let mut front = Server::new("-- It has nothing of its own.")
        .with(&upstream)
        .with("grpc.listen=off");
    front.start().await;
    for path in [
        "/counts?user_id=u1&page_url=/home",
        "/counts?order=user_id",
        "/v1/views/page_clicks?user_id=u2",
        "/v1/views/page_click",
    ] {
        let (here, there) = (without_id(server.get(path).await), without_id(front.get(path).await));
        assert_eq!(here, there, "{path}");
    }
    assert!(
        front
            .get("/counts?user_id=u1&page_url=/home")
            .await
            .contains(r#""click_count":2"#)
    );
    assert!(
        front
            .get("/elsewhere")
            .await
            .contains("there is no view or table at /elsewhere")
    );
    assert_eq!(
        front.sql("SELECT count(*) AS n FROM clicks").await,
        server.sql("SELECT count(*) AS n FROM clicks").await
    );

    // The query server dies and comes back; who asks meanwhile waits, or hears 503.
    server.kill();
    let asked = reqwest::get(format!("{}/counts?user_id=u1&page_url=/home", front.url()));
    let ((), answer) = tokio::join!(server.start(), asked);
    assert!([200, 503].contains(&answer.expect("an answer").status().as_u16()));
    server.caught_up().await;
    // The INSERT of its file is done at each start.
    let again = front.get("/counts?user_id=u1&page_url=/home").await;
    assert!(again.contains(r#""click_count":4"#), "{again}");
}

/// Every problem has an id of its own.
fn without_id(text: String) -> String {
    text.split(r#","request_id""#).next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_door_can_be_off() {
    let mut server = Server::new(SQL).with("grpc.listen=off");
    server.start().await;
    assert!(TcpStream::connect(("127.0.0.1", server.grpc_port)).is_err());
}

#[tokio::test]
async fn a_view_can_be_looked_up_while_others_are_made() {
    let mut server = Server::new(SQL);
    server.start().await;
    server.caught_up().await;
    let mut client = QueryClient::new(channel(&server).await);
    let key = [("user_id", "u1"), ("page_url", "/home")].map(|(name, text)| {
        let text = headwater_grpc::v1::value::Kind::Text(text.to_owned());
        (name.to_owned(), text.into())
    });
    for number in 0..5 {
        let view =
            format!("CREATE MATERIALIZED VIEW v{number} AS SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id");
        server.sql(&view).await;
        let request = LookupRequest {
            view: "page_clicks".to_owned(),
            key: key.clone().into(),
            ..LookupRequest::default()
        };
        let row = client.lookup(request).await.expect("a row").into_inner().row;
        assert_eq!(row.len(), 5);
    }
}

async fn channel(server: &Server) -> Channel {
    let url = format!("http://127.0.0.1:{}", server.grpc_port);
    let endpoint = Channel::from_shared(url).expect("an address");
    endpoint.connect().await.expect("it listens")
}

/// User and system time of the process, in hundredths of a second.
fn cpu_ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("the process is there");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    fields[11..13]
        .iter()
        .map(|ticks| ticks.parse::<u64>().expect("a number"))
        .sum()
}

pub fn python(server: &Server, script: &str) -> Output {
    Command::new("python3")
        .args([
            "-c",
            &format!("{PRELUDE}{script}"),
            &format!("127.0.0.1:{}", server.grpc_port),
        ])
        .output()
        .expect("python runs")
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
