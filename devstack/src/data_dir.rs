//! The data directory of one run: `<cache>/data/<pid>-<random>`. It is removed when it is dropped, and by the reaper if we are
//! killed. If both fail (the machine crashed), the next run that creates a directory removes it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{checkout, reaper};

/// Locked while its run lives. A directory without this file is never removed.
const OWNER: &str = "owner";

/// Drop the servers inside before this.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The locked file. `None`: the directory is kept.
    owner: Option<File>,
}

impl DataDir {
    /// A new directory in the cache.
    pub fn create() -> Result<Self> {
        Self::create_in(&checkout::cache()?.join("data"))
    }

    /// An existing directory with its content; it is never removed.
    pub fn existing(path: &Path) -> Result<Self> {
        checkout::make_dir(path)?;
        Ok(Self {
            path: path.canonicalize()?,
            owner: None,
        })
    }

    /// A new directory in the system's temporary directory, for files that other users must reach.
    pub(crate) fn create_in_temp() -> Result<Self> {
        let us = nix::unistd::geteuid().as_raw();
        let base = std::env::temp_dir().join(format!("trendit-devstack-{us}"));
        checkout::make_dir(&base)?;
        let found = fs::symlink_metadata(&base).with_context(|| format!("looking at {}", base.display()))?;
        let is_safe = found.is_dir() && found.uid() == us && found.mode() & 0o022 == 0;
        ensure!(
            is_safe,
            "{} is not a directory that only we can write to",
            base.display()
        );
        Self::create_in(&base)
    }

    fn create_in(base: &Path) -> Result<Self> {
        checkout::make_dir(base)?;
        // Until its owner file is locked, a new directory looks abandoned.
        let _sweep = checkout::lock("data", "it removes old data directories")?;
        sweep(base);
        let path = base.join(format!("{}-{:08x}", std::process::id(), rand::random::<u32>()));
        checkout::make_dir(&path)?;
        reaper::remove_at_end(&path)?;
        let owner = File::create(path.join(OWNER)).with_context(|| format!("writing in {}", path.display()))?;
        owner.lock().with_context(|| format!("locking {}", path.display()))?;
        Ok(Self {
            path,
            owner: Some(owner),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the directory stays when this is dropped.
    pub fn is_kept(&self) -> bool {
        self.owner.is_none()
    }

    /// Keeps the directory when this is dropped.
    pub fn keep(&mut self) -> Result<()> {
        if self.owner.take().is_some() {
            reaper::keep(&self.path)?;
            fs::remove_file(self.path.join(OWNER)).with_context(|| format!("keeping {}", self.path.display()))?;
        }
        Ok(())
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.owner.is_none() {
            return;
        }
        let removed = fs::remove_dir_all(&self.path).with_context(|| format!("removing {}", self.path.display()));
        if let Err(error) = removed.and_then(|()| reaper::keep(&self.path)) {
            eprintln!("devstack: {error:#}");
        }
    }
}

/// Removes the directories of runs that have ended. A failure does not stop the start.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().filter_map(Result::ok) {
        let Ok(owner) = File::open(entry.path().join(OWNER)) else {
            continue;
        };
        if owner.try_lock().is_ok()
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            eprintln!("devstack: cannot remove the stale {}: {error}", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_of_a_dead_run_is_swept_and_that_of_a_living_one_is_not() {
        let base = DataDir::create().unwrap();
        let dead = base.path().join("1-dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(OWNER), "").unwrap();
        let living = DataDir::create_in(base.path()).unwrap();
        assert!(!dead.exists());
        let mut kept = DataDir::create_in(base.path()).unwrap();
        kept.keep().unwrap();
        drop(DataDir::create_in(base.path()).unwrap());
        assert!(living.path().exists());
        let path = kept.path().to_path_buf();
        drop(kept);
        drop(DataDir::create_in(base.path()).unwrap());
        assert!(path.exists());
    }
}
