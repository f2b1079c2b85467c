//! The service `headwater.v1.Query`, over a socket.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use headwater_grpc::status::problem;
use headwater_grpc::v1::query_client::QueryClient;
use headwater_grpc::v1::rows_request::Of;
use headwater_grpc::v1::rows_response::Kind as RowsKind;
use headwater_grpc::v1::sql_response::Kind as SqlKind;
use headwater_grpc::v1::value::Kind;
use headwater_grpc::v1::{Condition, Encoding, LookupRequest, Order, Row, RowsRequest, SqlRequest, SqlResponse, Value};
use headwater_problem::ProblemKind;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::world::World;

type Client = QueryClient<Channel>;

fn text(text: &str) -> Value {
    Kind::Text(text.to_owned()).into()
}

fn integer(number: i64) -> Value {
    Kind::Integer(number).into()
}

/// The key of one row of `page_clicks`.
fn home_of(user: &str) -> HashMap<String, Value> {
    [("user_id", text(user)), ("page", text("/home"))]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

fn lookup(view: &str, key: HashMap<String, Value>) -> LookupRequest {
    LookupRequest {
        view: view.to_owned(),
        key,
        ..LookupRequest::default()
    }
}

fn select(sql: &str) -> SqlRequest {
    SqlRequest {
        sql: sql.to_owned(),
        ..SqlRequest::default()
    }
}

async fn sql(client: &mut Client, request: SqlRequest) -> Result<Vec<SqlKind>, Status> {
    let mut answer = client.sql(request).await?.into_inner();
    let mut kinds = Vec::new();
    while let Some(response) = answer.message().await? {
        kinds.extend(response.kind);
    }
    Ok(kinds)
}

/// The rows of an answer, whatever its messages are.
fn rows(kinds: &[SqlKind]) -> Vec<Vec<Option<Kind>>> {
    let batches = kinds.iter().filter_map(|kind| match kind {
        SqlKind::Rows(batch) => Some(&batch.rows),
        _ => None,
    });
    let values = |row: &Row| row.values.iter().map(|value| value.kind.clone()).collect();
    batches.flatten().map(values).collect()
}

#[tokio::test]
async fn a_row_is_found_by_its_key() {
    let world = World::with_clicks().await;
    let mut client = world.grpc().await;
    let row = client.lookup(lookup("page_clicks", home_of("u1"))).await.unwrap();
    let row = row.into_inner().row;
    assert_eq!(row["clicks"], integer(2));
    assert_eq!((row["user_id"].clone(), row.len()), (text("u1"), 3));
    let none = client.lookup(lookup("page_clicks", home_of("nobody"))).await;
    let none = none.unwrap_err();
    assert_eq!(
        (none.code(), none.message()),
        (Code::NotFound, "'page_clicks' has no row with this key")
    );
}

#[tokio::test]
async fn a_view_of_one_row_and_keys_of_other_types() {
    let world = World::with_clicks().await;
    world
        .run(
            "CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n FROM clicks;
             CREATE MATERIALIZED VIEW by_n AS SELECT n, count(*) AS rows FROM clicks GROUP BY n",
        )
        .await;
    world.wait_for_rows("SELECT sum(rows) AS n FROM by_n", 3).await;
    world.wait_for_rows("SELECT n FROM total", 3).await;
    let mut client = world.grpc().await;
    let total = client.lookup(lookup("total", HashMap::new())).await.unwrap();
    assert_eq!(total.into_inner().row["n"], integer(3));
    // A text is understood as the column's type.
    for key in [integer(3), text("3")] {
        let key = HashMap::from([("n".to_owned(), key)]);
        let row = client.lookup(lookup("by_n", key)).await.unwrap();
        assert_eq!(row.into_inner().row["rows"], integer(1));
    }
    for (wrong, says) in [
        (text("many"), "'n' must be a BIGINT, found 'many'"),
        (Kind::Number(1.5).into(), "'n' must be a BIGINT, found '1.5'"),
        (Value::default(), "'n' is compared with NULL, which equals nothing"),
    ] {
        let key = HashMap::from([("n".to_owned(), wrong)]);
        let refused = client.lookup(lookup("by_n", key)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(says), "{}", refused.message());
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_with_the_nearest_name() {
    let world = World::with_clicks().await;
    let mut client = world.grpc().await;
    let mut misspelt = home_of("u1");
    let page = misspelt.remove("page").unwrap();
    let mut more = home_of("u1");
    more.insert("clicks".to_owned(), integer(2));
    let cases = [
        (
            lookup("page_click", home_of("u1")),
            "there is no view 'page_click'; did you mean 'page_clicks'?",
        ),
        (lookup("clicks", home_of("u1")), "'clicks' is a stream, not a view"),
        (
            lookup("page_clicks", misspelt.clone()),
            "the key of 'page_clicks' is user_id, page: there is no value for page",
        ),
        (
            lookup("page_clicks", more),
            "the key of 'page_clicks' is user_id, page, 'clicks' is not of it",
        ),
        (
            lookup("page_clicks", {
                misspelt.insert("pge".to_owned(), page);
                misspelt
            }),
            "the key of 'page_clicks' is user_id, page, 'pge' is not of it; did you mean 'page'?",
        ),
    ];
    for (request, says) in cases {
        let refused = client.lookup(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().starts_with(says), "{}", refused.message());
    }
    let unknown = client.lookup(lookup("page_click", home_of("u1"))).await.unwrap_err();
    let told = problem(&unknown);
    assert_eq!(told.kind, ProblemKind::UnknownView);
    assert_eq!(told.hint.as_deref(), Some("did you mean 'page_clicks'?"));
}

#[tokio::test]
async fn rows_meet_conditions_in_an_order() {
    let world = World::with_clicks().await;
    let mut client = world.grpc().await;
    let request = RowsRequest {
        of: Some(Of::View("page_clicks".to_owned())),
        order: vec![Order {
            column: "clicks".to_owned(),
            descending: true,
        }],
        limit: Some(1),
        ..RowsRequest::default()
    };
    let mut answer = client.rows(request).await.unwrap().into_inner();
    let Some(RowsKind::Columns(columns)) = answer.message().await.unwrap().unwrap().kind else {
        panic!()
    };
    let names: Vec<_> = columns
        .columns
        .iter()
        .map(|column| (&*column.name, &*column.r#type))
        .collect();
    assert_eq!(names, [("user_id", "TEXT"), ("page", "TEXT"), ("clicks", "BIGINT")]);
    assert!(!columns.by_key);
    let Some(RowsKind::Rows(batch)) = answer.message().await.unwrap().unwrap().kind else {
        panic!()
    };
    assert_eq!(batch.rows.len(), 1);
    assert_eq!(batch.rows[0].values, [text("u1"), text("/home"), integer(2)]);
    assert!(answer.message().await.unwrap().is_none());

    let condition = |column: &str, value| Condition {
        column: column.to_owned(),
        value: Some(value),
    };
    let wrong = RowsRequest {
        of: Some(Of::View("page_clicks".to_owned())),
        r#where: vec![condition("usr_id", text("u1"))],
        ..RowsRequest::default()
    };
    let refused = client.rows(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().ends_with("did you mean 'user_id'?"), "{refused:?}");
    let nothing = client.rows(RowsRequest::default()).await.unwrap_err();
    assert_eq!(nothing.message(), "the request names no view");
}

#[tokio::test]
async fn statements_are_answered_one_after_the_other() {
    let world = World::with_clicks().await;
    let mut client = world.grpc().await;
    let request = SqlRequest {
        parameters: vec![text("u1")],
        ..select("SELECT page, clicks FROM page_clicks WHERE user_id = $1")
    };
    let kinds = sql(&mut client, request).await.unwrap();
    let SqlKind::Columns(columns) = &kinds[0] else {
        panic!("{kinds:?}")
    };
    assert!(columns.last && !columns.live);
    assert_eq!(
        rows(&kinds),
        [[Some(Kind::Text("/home".to_owned())), Some(Kind::Integer(2))]]
    );

    let request = select("CREATE STREAM s (a INT); INSERT INTO s VALUES (1), (2); SELECT a FROM s ORDER BY a");
    let kinds = sql(&mut client, request).await.unwrap();
    let [
        SqlKind::Done(created),
        SqlKind::Done(inserted),
        SqlKind::Columns(columns),
        ..,
    ] = &kinds[..]
    else {
        panic!("{kinds:?}")
    };
    assert_eq!(
        (&*created.tag, created.rows, created.last),
        ("CREATE STREAM", None, false)
    );
    assert_eq!((&*inserted.tag, inserted.rows, columns.last), ("INSERT", Some(2), true));
    assert_eq!(rows(&kinds).len(), 2);

    for (wrong, code, says) in [
        ("SELECT clics FROM page_clicks", Code::InvalidArgument, "clicks"),
        (
            "SELECT 1 FROM page_click",
            Code::InvalidArgument,
            "did you mean page_clicks?",
        ),
        ("SELEC 1", Code::InvalidArgument, "SELEC"),
        (
            "SELECT user_id FROM page_clicks WHERE clicks = $1",
            Code::InvalidArgument,
            "1 parameter",
        ),
        ("SELECT 1 / 0", Code::InvalidArgument, "zero"),
        (
            "SELECT a FROM s; SELECT a FROM s EMIT CHANGES",
            Code::InvalidArgument,
            "only statement",
        ),
    ] {
        let refused = sql(&mut client, select(wrong)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{wrong}: {refused:?}");
        assert!(refused.message().contains(says), "{wrong}: {}", refused.message());
    }
    let refused = sql(&mut client, select("SELECT\n clics FROM page_clicks"))
        .await
        .unwrap_err();
    let place = &problem(&refused).errors[0];
    assert_eq!((place.line, place.column), (Some(2), Some(2)));
}

#[tokio::test]
async fn arrow_pieces_make_a_stream() {
    let world = World::with_clicks().await;
    let mut client = world.grpc().await;
    let request = SqlRequest {
        encoding: Encoding::Arrow.into(),
        ..select("SELECT page, clicks FROM page_clicks ORDER BY clicks DESC")
    };
    let kinds = sql(&mut client, request).await.unwrap();
    let pieces = kinds.iter().filter_map(|kind| match kind {
        SqlKind::Arrow(bytes) => Some(&bytes[..]),
        _ => None,
    });
    let bytes = pieces.collect::<Vec<_>>().concat();
    let reader = arrow::ipc::reader::StreamReader::try_new(&bytes[..], None).unwrap();
    let batches: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 2);
    let wrong = SqlRequest {
        encoding: 77,
        ..select("SELECT 1")
    };
    let refused = sql(&mut client, wrong).await.unwrap_err();
    assert_eq!(refused.message(), "there is no encoding 77");
}

async fn changes(client: &mut Client, request: SqlRequest) -> Streaming<SqlResponse> {
    let mut answer = client.sql(request).await.unwrap().into_inner();
    let Some(SqlKind::Columns(columns)) = answer.message().await.unwrap().unwrap().kind else {
        panic!()
    };
    assert!(columns.live);
    answer
}

#[tokio::test]
async fn a_live_query_goes_on_until_it_is_cancelled() {
    let world = World::with_clicks().await;
    let mut client = world.grpc().await;
    let request = select("SELECT user_id, clicks FROM page_clicks EMIT CHANGES");
    let mut answer = changes(&mut client, request).await;
    world
        .run("INSERT INTO clicks (user_id, page) VALUES ('u1', '/home')")
        .await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let kind = answer.message().await.unwrap().unwrap().kind;
        seen.extend(rows(&kind.into_iter().collect::<Vec<_>>()));
    }
    let op = |op: &str| Some(Kind::Text(op.to_owned()));
    assert_eq!(seen[0][1..], [Some(Kind::Integer(2)), op("update_before")]);
    assert_eq!(seen[1][1..], [Some(Kind::Integer(3)), op("update_after")]);

    let all = world.shared.live_places();
    assert_eq!(all, world.shared.options.live_max - 1);
    drop(answer);
    tokio::time::timeout(Duration::from_secs(20), async {
        while world.shared.live_places() < world.shared.options.live_max {
            world.shared.parts.clock.sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("a cancelled query gives its place back");
}

#[tokio::test]
async fn a_live_query_over_what_is_dropped_ends_with_the_reason() {
    let world = World::with_clicks().await;
    let mut client = world.grpc().await;
    let mut answer = changes(&mut client, select("SELECT user_id FROM page_clicks EMIT CHANGES")).await;
    world.run("DROP MATERIALIZED VIEW page_clicks").await;
    let ended = loop {
        match answer.message().await {
            Ok(Some(_)) => {}
            other => break other.unwrap_err(),
        }
    };
    assert_eq!(ended.code(), Code::Aborted);
    assert!(ended.message().starts_with("'page_clicks' was dropped"), "{ended:?}");
}

#[tokio::test]
async fn a_deadline_holds_for_the_whole_answer() {
    let world = World::with_clicks().await;
    let mut client = world.grpc().await;
    let mut request = Request::new(select("SELECT user_id FROM page_clicks EMIT CHANGES"));
    // Not `set_timeout`: that would end the call in this client, too.
    request.metadata_mut().insert("grpc-timeout", "300m".parse().unwrap());
    // It may take as long until there is an answer at all.
    let ended = match client.sql(request).await {
        Ok(answer) => {
            let mut answer = answer.into_inner();
            loop {
                match answer.message().await {
                    Ok(Some(_)) => {}
                    other => break other.unwrap_err(),
                }
            }
        }
        Err(ended) => ended,
    };
    assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended:?}");

    let mut request = Request::new(select("SELECT count(*) FROM generate_series(1, 100000000000)"));
    request.metadata_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let ended = match client.sql(request).await {
        Ok(answer) => answer
            .into_inner()
            .collect::<Vec<_>>()
            .await
            .pop()
            .unwrap()
            .unwrap_err(),
        Err(ended) => ended,
    };
    assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended:?}");
    let mut request = Request::new(select("SELECT 1"));
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    let refused = client.sql(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}

#[tokio::test]
async fn a_text_that_is_too_large_is_refused() {
    let world = World::with_clicks().await;
    let mut client = world.grpc().await;
    let long = format!("SELECT '{}'", "x".repeat(65 << 10));
    let refused = sql(&mut client, select(&long)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    assert!(refused.message().contains("limit"), "{}", refused.message());
    assert!(sql(&mut client, select("SELECT 1")).await.is_ok());
}

#[tokio::test]
async fn who_reads_slowly_holds_the_rows_back() {
    let world = World::with_clicks().await;
    let mut client = world.grpc().await;
    // 2 GB, if all of it were computed for somebody who doesn't read.
    let request = select("SELECT repeat('x', 1000) AS x FROM generate_series(1, 2000000)");
    let mut answer = client.sql(request).await.unwrap().into_inner();
    answer.message().await.unwrap();
    let before = resident();
    world.shared.parts.clock.sleep(Duration::from_secs(2)).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 200 << 20, "{grown} bytes");
    let mut seen = 0;
    while seen < 10_000 {
        let kind = answer.message().await.unwrap().unwrap().kind;
        seen += rows(&kind.into_iter().collect::<Vec<_>>()).len();
    }
}

/// What this process takes in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}
