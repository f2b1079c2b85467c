//! Made-up queries (see [`crate::random_query`]): each is refused with a reason and a place, or gives what it gives
//! as a batch, whatever happens to it on the way.

use headwater_engine::plan::{JoinKind, Operator, Pipeline, SessionRows};
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
/// Longer than all events take, and much shorter than the time until the closing rows.
const TTL: &str = "state_ttl = '100 days'";
/// Longer than that, for groups that would end and rows that would go.
const LONG_TTL: &str = "state_ttl = '1000000 days'";

/// What became of the programs.
#[derive(Debug, Default)]
struct Count {
    run: usize,
    refused: usize,
    /// DataFusion can't run them as a batch.
    without_batch: usize,
}

impl Count {
    /// Most programs ran, or they were fewer than usual.
    fn is_of_use(&self, usually: usize) -> bool {
        let others = self.refused + self.without_batch;
        self.run + others < usually || others < self.run / 3
    }
}

#[test]
fn made_up_queries() {
    with_stack(|| {
        let count = several(80, "trees::made_up_queries", |_, queries| Some(queries));
        assert!(count.is_of_use(50), "{count:?}");
    });
}

/// Where rows go after all others have come, joins of streams give what they give where rows stay for ever. So do groups and rows
/// that last longer than that.
#[test]
fn made_up_queries_with_a_time_to_live() {
    with_stack(|| {
        let count = several(120, "trees::made_up_queries_with_a_time_to_live", with_ttl);
        assert!(count.is_of_use(20), "{count:?}");
    });
}

/// The queries, with a bound for their joins where that can be, if it can for any.
fn with_ttl(streams: &[String], queries: Vec<String>) -> Option<Vec<String>> {
    let mut chosen: Vec<String> = Vec::with_capacity(queries.len());
    for query in queries {
        chosen.push(query.replace("state = 'unbounded'", TTL));
        match plan(streams, &chosen) {
            Ok(program) => {
                let pipeline = program.queries.last().map(|query| &query.pipeline);
                if pipeline.is_some_and(takes_rows_back) {
                    chosen.pop();
                    // What comes when nothing can match any more would not come before all is over.
                    chosen.push(match pipeline.is_some_and(waits_for_matches) {
                        true => query,
                        false => query.replace("state = 'unbounded'", LONG_TTL),
                    });
                }
            }
            Err(error) => {
                assert!(is_clean(&error), "{error:?}\n{}", chosen.join(";\n"));
                chosen.pop();
                chosen.push(query);
            }
        }
    }
    chosen.iter().any(|query| query.contains("state_ttl")).then_some(chosen)
}

fn takes_rows_back(pipeline: &Pipeline) -> bool {
    let mut operators = pipeline.stages.iter().flat_map(|stage| &stage.operators);
    operators.any(|operator| match operator {
        Operator::SessionAggregate(sessions) => sessions.gives == SessionRows::Latest,
        other => matches!(other, Operator::Expire(_)),
    })
}

fn waits_for_matches(pipeline: &Pipeline) -> bool {
    let mut operators = pipeline.stages.iter().flat_map(|stage| &stage.operators);
    operators.any(|operator| match operator {
        Operator::Join(join) => join.reach.is_some() && !matches!(join.kind, JoinKind::Inner | JoinKind::LeftSemi),
        _ => false,
    })
}

fn several(usually: u64, test: &str, changed: impl Fn(&[String], Vec<String>) -> Option<Vec<String>>) -> Count {
    let mut count = Count::default();
    for seed in seeds(usually) {
        one(seed, test, &changed, &mut count);
    }
    eprintln!("{count:?}");
    count
}

fn one(seed: u64, test: &str, changed: impl Fn(&[String], Vec<String>) -> Option<Vec<String>>, count: &mut Count) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let layout = Layout::random(&mut random, "1 day");
    let mut queries = Generator::new(&mut random).statements();
    // To find out what it is about a query that fails.
    if let Ok(others) = std::env::var("HEADWATER_QUERIES") {
        queries = others.split(';').map(|query| query.trim().to_owned()).collect();
    }
    let Some(queries) = changed(&layout.statements(), queries) else {
        return;
    };
    let again = format!("HEADWATER_SEED={seed} cargo test --workspace --test simulation -- {test}");
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
            panic!("{}", failure(&why, &case, seed, test));
        }
    }
}

fn is_clean(error: &SqlError) -> bool {
    error.kind != Kind::Internal && error.place.is_some()
}
