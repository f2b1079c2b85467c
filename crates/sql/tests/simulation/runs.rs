//! Continuous queries under a simulator: whatever fails, ends and begins anew, in whatever order tasks get on, the final
//! result is that of the same query as a batch.
//!
//! A seed says everything about a run. A failure prints its own, and the command that runs it again. More than every
//! run tries are run with `HEADWATER_SEED=first..end`.

use std::ops::Range;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::events::{self, Layout};
use crate::program::{Program, plan};
use crate::programs::{JOINS, Statements, VIEWS, WINDOWS};
use crate::world::{Case, Weather, run};

/// Runs on different schedules over the same events.
pub const SCHEDULES: u64 = 25;
/// Enough for the planner, which goes deep.
const STACK_BYTES: usize = 32 << 20;

pub const TROUBLE: Weather = Weather {
    trouble: true,
    shared: false,
    alone: false,
    broken_promises: false,
};

/// A case of one of these programs. Only events are late that all its queries leave out.
fn case(programs: &[Statements], number: u64) -> Case {
    let statements = &programs[number as usize % programs.len()];
    let mut random = ChaCha8Rng::seed_from_u64(number);
    let layout = Layout::random(&mut random, "1 day");
    let queries: Vec<String> = statements.queries.iter().map(|&query| query.to_owned()).collect();
    let program = plan(&layout.statements(), &queries);
    let program = program.unwrap_or_else(|error| panic!("{}: {error}", queries.join(";\n")));
    let lateness = statements.lateness && random.random_bool(0.5);
    over_events(layout, program, &mut random, lateness).unwrap_or_else(|error| panic!("{error}"))
}

pub fn over_events(layout: Layout, program: Program, random: &mut ChaCha8Rng, lateness: bool) -> Result<Case, String> {
    let count = random.random_range(5..50);
    let events = events::events(random, &layout, count, lateness);
    let in_time: Vec<_> = events.iter().filter(|event| !event.late).cloned().collect();
    let expected = program.batch(&in_time)?;
    Ok(Case {
        layout,
        program,
        events,
        expected,
    })
}

/// The seeds of a test, or those that the environment names: one, or `first..end`.
pub fn seeds(usually: u64) -> Range<u64> {
    let Ok(named) = std::env::var("HEADWATER_SEED") else {
        return 0..usually;
    };
    let number = |text: &str| text.parse::<u64>().expect("HEADWATER_SEED is a number, or first..end");
    match named.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => number(&named)..number(&named) + 1,
    }
}

fn simulate(test: &'static str, programs: &'static [Statements], usually: u64) {
    with_stack(move || {
        let mut known: Option<(u64, Case)> = None;
        for seed in seeds(usually) {
            let number = seed / SCHEDULES;
            let (_, case) = match known.take() {
                Some(known) if known.0 == number => known,
                _ => (number, case(programs, number)),
            };
            let weather = Weather {
                shared: seed % 3 == 0,
                ..TROUBLE
            };
            if let Err(why) = run(&case, seed, weather) {
                panic!("{}", failure(&why, &case, seed, &format!("runs::{test}")));
            }
            known = Some((number, case));
        }
    });
}

pub fn failure(why: &str, case: &Case, seed: u64, test: &str) -> String {
    let statements: Vec<_> = case
        .program
        .queries
        .iter()
        .map(|query| query.definition.sql.as_str())
        .collect();
    format!(
        "{why}\n\n{}\n{:?}\nHEADWATER_SEED={seed} cargo test --workspace --test simulation -- {test}",
        statements.join(";\n"),
        case.layout
    )
}

pub fn with_stack(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work);
    if let Err(panic) = thread.expect("a thread").join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn windows() {
    simulate("windows", WINDOWS, 500);
}

#[test]
fn views() {
    simulate("views", VIEWS, 500);
}

#[test]
fn joins() {
    simulate("joins", JOINS, 500);
}

#[test]
fn a_seed_does_the_same_again() {
    with_stack(|| {
        for number in 0..4 {
            let case = case(JOINS, number);
            let trace = || run(&case, number, TROUBLE).expect("it gives what is expected");
            assert_eq!(trace(), trace());
        }
    });
}

/// The simulator finds a log out that carries out calls that it says have failed.
#[test]
fn a_log_that_breaks_its_word_is_found_out() {
    with_stack(|| {
        let case = case(VIEWS, 0);
        let weather = Weather {
            broken_promises: true,
            ..TROUBLE
        };
        assert!((0..200).any(|seed| run(&case, seed, weather).is_err()));
    });
}
