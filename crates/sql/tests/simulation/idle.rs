//! Partitions that are idle now and then: windows close without them, and what comes to them after that may be late.
//!
//! Which rows are late depends on how fast everything was. But every row is in its window or in the dead letters,
//! and what comes of the windows is what these rows give. And where one process knows of all tasks, rows are late on account of what was
//! stored before them, and not because other partitions were read sooner.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use headwater_event::clock::Micros;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::events::{self, Event, Layout};
use crate::program::plan;
use crate::runs::{SCHEDULES, TROUBLE, failure, seeds, with_stack};
use crate::world::{Case, Weather, World};

const TEST: &str = "idle::every_row_is_in_its_window_or_a_dead_letter";
const INNER: Micros = 10_000_000;
const OUTER: Micros = 30_000_000;
const QUERIES: [&str; 2] = [
    "CREATE STREAM inner_windows AS SELECT window_start, window_end, k, count(*) AS c, sum(id) AS ids
     FROM TUMBLE({a}, at, INTERVAL '10 seconds') GROUP BY window_start, window_end, k",
    "CREATE STREAM outer_windows AS SELECT window_start, k, sum(c) AS c, sum(ids) AS ids
     FROM TUMBLE(inner_windows, window_end, INTERVAL '30 seconds', INTERVAL '1 microsecond') GROUP BY window_start, window_end, k",
];

/// By start and key: how many rows, and the sum of their ids.
type Windows = BTreeMap<(Micros, Option<String>), (i64, i64)>;

#[test]
fn every_row_is_in_its_window_or_a_dead_letter() {
    with_stack(|| {
        let mut known: Option<(u64, Case)> = None;
        let mut late = 0;
        let seeds = seeds(700);
        let few = seeds.end - seeds.start < 100;
        for seed in seeds {
            let number = seed / SCHEDULES;
            let (_, case) = match known.take() {
                Some(known) if known.0 == number => known,
                _ => (number, case(number)),
            };
            let shared = seed % 5 < 2;
            let weather = Weather {
                trouble: seed % 2 == 0,
                shared,
                alone: !shared,
                ..TROUBLE
            };
            match one(&case, seed, weather) {
                Ok(found) => late += found,
                Err(why) => panic!("{}", failure(&why, &case, seed, TEST)),
            }
            known = Some((number, case));
        }
        assert!(few || late > 0, "no row was late: the test shows nothing");
    });
}

fn case(number: u64) -> Case {
    let mut random = ChaCha8Rng::seed_from_u64(number);
    let layout = Layout {
        partitions: [random.random_range(2..=3), 1],
        ..Layout::random(&mut random, "2 seconds")
    };
    let program = plan(&layout.statements(), &QUERIES.map(str::to_owned));
    let program = program.unwrap_or_else(|error| panic!("{error}"));
    let count = random.random_range(5..60);
    let events = events::events(&mut random, &layout, count, false);
    Case {
        events: events.into_iter().filter(|event| event.stream == 0).collect(),
        expected: Vec::new(),
        layout,
        program,
    }
}

/// The number of late rows.
fn one(case: &Case, seed: u64, weather: Weather) -> Result<usize, String> {
    let world = World::ended(case, seed, weather);
    world.check_tasks()?;
    let letters = world.dead_letters();
    let mut offsets: BTreeMap<u32, u64> = BTreeMap::new();
    let mut expected = Windows::new();
    let mut late = 0;
    for (number, event) in case.events.iter().enumerate() {
        let offset = offsets.entry(event.partition).or_default();
        let place = format!("[{}], offset {offset})", event.partition);
        *offset += 1;
        if letters
            .iter()
            .any(|letter| letter.contains("|late|") && letter.contains(&place))
        {
            late += 1;
            if weather.alone && !world.may_be_late(number) {
                return Err(format!(
                    "event {number} is late, and nothing that came before makes it so: {event:?}"
                ));
            }
        } else {
            count(&mut expected, event);
        }
    }
    if late != letters.len() {
        return Err(format!(
            "{late} rows are late, and there are these dead letters:\n{}",
            letters.join("\n")
        ));
    }
    let [inner, outer] = [0, 1].map(|at| windows(&world.rows(&case.program.queries[at].definition.topic())));
    if inner != expected {
        return Err(format!("{late} rows are late\n{inner:?} instead of\n{expected:?}"));
    }
    let expected = outer_of(&inner);
    match outer == expected {
        true => Ok(late),
        false => Err(format!("outer windows:\n{outer:?} instead of\n{expected:?}")),
    }
}

fn count(windows: &mut Windows, event: &Event) {
    let start = event.at.div_euclid(INNER) * INNER;
    let (rows, ids) = windows.entry((start, event.k.map(str::to_owned))).or_default();
    *rows += 1;
    *ids += i64::from(event.id);
}

/// A window of ten seconds belongs where its end does, and an end at a full half minute still to that.
fn outer_of(inner: &Windows) -> Windows {
    let mut outer = Windows::new();
    for ((start, k), (rows, ids)) in inner {
        let start = (start + INNER - 1).div_euclid(OUTER) * OUTER + 1;
        let (of_all, all_ids) = outer.entry((start, k.clone())).or_default();
        *of_all += rows;
        *all_ids += ids;
    }
    outer
}

fn windows(rows: &RecordBatch) -> Windows {
    let column = |name: &str| rows.column_by_name(name).expect("a column of the query");
    let starts = column("window_start").as_primitive::<TimestampMicrosecondType>();
    let (counts, ids) = (
        column("c").as_primitive::<Int64Type>(),
        column("ids").as_primitive::<Int64Type>(),
    );
    let keys = column("k").as_string::<i32>();
    let key = |row: usize| (!keys.is_null(row)).then(|| keys.value(row).to_owned());
    let each = (0..rows.num_rows()).map(|row| ((starts.value(row), key(row)), (counts.value(row), ids.value(row))));
    let mut windows = Windows::new();
    for (window, values) in each {
        // A window that came twice shows as one of its rows too many.
        let (rows, ids) = windows.entry(window).or_default();
        *rows += values.0;
        *ids += values.1;
    }
    windows
}
