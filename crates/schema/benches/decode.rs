//! How fast events are decoded, against `arrow-json` on the same bytes: NEXMark bids as JSON lines,
//! 1,000 to a body, on one core. Prints events a second and the ratio.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark measures time and prints it"
)]

use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use arrow::json::ReaderBuilder;
use headwater_event::clock::ManualClock;
use headwater_event::id::Ids;
use headwater_schema::column::{Column, EventSchema, UnknownFields};
use headwater_schema::decode::{Decoder, Format, OnError};
use headwater_schema::encode;

const BODIES: usize = 200;
const EVENTS_PER_BODY: usize = 1000;
const ROUNDS: usize = 15;

fn main() {
    let schema = bid();
    let bodies: Vec<_> = (0..BODIES).map(body).collect();
    let bytes: usize = bodies.iter().map(Vec::len).sum();
    println!(
        "{} events of {} bytes, {EVENTS_PER_BODY} a body",
        BODIES * EVENTS_PER_BODY,
        bytes / BODIES / EVENTS_PER_BODY
    );

    let mut decoder = Decoder::new(&schema, Ids::seeded(ManualClock::new(0), 1));
    let mut ours = || {
        for body in &bodies {
            let decoded = decoder.decode(body, Format::NdJson, OnError::Reject, 0);
            assert_eq!(decoded.rows, EVENTS_PER_BODY);
            black_box(decoder.finish());
        }
    };
    let arrow_schema = schema.arrow();
    let mut peer = || bodies.iter().for_each(|body| arrow_json(&arrow_schema, body));
    let rows = {
        let mut decoder = Decoder::new(&schema, Ids::seeded(ManualClock::new(0), 1));
        decoder.decode(&bodies[0], Format::NdJson, OnError::Reject, 0);
        decoder.finish()
    };
    let mut out = Vec::new();
    let mut writes = || {
        for _ in 0..BODIES {
            out.clear();
            encode::json_lines(&rows, &mut out).unwrap();
            black_box(&out);
        }
    };
    // Taken in turns, so that what else the machine does falls on all of them.
    let (mut best_ours, mut best_peer, mut best_writes) = (f64::MAX, f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        best_ours = best_ours.min(seconds(&mut ours));
        best_peer = best_peer.min(seconds(&mut peer));
        best_writes = best_writes.min(seconds(&mut writes));
    }
    let rate = |seconds: f64| (BODIES * EVENTS_PER_BODY) as f64 / seconds / 1e6;
    println!("headwater-schema decode  {:>6.2} M events/s", rate(best_ours));
    println!("arrow-json decode        {:>6.2} M events/s", rate(best_peer));
    println!("ratio                    {:>6.2}", best_peer / best_ours);
    println!("headwater-schema encode  {:>6.2} M events/s", rate(best_writes));
}

fn seconds(work: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn arrow_json(schema: &SchemaRef, body: &[u8]) {
    let builder = ReaderBuilder::new(Arc::clone(schema)).with_batch_size(EVENTS_PER_BODY);
    let mut decoder = builder.build_decoder().unwrap();
    assert_eq!(decoder.decode(body).unwrap(), body.len());
    assert_eq!(black_box(decoder.flush().unwrap().unwrap()).num_rows(), EVENTS_PER_BODY);
}

fn bid() -> EventSchema {
    let column = |name: &str, data_type| Column {
        name: name.to_owned(),
        data_type,
        json: false,
        nullable: false,
        default: None,
    };
    EventSchema {
        columns: vec![
            column("auction", DataType::Int64),
            column("bidder", DataType::Int64),
            column("price", DataType::Int64),
            column("channel", DataType::Utf8),
            column("url", DataType::Utf8),
            column("date_time", DataType::Timestamp(TimeUnit::Microsecond, None)),
            column("extra", DataType::Utf8),
        ],
        unknown_fields: UnknownFields::Reject,
    }
}

fn body(number: usize) -> Vec<u8> {
    let mut body = Vec::new();
    for n in 0..EVENTS_PER_BODY {
        let n = number * EVENTS_PER_BODY + n;
        writeln!(
            body,
            r#"{{"auction":{},"bidder":{},"price":{},"channel":"{}","url":"https://www.nexmark.com/{}/item.htm?query=1","date_time":"2026-01-01T{:02}:{:02}:{:02}.{:03}Z","extra":"{}"}}"#,
            1000 + n * 7 % 5003,
            1000 + n * 31 % 10_007,
            100 + n * 977 % 99_991,
            ["Google", "Facebook", "Baidu", "Apple", "channel-7412"][n % 5],
            ["sjkqpz", "mvxrtaub", "owie"][n % 3],
            n / 3_600_000 % 24,
            n / 60_000 % 60,
            n / 1000 % 60,
            n % 1000,
            &"eiwrotupqlskdjfhgmznxbcv0987654321"[..20 + n % 14],
        )
        .unwrap();
    }
    body
}
