//! Precedence, places and messages of the configuration.

use super::*;

fn layers(file: Option<&str>, environment: &[(&str, &str)], sets: &[&str]) -> (Layers, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    if let Some(text) = file {
        std::fs::write(directory.path().join("headwater.toml"), text).unwrap();
    }
    let layers = Layers {
        file: None,
        directory: directory.path().to_owned(),
        environment: environment
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        sets: sets.iter().map(|set| set.to_string()).collect(),
    };
    (layers, directory)
}

fn load(file: &str, environment: &[(&str, &str)], sets: &[&str]) -> Result<Config, ConfigError> {
    let (layers, _directory) = layers(Some(file), environment, sets);
    Config::load(&layers)
}

fn error_of(file: &str, environment: &[(&str, &str)], sets: &[&str]) -> String {
    let error = load(file, environment, sets).unwrap_err();
    error.to_string()
}

#[test]
fn without_anything_it_is_the_default() {
    let (layers, _directory) = layers(None, &[("PATH", "/bin")], &[]);
    assert_eq!(Config::load(&layers).unwrap(), Config::default());
}

#[test]
fn later_layers_win() {
    let file = "[http]\nlisten = '127.0.0.1:1'\nrequest_bytes_max = '1 MiB'\nbody_timeout = '1 s'";
    let environment = [
        ("HEADWATER_HTTP__LISTEN", "127.0.0.1:2"),
        ("HEADWATER_HTTP__BODY_TIMEOUT", "2 s"),
    ];
    let config = load(file, &environment, &["http.listen=127.0.0.1:3"]).unwrap();
    assert_eq!(config.http.listen.unwrap().port(), 3);
    assert_eq!(config.http.body_timeout, Duration::from_secs(2));
    assert_eq!(config.http.request_bytes_max, 1 << 20);
}

#[test]
fn a_door_can_be_off() {
    let config = load("", &[], &["postgres.listen=off"]).unwrap();
    assert_eq!(config.postgres.listen, None);
}

#[test]
fn a_query_server_in_our_place_has_an_address() {
    let config = load("", &[], &["query.upstream=grpc://a:1, grpc://b:2"]).unwrap();
    assert_eq!(config.query.upstream, Some(vec!["a:1".to_owned(), "b:2".to_owned()]));
    for wrong in ["http://a:1", "grpc://a", "a:1", "grpc://:1", ""] {
        let error = error_of("", &[], &[&format!("query.upstream={wrong}")]);
        assert!(error.contains("expected 'grpc://host:port'"), "{error}");
    }
}

#[test]
fn unknown_keys_are_errors_with_place_and_hint() {
    let error = error_of("[http]\n\nlisen = 'off'", &[], &[]);
    assert!(
        error.ends_with("headwater.toml:3: unknown key 'http.lisen'; did you mean 'http.listen'?"),
        "{error}"
    );
    let error = error_of("", &[("HEADWATER_ENGINE__THREDS", "1")], &[]);
    assert!(
        error.contains("HEADWATER_ENGINE__THREDS") && error.contains("'engine.threads'"),
        "{error}"
    );
    let error = error_of("", &[], &["request_bytes_max=1"]);
    assert!(
        error.contains("--set") && error.contains("'http.request_bytes_max'"),
        "{error}"
    );
    let error = error_of("", &[], &["zzzzzzzz=1"]);
    assert!(error.contains("there are data.directory"), "{error}");
}

#[test]
fn one_underscore_too_few_is_noticed() {
    let error = error_of("", &[("HEADWATER_HTTP_LISTEN", "off")], &[]);
    assert!(error.contains("HEADWATER_HTTP__LISTEN"), "{error}");
    assert!(load("", &[("HEADWATER_PASSWORD", "x")], &[]).is_ok());
}

#[test]
fn doors_that_are_not_there_say_so() {
    assert!(error_of("", &[], &["mqtt.listen=off"]).contains("not there yet"));
}

#[test]
fn bad_values_say_what_was_expected() {
    assert!(error_of("[memory]\nlimit = 'a lot'", &[], &[]).contains("memory.limit = 'a lot': expected a size"));
    assert!(error_of("[http]\nlisten = 8080", &[], &[]).contains("expected 'address:port'"));
    assert!(error_of("[http\nlisten = 8080", &[], &[]).contains("headwater.toml:1: "));
    assert!(error_of("[http]\nlisten = [1]", &[], &[]).contains("expected one value"));
}

#[test]
fn references_are_resolved_and_not_shown() {
    let environment = [("SECRET", "hunter2")];
    let config = load("[data]\ndirectory = '/srv/${env:SECRET}'", &environment, &[]).unwrap();
    assert_eq!(config.data.directory, PathBuf::from("/srv/hunter2"));
    let error = error_of("[engine]\nthreads = '${env:SECRET}'", &environment, &[]);
    assert!(error.contains("${env:SECRET}") && !error.contains("hunter2"), "{error}");
    assert!(error_of("[data]\ndirectory = '${env:NOT_SET}'", &[], &[]).contains("NOT_SET is not set"));
}

#[test]
fn sizes_and_times() {
    assert_eq!(units::bytes("2 GB"), Ok(2_000_000_000));
    assert_eq!(units::bytes("1.5KiB"), Ok(1536));
    assert_eq!(units::bytes("17"), Ok(17));
    assert!(units::bytes("99999999 TB").is_err());
    assert_eq!(units::duration("7 days"), Ok(Duration::from_secs(7 * 86_400)));
    assert!(units::duration("30").is_err());
    assert!(units::duration("0 s").is_err());
    assert_eq!(units::bytes_text(1536), "1.5 KiB");
}

#[test]
fn the_split_stays_below_the_limit() {
    let parts = memory::split(1 << 30);
    let log = parts.log_cache + parts.write_buffers + parts.tail_cache;
    let work = parts.ingest_queue + parts.query_pool + parts.epochs + parts.state_caches + parts.key_caches;
    assert!(log + work <= (1 << 30) / 10 * 9, "{log} + {work}");
}

#[test]
fn every_key_has_a_name_with_a_section() {
    for key in keys::KEYS {
        assert_eq!(key.name.split('.').count(), 2, "{}", key.name);
        assert!(!key.about.is_empty());
    }
}
