//! A child process in its own process group, with its output in a log file. Dropping it ends it.
//!
//! It does not run before the reaper knows it: we start a shell that waits for a line from us and then
//! becomes the program. After a kill -9 between the two, the shell reads end-of-file and exits.

mod tree;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Gid, Pid, Uid};
use rustix::process::{Resource, Rlimit, WaitId, WaitIdOptions, getrlimit, prlimit, waitid};

use crate::reaper;

/// How often a condition is checked.
pub(crate) const POLL: Duration = Duration::from_millis(5);
/// How long a paused process may take to stop; it needs microseconds, unless it waits for a disk.
const STOPS_WITHIN: Duration = Duration::from_secs(5);
const TAIL_LINES: usize = 25;
const TAIL_BYTES: u64 = 16 * 1024;

/// How to start a process, and start it again.
#[derive(Clone, Debug)]
pub struct Program {
    /// The name in messages.
    pub name: String,
    pub exe: PathBuf,
    pub args: Vec<OsString>,
    /// The environment, besides PATH, HOME, TMPDIR and the C locale. Nothing else is inherited.
    pub env: Vec<(OsString, OsString)>,
    /// Its working directory.
    pub directory: PathBuf,
    /// The file to which its output is appended.
    pub log: PathBuf,
    /// The user that it runs as, if it is not ours.
    pub user: Option<(Uid, Gid)>,
    /// The signal that asks it to end.
    pub stop_signal: Signal,
    /// The signal that the reaper sends, before it removes the data.
    pub reap_signal: Signal,
    /// Whether it has children that lead process groups, as PostgreSQL has.
    pub children: Children,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Children {
    InGroup,
    InOwnGroups,
}

impl Program {
    pub fn new(name: &str, exe: PathBuf, directory: &Path, log: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            exe,
            args: Vec::new(),
            env: Vec::new(),
            directory: directory.to_path_buf(),
            log,
            user: None,
            stop_signal: Signal::SIGTERM,
            reap_signal: Signal::SIGTERM,
            children: Children::InGroup,
        }
    }

    pub fn start(&self) -> Result<Process> {
        self.start_gated()
            .with_context(|| format!("starting {} ({})", self.name, self.exe.display()))
    }

    fn start_gated(&self) -> Result<Process> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("opening its log {}", self.log.display()))?;
        let log_start = log.metadata()?.len();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "read -r go && exec \"$@\" </dev/null", "sh"])
            .arg(&self.exe)
            .args(&self.args);
        command.env_clear().env("LC_ALL", "C");
        command.envs(
            ["PATH", "HOME", "TMPDIR"]
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        );
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.directory).process_group(0);
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        if let Some((uid, gid)) = self.user {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        let child = command.spawn()?;
        let mut process = Process {
            program: self.clone(),
            child,
            log_start,
            ended: None,
        };
        let gate = process.child.stdin.take();
        reaper::watch(process.child.id(), self.reap_signal)?;
        gate.context("its standard input is piped")?
            .write_all(b"go\n")
            .context("starting it")?;
        Ok(process)
    }
}

/// A started [`Program`]. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    program: Program,
    child: Child,
    /// The position in the log at which this run begins.
    log_start: u64,
    ended: Option<ExitStatus>,
}

impl Process {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    pub fn is_running(&mut self) -> bool {
        !matches!(self.try_wait(), Ok(Some(_)))
    }

    /// Asks it to end and waits. After the deadline it is killed, which is an error.
    pub async fn stop(&mut self, deadline: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        self.signal(Signal::SIGCONT)?; // a paused process would sleep through the other one
        // Only to the leader, which ends its children.
        nix::sys::signal::kill(self.pid(), self.program.stop_signal).context("sending the stop signal")?;
        match self.wait(deadline).await {
            Ok(status) => Ok(status),
            Err(error) => {
                let tail = self.log_tail();
                self.kill().await?;
                Err(error.context(format!(
                    "{} ignored {}; its log:\n{tail}",
                    self.program.name, self.program.stop_signal
                )))
            }
        }
    }

    /// kill -9, with its children; returns when they have ended.
    pub async fn kill(&mut self) -> Result<()> {
        self.kill_all()?;
        self.wait(Duration::from_secs(10)).await?;
        Ok(())
    }

    /// Pauses it (SIGSTOP). Its connections stay open and silent. Returns when none of its threads and children runs: the
    /// signal itself returns earlier, while a thread on another core still works.
    pub fn pause(&mut self) -> Result<()> {
        let name = self.program.name.clone();
        if let Some(status) = self.try_wait()? {
            bail!("{name} cannot be paused: it ended with {status}");
        }
        let children = self.stop_group().with_context(|| format!("pausing {name}"))?;
        tree::signal(&children, Signal::SIGSTOP);
        tree::wait_stopped(&children)
    }

    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Limits the size of the files that it writes, as if its disk were full; `None`: no limit. `nix` has no `prlimit`, so this
    /// uses `rustix`; `rustix` cannot look up users, so `nix` does the rest.
    pub fn limit_files(&self, bytes: Option<u64>) -> Result<()> {
        if self.ended.is_some() {
            bail!("{} has ended", self.program.name);
        }
        let (pid, resource) = (rustix::process::Pid::from_child(&self.child), Resource::Fsize);
        let maximum = getrlimit(resource).maximum;
        let current = bytes.or(maximum);
        prlimit(Some(pid), resource, Rlimit { current, maximum }).context("limiting its files")?;
        Ok(())
    }

