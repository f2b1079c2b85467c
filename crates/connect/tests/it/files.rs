//! Files that are there, grow, and come.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use crate::fixture::Fixture;

const A_LOOK: Duration = Duration::from_millis(600);

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn path(path: &Path) -> (&str, &str) {
    ("path", path.to_str().unwrap())
}

#[tokio::test]
async fn a_folder_is_followed_through_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let (lines, table) = (folder.path().join("b.ndjson"), folder.path().join("a.csv"));
    append(&lines, "{\"n\": 1}\n{\"n\": 2}\n{\"n\":");
    append(&folder.path().join("notes.txt"), "not for us");
    let mut fixture = Fixture::new("file", &[path(folder.path())]).await;
    fixture.sources.caught_up().await;
    assert_eq!(fixture.numbers().await, [1, 2]);

    append(&lines, " 3}\n");
    append(&table, "text,n\n\"x\ny\",4\n");
    fixture.advance(A_LOOK).await;
    assert_eq!(fixture.numbers().await, [1, 2, 3, 4]);

    fixture.restart().await;
    append(&table, "z,5\n");
    append(&lines, "{\"n\": 6}\n");
    fixture.advance(A_LOOK).await;
    fixture.advance(A_LOOK).await;
    assert_eq!(fixture.numbers().await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(fixture.status().events, 6);
    assert_eq!(fixture.letters().await, []);
}

#[tokio::test]
async fn what_cannot_be_read_is_a_dead_letter_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.ndjson");
    append(&file, "{\"n\": 1}\nnonsense\n{\"n\": \"x\"}\n{\"n\": 2}");
    let fixture = Fixture::new("file", &[path(&file), ("follow", "false")]).await;
    fixture.sources.caught_up().await;
    assert_eq!(fixture.status().state, "finished");
    assert_eq!(fixture.numbers().await, [1, 2]);
    let letters = fixture.letters().await;
    let places: Vec<_> = letters
        .iter()
        .map(|(detail, payload)| (&detail[..21], payload.as_str()))
        .collect();
    assert_eq!(
        places,
        [
            ("events.ndjson, byte 9", "nonsense"),
            ("events.ndjson, byte 1", "{\"n\": \"x\"}")
        ]
    );
}

#[tokio::test]
async fn many_lines_come_once_at_any_rate_and_through_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..30_000)
        .map(|n| format!("{{\"n\": {n}, \"text\": \"line {n}\"}}\n"))
        .collect();
    let file = folder.path().join("events.ndjson");
    append(&file, &lines);
    let mut fixture = Fixture::new("file", &[path(&file), ("follow", "false"), ("rate", "10000")]).await;
    for _ in 0..4 {
        fixture.advance(Duration::from_secs(1)).await;
        fixture.restart().await;
    }
    fixture.sources.caught_up().await;
    assert_eq!(fixture.numbers().await, (0..30_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_file_that_became_shorter_is_not_read_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.ndjson");
    append(&file, "{\"n\": 1}\n{\"n\": 2}\n");
    let fixture = Fixture::new("file", &[path(&file)]).await;
    fixture.sources.caught_up().await;
    fs::write(&file, "{\"n\": 3}\n").unwrap();
    fixture.advance(A_LOOK).await;
    let status = fixture.status();
    assert_eq!(status.state, "failing");
    assert!(status.failure.unwrap().contains("has become shorter"));
    append(&file, "{\"n\": 4}\n{\"n\": 5}\n");
    fixture.advance(A_LOOK).await;
    assert_eq!(fixture.status().state, "running");
    assert_eq!(fixture.numbers().await, [1, 2, 5]);
}
