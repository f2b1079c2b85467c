//! Parquet files as a source.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, Int64Array, LargeStringArray, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use crate::fixture::Fixture;

const A_LOOK: Duration = Duration::from_millis(600);

fn write(path: &Path, rows: &RecordBatch, group_rows: usize) {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .build();
    let under_way = path.with_extension("tmp");
    let mut writer = ArrowWriter::try_new(File::create(&under_way).unwrap(), rows.schema(), Some(properties)).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
    std::fs::rename(under_way, path).unwrap();
}

fn numbers(range: std::ops::Range<i64>) -> RecordBatch {
    let texts = range.clone().map(|n| Some(format!("row {n}")));
    let columns: [(&str, ArrayRef); 2] = [
        ("text", Arc::new(texts.collect::<LargeStringArray>())),
        ("n", Arc::new(Int64Array::from_iter_values(range))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

#[tokio::test]
async fn rows_of_files_come_once_at_any_rate_and_through_restarts() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), &numbers(0..20_000), 3000);
    write(&folder.path().join("b.parquet"), &numbers(20_000..30_000), 1 << 20);
    let path = folder.path().to_str().unwrap();
    let options = [("path", path), ("rate", "7000"), ("format", "parquet")];
    let mut fixture = Fixture::new("file", &options).await;
    for _ in 0..6 {
        fixture.advance(Duration::from_secs(1)).await;
        fixture.restart().await;
    }
    fixture.sources.caught_up().await;
    write(&folder.path().join("c.parquet"), &numbers(30_000..30_010), 4);
    fixture.advance(A_LOOK).await;
    fixture.advance(A_LOOK).await;
    assert_eq!(fixture.numbers().await, (0..30_010).collect::<Vec<_>>());
    assert_eq!(fixture.status().events, 30_010);
    assert_eq!(fixture.letters().await, []);
}

#[tokio::test]
async fn rows_that_do_not_fit_are_dead_letters_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let columns: [(&str, ArrayRef, bool); 2] = [
        ("n", Arc::new(Int32Array::from(vec![Some(1), None, Some(3)])), true),
        (
            "text",
            Arc::new(StringArray::from(vec![Some("a"), Some("b"), None])),
            true,
        ),
    ];
    let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let file = folder.path().join("some.parquet");
    write(&file, &rows, 2);
    let fixture = Fixture::new("file", &[("path", file.to_str().unwrap()), ("follow", "false")]).await;
    fixture.sources.caught_up().await;
    assert_eq!(fixture.status().state, "finished");
    assert_eq!(fixture.numbers().await, [1, 3]);
    assert_eq!(
        fixture.letters().await,
        [(
            "some.parquet, row 1: n: expected BIGINT NOT NULL, found NULL".to_owned(),
            "{\"n\":null,\"text\":\"b\"}".to_owned()
        )]
    );
}

#[tokio::test]
async fn a_file_of_other_columns_is_said_and_read_when_it_was_mended() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("some.parquet");
    let wrong: [(&str, ArrayRef); 1] = [("n", Arc::new(StringArray::from(vec!["1"])))];
    write(&file, &RecordBatch::try_from_iter(wrong).unwrap(), 10);
    let fixture = Fixture::new("file", &[("path", folder.path().to_str().unwrap())]).await;
    fixture.sources.caught_up().await;
    let status = fixture.status();
    assert_eq!(
        (status.state, status.failure.as_deref()),
        (
            "failing",
            Some("some.parquet: the column n is TEXT, and BIGINT is expected: no cast keeps every value")
        )
    );
    write(&file, &numbers(0..5), 10);
    fixture.advance(A_LOOK).await;
    assert_eq!(fixture.numbers().await, [0, 1, 2, 3, 4]);

    // What was read must stay as it is.
    write(&file, &numbers(0..7), 10);
    fixture.advance(A_LOOK).await;
    assert!(
        fixture
            .status()
            .failure
            .unwrap()
            .contains("has changed since it was read")
    );
}
