//! The files that a path stands for.

use std::io;
use std::path::{Path, PathBuf};

use crate::source::Error;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Within the folder.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// The file at `path`, or the files in it if it is a folder; hidden ones, those being written under
/// the name `*.tmp`, and further folders are left out.
pub(super) fn find(path: &Path) -> Result<Vec<Found>, Error> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Error::outside(format!("there is no file or folder {}", path.display())),
        _ => Error::outside(format!("{}: {error}", path.display())),
    };
    let about = std::fs::metadata(path).map_err(failed)?;
    if about.is_file() {
        return Ok(vec![Found {
            name: name_of(path),
            path: path.to_owned(),
            bytes: about.len(),
        }]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = name_of(&path);
        if name.starts_with('.') || name.ends_with(".tmp") {
            continue;
        }
        match std::fs::metadata(&path) {
            Ok(about) if about.is_file() => found.push(Found {
                name,
                path,
                bytes: about.len(),
            }),
            // One that was just removed is as good as not there.
            _ => {}
        }
    }
    Ok(found)
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
