//! Where values come from: the file, the environment, the command line; each with its place, so
//! that a message can say `headwater.toml:3` or `HEADWATER_HTTP__LISTEN`.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::ConfigError;
use crate::config::keys::{self, KEYS, Key};

/// Read where no `--config` is given, if it is there.
pub const DEFAULT_FILE: &str = "headwater.toml";

/// All that the process was told, before anything is looked at.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// `--config`; must be there.
    pub file: Option<PathBuf>,
    /// Where [`DEFAULT_FILE`] is looked for when `file` isn't given.
    pub directory: PathBuf,
    pub environment: Vec<(String, String)>,
    /// Of `--set` and of flags that stand for a key: `section.key=value`.
    pub sets: Vec<String>,
}

/// One value for one key, as it was written.
#[derive(Clone, Debug)]
pub struct Setting {
    pub key: &'static Key,
    pub text: String,
    pub place: String,
}

impl Layers {
    /// What this process was told: its environment, its working directory, and these of its arguments.
    pub fn of_process(file: Option<PathBuf>, sets: Vec<String>) -> Self {
        let environment = std::env::vars_os();
        let readable =
            environment.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self {
            file,
            directory: PathBuf::new(),
            environment: readable.collect(),
            sets,
        }
    }

    /// All settings; of two for one key the later counts.
    pub fn settings(&self) -> Result<Vec<Setting>, ConfigError> {
        let mut settings = self.of_file()?;
        for (name, value) in &self.environment {
            settings.extend(of_variable(name, value)?);
        }
        for set in &self.sets {
            settings.push(of_set(set)?);
        }
        Ok(settings)
    }

    fn of_file(&self) -> Result<Vec<Setting>, ConfigError> {
        let (path, required) = match &self.file {
            Some(path) => (path.clone(), true),
            None => (self.directory.join(DEFAULT_FILE), false),
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => of_toml(&path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => Ok(Vec::new()),
            Err(error) => Err(ConfigError {
                place: path.display().to_string(),
                message: format!("can't read the configuration: {error}"),
            }),
        }
    }
}

fn of_toml(path: &Path, text: &str) -> Result<Vec<Setting>, ConfigError> {
    let place = |at: usize| {
        let line = text.as_bytes()[..at.min(text.len())]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        format!("{}:{line}", path.display())
    };
    let table = DeTable::parse(text).map_err(|error| ConfigError {
        place: place(error.span().map_or(0, |span| span.start)),
        message: error.message().replace('\n', ", "),
    })?;
    let mut settings = Vec::new();
    let mut pending: Vec<(String, &DeTable<'_>)> = vec![(String::new(), table.get_ref())];
    while let Some((section, table)) = pending.pop() {
        for (name, value) in table {
            let key = format!("{section}{}", name.get_ref());
            if let DeValue::Table(inner) = value.get_ref() {
                pending.push((format!("{key}."), inner));
                continue;
            }
            let place = place(name.span().start);
            let wrong = |message| ConfigError {
                place: place.clone(),
                message,
            };
            let found = keys::find(&key).map_err(wrong)?;
            let text = text_of(value.get_ref()).ok_or_else(|| wrong(format!("{key}: expected one value")))?;
            settings.push(Setting {
                key: found,
                text,
                place,
            });
        }
    }
    Ok(settings)
}

fn text_of(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(i128::from_str_radix(number.as_str(), number.radix()).ok()?.to_string()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(value) => Some(value.to_string()),
        // A list is its elements with commas, as elsewhere than in a file.
        DeValue::Array(elements) => {
            let text = |element: &Spanned<DeValue<'_>>| match element.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            };
            let texts: Option<Vec<_>> = elements.iter().map(text).collect();
            Some(texts?.join(","))
        }
        DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

/// `HEADWATER_HTTP__LISTEN` is `http.listen`. Names without the two underscores are the user's own,
/// unless they are a key with one of them missing.
fn of_variable(name: &str, value: &str) -> Result<Option<Setting>, ConfigError> {
    let Some(rest) = name.strip_prefix("HEADWATER_") else {
        return Ok(None);
    };
    let wrong = |message| ConfigError {
        place: format!("environment variable {name}"),
        message,
    };
    if !rest.contains("__") {
        let meant = KEYS
            .iter()
            .find(|key| key.name.replace('.', "_") == rest.to_lowercase());
        return match meant {
            Some(key) => Err(wrong(format!(
                "section and key are separated by two underscores: {}",
                variable(key.name)
            ))),
            None => Ok(None),
        };
    }
    let key = keys::find(&rest.to_lowercase().replace("__", ".")).map_err(wrong)?;
    Ok(Some(Setting {
        key,
        text: value.to_owned(),
        place: format!("environment variable {name}"),
    }))
}

/// The environment variable that sets the key.
pub fn variable(key: &str) -> String {
    format!("HEADWATER_{}", key.to_uppercase().replace('.', "__"))
}

fn of_set(set: &str) -> Result<Setting, ConfigError> {
    let wrong = |message| ConfigError {
        place: "--set".to_owned(),
        message,
    };
    let (name, value) = set
        .split_once('=')
        .ok_or_else(|| wrong(format!("'{set}': expected section.key=value")))?;
    let key = keys::find(name.trim()).map_err(wrong)?;
    Ok(Setting {
        key,
        text: value.trim().to_owned(),
        place: "--set".to_owned(),
    })
}
