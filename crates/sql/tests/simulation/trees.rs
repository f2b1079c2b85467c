//! Made-up queries (see [`crate::random_query`]): each is refused with a reason and a place, or gives what it gives
//! as a batch, whatever happens to it on the way.

use headwater_sql::error::{Kind, SqlError};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::events::Layout;
use crate::program::plan;
use crate::random_query::Generator;
use crate::runs::{TROUBLE, failure, over_events, seeds, with_stack};
use crate::world::run;

/// Runs on different schedules over the same events.
const SCHEDULES: u64 = 4;
const TEST: &str = "trees::made_up_queries";

/// What became of the programs.
#[derive(Debug, Default)]
struct Count {
    run: usize,
    refused: usize,
    /// DataFusion can't run them as a batch.
    without_batch: usize,
}

#[test]
fn made_up_queries() {
    with_stack(|| {
        let mut count = Count::default();
        let seeds = seeds(80);
        let few = seeds.end - seeds.start < 50;
        for seed in seeds {
            one(seed, &mut count);
        }
        eprintln!("{count:?}");
        assert!(few || count.refused + count.without_batch < count.run / 3, "{count:?}");
    });
}

fn one(seed: u64, count: &mut Count) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let layout = Layout::random(&mut random, "1 day");
    let mut queries = Generator::new(&mut random).statements();
    // To find out what it is about a query that fails.
    if let Ok(others) = std::env::var("HEADWATER_QUERIES") {
        queries = others.split(';').map(|query| query.trim().to_owned()).collect();
    }
    let again = format!("HEADWATER_SEED={seed} cargo test --workspace --test simulation -- {TEST}");
    let program = match plan(&layout.statements(), &queries) {
        Ok(program) => program,
        Err(error) => {
            assert!(is_clean(&error), "{error:?}\n{}\n{again}", queries.join(";\n"));
            eprintln!("{error}");
            count.refused += 1;
            return;
        }
    };
    let case = match over_events(layout, program, &mut random, false) {
        Ok(case) => case,
        Err(why) => {
            eprintln!("{why}");
            count.without_batch += 1;
            return;
        }
    };
    count.run += 1;
    for schedule in 0..SCHEDULES {
        if let Err(why) = run(&case, seed * SCHEDULES + schedule, TROUBLE) {
            panic!("{}", failure(&why, &case, seed, TEST));
        }
    }
}

fn is_clean(error: &SqlError) -> bool {
    error.kind != Kind::Internal && error.place.is_some()
}