    /// Waits until it ends on its own.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("{} still runs after {deadline:?}", self.program.name);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until `ready` returns true. If the process ends or the time is over, the error has the end of the log.
    pub async fn wait_until(
        &mut self,
        deadline: Duration,
        mut ready: impl AsyncFnMut(&mut Self) -> bool,
    ) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            self.starts_still()?;
            if ready(self).await {
                return Ok(());
            }
            self.is_in_time(end, deadline)?;
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until it has logged `text`; fails like [`Self::wait_until`]. (With a closure the future could not move to
    /// another thread.)
    pub async fn wait_until_logged(&mut self, deadline: Duration, text: &str) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            self.starts_still()?;
            if self.has_logged(text) {
                return Ok(());
            }
            self.is_in_time(end, deadline)?;
            tokio::time::sleep(POLL).await;
        }
    }

    fn starts_still(&mut self) -> Result<()> {
        if let Some(status) = self.try_wait()? {
            bail!(
                "{} ended while it started: {status}; its log:\n{}",
                self.program.name,
                self.log_tail()
            );
        }
        Ok(())
    }

    fn is_in_time(&self, end: Instant, deadline: Duration) -> Result<()> {
        if Instant::now() > end {
            let name = &self.program.name;
            bail!(
                "{name} was not ready within {deadline:?}; its log:\n{}",
                self.log_tail()
            );
        }
        Ok(())
    }

    /// Whether this run has logged `text`.
    pub fn has_logged(&self, text: &str) -> bool {
        read_from(&self.program.log, self.log_start).is_ok_and(|log| log.contains(text))
    }

    /// The last lines of this run's log.
    pub fn log_tail(&self) -> String {
        let path = &self.program.log;
        let end = fs::metadata(path).map(|log| log.len()).unwrap_or_default();
        let log = read_from(path, self.log_start.max(end.saturating_sub(TAIL_BYTES))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        if tail.is_empty() {
            format!("(nothing in {})", path.display())
        } else {
            tail
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self
                .child
                .try_wait()
                .with_context(|| format!("waiting for {}", self.program.name))?;
            if self.ended.is_some() {
                reaper::forget(self.child.id())?;
            }
        }
        Ok(self.ended)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let name = self.program.name.clone();
        if let Some(status) = self.try_wait()? {
            bail!("{name} cannot be sent {signal}: it ended with {status}");
        }
        killpg(self.pid(), signal).with_context(|| format!("sending {signal} to {name}"))?;
        if self.program.children == Children::InOwnGroups {
            tree::signal(&tree::children(self.pid())?, signal);
        }
        Ok(())
    }

    /// Sends SIGSTOP to its group and waits until it has stopped. Returns its children in other groups, which still run: it can
    /// start no more of them.
    fn stop_group(&self) -> Result<Vec<Pid>> {
        killpg(self.pid(), Signal::SIGSTOP).context("sending SIGSTOP")?;
        self.wait_stopped()?;
        match self.program.children {
            Children::InGroup => Ok(Vec::new()),
            Children::InOwnGroups => tree::children(self.pid()),
        }
    }

    /// Waits until every thread of the process itself has stopped.
    fn wait_stopped(&self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        // The result stays, for the next pause and for `try_wait`.
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let end = Instant::now() + STOPS_WITHIN;
        while waitid(WaitId::Pid(pid), options)
            .context("waiting for the stop")?
            .is_none()
        {
            ensure!(
                Instant::now() < end,
                "{} did not stop within {STOPS_WITHIN:?}",
                self.program.name
            );
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn kill_all(&mut self) -> Result<()> {
        if self.try_wait()?.is_some() {
            return Ok(());
        }
        let mut children = Vec::new();
        if self.program.children == Children::InOwnGroups {
            // So that it can neither fork nor clean up between the two steps.
            children = self.stop_group().context("stopping before the kill")?;
        }
        killpg(self.pid(), Signal::SIGKILL).with_context(|| format!("killing {}", self.program.name))?;
        tree::signal(&children, Signal::SIGKILL);
        tree::wait_gone(&children)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.try_wait(), Ok(None)) {
            return;
        }
        if let Err(error) = self.kill_all() {
            eprintln!("devstack: {error:#}");
        }
        // This ends soon: it got SIGKILL.
        if self.child.wait().is_ok()
            && let Err(error) = reaper::forget(self.child.id())
        {
            eprintln!("devstack: {error:#}");
        }
    }
}

fn read_from(path: &Path, offset: u64) -> Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
