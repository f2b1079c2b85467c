//! Where files may be: anywhere, or in one folder (`files.directory`) that sources and sinks don't leave, by symbolic
//! links either.

use std::io;
use std::path::{Component, Path, PathBuf};

use crate::source::Error;

/// The folder that files have to be in, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Within(Option<PathBuf>);

impl Within {
    /// # Errors
    /// If the folder is not there.
    pub fn folder(folder: &Path) -> io::Result<Self> {
        Ok(Self(Some(folder.canonicalize()?)))
    }

    /// Fails for a path that leads out of the folder. What is not there yet is judged by the folder that it would be in.
    pub fn check(&self, path: &Path) -> Result<(), Error> {
        let Some(folder) = &self.0 else { return Ok(()) };
        let outside = || {
            Error::outside(format!(
                "the path {} is outside of {}, and files.directory allows no other place",
                path.display(),
                folder.display()
            ))
        };
        let resolved = resolve(path).map_err(|error| Error::outside(format!("{}: {error}", path.display())))?;
        match resolved.filter(|resolved| resolved.starts_with(folder)) {
            Some(_) => Ok(()),
            None => Err(outside()),
        }
    }
}

/// The path without symbolic links. None if it goes up from a folder that is not there.
fn resolve(path: &Path) -> io::Result<Option<PathBuf>> {
    let path = std::path::absolute(path)?;
    let there = |path: &&Path| path.symlink_metadata().is_ok();
    let Some(base) = path.ancestors().find(there) else {
        return Ok(None);
    };
    // A link that leads nowhere is there, and can't be resolved.
    let resolved = base.canonicalize()?;
    let rest = path.strip_prefix(base).unwrap_or(Path::new(""));
    let plain = rest.components().all(|part| matches!(part, Component::Normal(_)));
    Ok(plain.then(|| resolved.join(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_the_folder() {
        let root = tempfile::tempdir().unwrap();
        let (inside, outside) = (root.path().join("inside"), root.path().join("outside"));
        for folder in [&inside, &outside] {
            std::fs::create_dir(folder).unwrap();
        }
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        std::os::unix::fs::symlink(root.path().join("nowhere"), inside.join("dangling")).unwrap();
        let within = Within::folder(&inside).unwrap();
        for allowed in ["", "new", "new/deeper", "../inside/x", "./a"] {
            within
                .check(&inside.join(allowed))
                .unwrap_or_else(|error| panic!("{allowed}: {error}"));
        }
        for refused in [
            "..",
            "../outside",
            "link",
            "link/x",
            "dangling",
            "dangling/x",
            "new/../../outside",
            "../inside2",
        ] {
            assert!(within.check(&inside.join(refused)).is_err(), "{refused}");
        }
        assert!(within.check(Path::new("/")).is_err());
        Within::default().check(Path::new("/anywhere")).unwrap();
    }
}
