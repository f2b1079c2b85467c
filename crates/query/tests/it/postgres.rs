//! The Postgres port, with a driver.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::world::World;

async fn connect(world: &World) -> Client {
    let settings = format!(
        "host=127.0.0.1 port={} user=headwater dbname=headwater",
        world.postgres.port()
    );
    let (client, connection) = tokio_postgres::connect(&settings, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn texts(messages: &[SimpleQueryMessage]) -> Vec<Vec<Option<String>>> {
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(
            (0..row.len())
                .map(|column| row.get(column).map(str::to_owned))
                .collect(),
        ),
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_have_parameters() {
    let world = World::with_clicks().await;
    let client = connect(&world).await;
    let insert = client
        .prepare("INSERT INTO clicks (user_id, page, n) VALUES ($1, $2, $3)")
        .await
        .unwrap();
    assert_eq!(client.execute(&insert, &[&"u7", &"/p", &9_i64]).await.unwrap(), 1);
    let row = client
        .query_one("SELECT page, n FROM clicks WHERE user_id = $1", &[&"u7"])
        .await
        .unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i64>(1)), ("/p", 9));
    let select = client
        .prepare("SELECT count(*) FROM clicks WHERE n > $1")
        .await
        .unwrap();
    assert_eq!(client.query_one(&select, &[&4_i64]).await.unwrap().get::<_, i64>(0), 2);
    client.batch_execute("CREATE STREAM unrelated (x INT)").await.unwrap();
    assert_eq!(client.query_one(&select, &[&4_i64]).await.unwrap().get::<_, i64>(0), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn simple_queries_and_transactions_work() {
    let world = World::with_clicks().await;
    let mut client = connect(&world).await;
    let messages = client
        .simple_query("SELECT user_id, clicks FROM page_clicks ORDER BY 1; SELECT 1")
        .await
        .unwrap();
    let rows = texts(&messages);
    assert_eq!(rows[0], [Some("u1".to_owned()), Some("2".to_owned())]);
    assert_eq!(rows[2], [Some("1".to_owned())]);
    let transaction = client.transaction().await.unwrap();
    assert_eq!(transaction.query("SELECT * FROM clicks", &[]).await.unwrap().len(), 3);
    transaction.commit().await.unwrap();
    client
        .batch_execute("SET application_name = 'x'; SET TIME ZONE 'UTC'")
        .await
        .unwrap();
    let shown = client.simple_query("SHOW server_version").await.unwrap();
    assert!(texts(&shown)[0][0].is_some());
    client.batch_execute("").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_a_class_and_a_position() {
    let world = World::with_clicks().await;
    let client = connect(&world).await;
    let error = client.query("SELECT user_id, pge FROM clicks", &[]).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code(), &SqlState::UNDEFINED_COLUMN, "{error}");
    assert_eq!(
        error.position(),
        Some(&tokio_postgres::error::ErrorPosition::Original(17))
    );
    let cases = [
        ("SELECT * FROM nothing", SqlState::UNDEFINED_TABLE),
        ("SELEC 1", SqlState::SYNTAX_ERROR),
        ("CREATE STREAM clicks (x INT)", SqlState::DUPLICATE_TABLE),
        ("SELECT 1 / 0", SqlState::DIVISION_BY_ZERO),
    ];
    for (sql, state) in cases {
        let error = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(error.code(), Some(&state), "{sql}: {error:?}");
    }
    assert_eq!(
        client.query("SELECT 1", &[]).await.unwrap().len(),
        1,
        "the connection goes on"
    );
    let settings = format!(
        "host=127.0.0.1 port={} user=bob dbname=headwater",
        world.postgres.port()
    );
    let refused = tokio_postgres::connect(&settings, NoTls).await.err().unwrap();
    assert!(refused.as_db_error().unwrap().message().contains("bob"));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_find_tables_in_the_catalog() {
    let world = World::with_clicks().await;
    let client = connect(&world).await;
    let kinds = "SELECT c.relname, c.relkind FROM pg_catalog.pg_class c \
                 LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = 'public' ORDER BY 1";
    let rows = texts(&client.simple_query(kinds).await.unwrap());
    let rows: Vec<Vec<&str>> = rows
        .iter()
        .map(|row| row.iter().flatten().map(String::as_str).collect())
        .collect();
    assert_eq!(rows, [["clicks", "r"], ["page_clicks", "v"]]);
    let version = texts(&client.simple_query("SELECT version()").await.unwrap());
    assert!(version[0][0].is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn live_queries_come_row_by_row_until_cancelled() {
    let world = World::with_clicks().await;
    let client = connect(&world).await;
    let rows = client
        .simple_query_raw("SELECT user_id FROM clicks EMIT CHANGES")
        .await
        .unwrap();
    let mut rows = Box::pin(rows);
    let described = rows.try_next().await.unwrap();
    assert!(matches!(described, Some(SimpleQueryMessage::RowDescription(_))));
    world.run("INSERT INTO clicks (user_id, page) VALUES ('u8', '/')").await;
    let row = tokio::time::timeout(Duration::from_secs(20), rows.try_next())
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(row, Some(SimpleQueryMessage::Row(row)) if row.get(0) == Some("u8")));
    client.cancel_token().cancel_query(NoTls).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), rows.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(end.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    assert_eq!(client.query("SELECT 1", &[]).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_are_prepared_in_sql_too() {
    let world = World::with_clicks().await;
    let client = connect(&world).await;
    let messages = client
        .simple_query(
            "PREPARE q (TEXT, BIGINT) AS SELECT page FROM clicks WHERE user_id = $1 AND n < $2 LIMIT 1;
             EXECUTE q('u1', '1' || '00');",
        )
        .await
        .unwrap();
    assert_eq!(texts(&messages), [[Some("/home".to_owned())]]);
    client
        .simple_query("PREPARE i AS INSERT INTO clicks (user_id, page, n) VALUES ($1, '/sql', 1 + 1)")
        .await
        .unwrap();
    client.simple_query("EXECUTE i('u8')").await.unwrap();
    client
        .simple_query("PREPARE Plain AS SELECT n FROM clicks WHERE user_id = 'u8'")
        .await
        .unwrap();
    let messages = client.simple_query("EXECUTE plain").await.unwrap();
    assert_eq!(texts(&messages), [[Some("2".to_owned())]]);

    for (sql, code) in [
        ("PREPARE q AS SELECT 1", "42P05"),
        ("EXECUTE q('u1')", "42601"),
        ("EXECUTE q('u1', 'many')", "22P02"),
        ("EXECUTE nothing", "26000"),
        ("DEALLOCATE nothing", "26000"),
        ("PREPARE w AS SELECT nothing FROM clicks", "42703"),
    ] {
        let error = client.simple_query(sql).await.unwrap_err();
        assert_eq!(error.code().map(SqlState::code), Some(code), "{sql}: {error:?}");
    }
    client.simple_query("DEALLOCATE q").await.unwrap();
    assert!(client.simple_query("EXECUTE q('u1', 5)").await.is_err());
    client.simple_query("DEALLOCATE ALL").await.unwrap();
    assert!(client.simple_query("EXECUTE plain").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_what_postgres_clients_expect() {
    let world = World::with_clicks().await;
    let client = connect(&world).await;
    let row = client
        .query_one("SELECT session_user, version(), current_database()", &[])
        .await
        .unwrap();
    let names: Vec<_> = row.columns().iter().map(|column| column.name()).collect();
    assert_eq!(names, ["session_user", "version", "current_database"]);
    assert_eq!(row.get::<_, &str>(0), "headwater");
    assert!(
        row.get::<_, &str>(1).starts_with("PostgreSQL 16"),
        "{}",
        row.get::<_, &str>(1)
    );
    let statement = client
        .prepare("SELECT count(*), 1, n + 1 FROM clicks GROUP BY n")
        .await
        .unwrap();
    let names: Vec<_> = statement.columns().iter().map(|column| column.name()).collect();
    assert_eq!(names, ["count", "1", "n + 1"]);
}
