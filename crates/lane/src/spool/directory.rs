//! The spool's directory. One process uses it at a time. Each run has its own directory in it.
//!
//! ```text
//! lock                 held by the process that uses it
//! <run>/….segment      the log of a run; the directory is created before PostgreSQL records that the run spools, and is
//!                      removed after PostgreSQL records that it no longer spools
//! given-up/<run>/      logs of runs that other processes have ended; nothing of them is published any more
//! ```

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use schema::RunId;

use super::log::sync_dir;

const LOCK: &str = "lock";
const GIVEN_UP: &str = "given-up";

pub struct Directory {
    root: PathBuf,
    /// Closing the file unlocks it, also after kill -9.
    _lock: File,
}

impl Directory {
    /// Creates the directory if it does not exist. Fails if another process uses it.
    pub fn lock(root: &Path) -> Result<Self> {
        let shown = root.display();
        fs::create_dir_all(root).with_context(|| format!("making the spool's directory {shown}"))?;
        let path = root.join(LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.with_context(|| format!("opening {} (SPOOL_DIR)", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("another process uses the spool {shown} (SPOOL_DIR): every gateway needs one of its own")
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("locking the spool {shown}")),
        }
        Ok(Self {
            root: root.to_owned(),
            _lock: lock,
        })
    }

    /// The runs that have a log here.
    pub fn runs(&self) -> io::Result<Vec<RunId>> {
        let mut runs = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if let Some(run) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                && entry.file_type()?.is_dir()
            {
                runs.push(run);
            }
        }
        runs.sort_unstable();
        Ok(runs)
    }

    pub fn of_run(&self, run: RunId) -> PathBuf {
        self.root.join(run.to_string())
    }

    /// Creates the run's directory durably. Repeating it changes nothing.
    pub fn create(&self, run: RunId) -> io::Result<()> {
        match fs::create_dir(self.of_run(run)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => sync_dir(&self.root),
        }
    }

    /// Removes the directory of a run with its content. All of the run's batches are stored.
    pub fn remove(&self, run: RunId) -> io::Result<()> {
        match fs::remove_dir_all(self.of_run(run)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_dir(&self.root),
        }
    }

    /// Moves the directory of a run to `given-up`.
    pub fn give_up(&self, run: RunId) -> io::Result<PathBuf> {
        let (from, aside) = (self.of_run(run), self.root.join(GIVEN_UP));
        fs::create_dir_all(&aside)?;
        let to = aside.join(run.to_string());
        fs::rename(from, &to)?;
        sync_dir(&aside)?;
        sync_dir(&self.root)?;
        Ok(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_on_one_directory_are_refused_and_runs_are_found() {
        let root = std::env::temp_dir().join(format!("spool-{}", RunId::new()));
        let directory = Directory::lock(&root).unwrap();
        let refused = Directory::lock(&root).err().unwrap();
        assert!(format!("{refused:#}").contains("another process"), "{refused:#}");
        let (one, other) = (RunId::new(), RunId::new());
        directory.create(one).unwrap();
        directory.create(one).unwrap();
        directory.create(other).unwrap();
        directory.remove(one).unwrap();
        directory.remove(one).unwrap();
        assert_eq!(directory.runs().unwrap(), [other]);
        assert!(directory.give_up(other).unwrap().is_dir());
        assert_eq!(directory.runs().unwrap(), []);
        drop(directory);
        Directory::lock(&root).unwrap();
        fs::remove_dir_all(root).unwrap();
    }
}
