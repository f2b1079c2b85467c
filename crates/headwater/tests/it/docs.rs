//! The documentation names everything that there is, and its statements run.

use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use headwater::cli::embedded::Embedded;
use headwater::config::keys::KEYS;
use headwater_event::clock::SystemClock;
use headwater_query::error::QueryError;
use headwater_query::session::Answer;
use headwater_test_servers::postgres::Postgres;
use headwater_test_servers::redis::Redis;

#[test]
fn every_key_of_the_configuration_is_documented() {
    let text = std::fs::read_to_string(root().join("docs/operating.md")).expect("docs/operating.md");
    for key in KEYS {
        assert!(
            text.contains(&format!("`{}`", key.name)),
            "docs/operating.md lacks {}",
            key.name
        );
    }
}

/// What a block of `docs/sql.md` begins with when it must fail.
const REFUSED: &str = "-- refused: ";

#[tokio::test]
async fn the_statements_of_the_sql_reference_run() {
    let text = std::fs::read_to_string(root().join("docs/sql.md")).expect("docs/sql.md");
    let (postgres, redis) = (Postgres::start().await, Redis::start().await);
    if let Some(postgres) = &postgres {
        postgres
            .execute("CREATE TABLE customers (id bigint PRIMARY KEY, name text, level smallint)")
            .await;
    }
    let servers = [
        ("${env:PG_URL}", postgres.as_ref().map(Postgres::url)),
        ("${env:REDIS_URL}", redis.as_ref().map(Redis::url)),
    ];
    let instance = Embedded::with_threads(SystemClock::new(), 1).await.expect("it starts");
    let blocks = blocks(&text);
    assert!(blocks.len() > 10, "docs/sql.md has examples");
    for (line, sql) in blocks {
        // Without the server that it needs a block is left out; in CI they are there.
        let Some(sql) = at_servers(sql, &servers) else { continue };
        let refused = sql.strip_prefix(REFUSED).and_then(|rest| rest.lines().next());
        let done = run(&instance, &sql).await;
        instance.core.caught_up().await;
        match (done, refused) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => panic!("docs/sql.md:{line} is not refused"),
            (Err(error), Some(part)) => {
                assert!(error.to_string().contains(part), "docs/sql.md:{line}: {error}");
            }
            (Err(error), None) => panic!("docs/sql.md:{line}: {error}"),
        }
    }
}

/// The statements with the URLs of servers that run here. None if one is missing.
fn at_servers(sql: String, servers: &[(&str, Option<String>)]) -> Option<String> {
    servers.iter().try_fold(sql, |sql, (reference, url)| match url {
        Some(url) => Some(sql.replace(reference, url)),
        None => (!sql.contains(reference)).then_some(sql),
    })
}

/// Runs the statements, and queries to their end where they have one.
async fn run(instance: &Embedded, sql: &str) -> Result<(), QueryError> {
    for answer in instance.core.session().execute(sql, &[]).await? {
        if let Answer::Rows { rows, .. } = answer {
            rows.try_for_each(|_| async { Ok(()) }).await?;
        }
    }
    Ok(())
}

/// The blocks of SQL in a document, each with the line that it begins on.
fn blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let mut inside = false;
    for (line, content) in (1..).zip(text.lines()) {
        match content {
            "```sql" => {
                inside = true;
                blocks.push((line + 1, String::new()));
            }
            "```" => inside = false,
            _ if inside => {
                if let Some((_, block)) = blocks.last_mut() {
                    block.push_str(content);
                    block.push('\n');
                }
            }
            _ => {}
        }
    }
    blocks
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
