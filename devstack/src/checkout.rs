//! The checkout that this binary was built from, and the cache inside it.
//!
//! Everything that devstack keeps is in one directory: `.devstack` in the checkout, or `DEVSTACK_DIR`. Locks are
//! files that the kernel unlocks when their holder ends, so no lock is stale.

use std::fs::{self, File, Permissions, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// A lock is usually held for milliseconds. A longer wait (100 × 5 ms) prints a line.
const SILENT_TRIES: usize = 100;

/// The root of the workspace at the time of the build.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// The cache directory, created on first use.
pub fn cache() -> Result<PathBuf> {
    let path = match std::env::var_os("DEVSTACK_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => std::path::absolute(PathBuf::from(dir)).context("resolving DEVSTACK_DIR")?,
        None => root().join(".devstack"),
    };
    make_dir(&path).context("creating devstack's cache (DEVSTACK_DIR sets another directory)")?;
    Ok(path)
}

/// Creates a directory that every user can search, whatever the umask: PostgreSQL runs as `nobody` if we are root.
pub fn make_dir(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
        .with_context(|| format!("making {} readable for all users", path.display()))
}

/// Waits for the named lock of this cache. The lock is held until every process that has the file has closed it.
/// Blocks, so do not call it on an async thread. `waiting_for` is printed if the wait is long.
pub fn lock(name: &str, waiting_for: &str) -> Result<File> {
    let path = cache()?.join(format!("{name}.lock"));
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("opening the lock {}", path.display()))?;
    for _ in 0..SILENT_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
    }
    eprintln!("devstack: waiting for another process: {waiting_for}");
    file.lock().with_context(|| format!("locking {}", path.display()))?;
    Ok(file)
}
