//! The watch-dog that makes "no process left behind" hold, also after a panic, Ctrl-C or kill -9.
//!
//! One small Python process (`reaper.py`) per process of ours, in a group of its own, holding the other end of a pipe.
//! When we are gone, however we went, the kernel closes our end; the reaper then ends every process and removes every
//! directory that it was told of. It is told of a process *before* that process runs (see [`crate::process`]).

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{checkout, python};

/// How long the reaper leaves processes to end by themselves before it kills them.
const PATIENCE: Duration = Duration::from_secs(3);

/// Ends this process and its children when we are gone.
pub fn watch(pid: u32, signal: Signal) -> Result<()> {
    tell(json!({ "process": pid, "signal": signal as i32 }))
}

/// This process has ended.
pub fn forget(pid: u32) -> Result<()> {
    tell(json!({ "forget": pid }))
}

/// Removes this directory when we are gone, after every process.
pub fn remove_at_end(directory: &Path) -> Result<()> {
    tell(json!({ "directory": directory }))
}

/// Takes [`remove_at_end`] back.
pub fn keep(directory: &Path) -> Result<()> {
    tell(json!({ "keep": directory }))
}

fn tell(order: Value) -> Result<()> {
    static ORDERS: OnceLock<Mutex<Option<ChildStdin>>> = OnceLock::new();
    let mut orders = ORDERS
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let pipe = match &mut *orders {
        Some(pipe) => pipe,
        none => none.insert(start()?),
    };
    // Far below a pipe's atomic write (4096 bytes), so our death cannot cut an order in two.
    pipe.write_all(format!("{order}\n").as_bytes())
        .context("telling the reaper (has it been killed?)")
}

fn start() -> Result<ChildStdin> {
    let log = checkout::cache()?.join("reaper.log");
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("opening {}", log.display()));
    let mut reaper = Command::new(python::any()?)
        .args(["-I", "-c", include_str!("../reaper.py")])
        .arg(PATIENCE.as_secs().to_string())
        // Its own group: a terminal's Ctrl-C goes to ours only. No inherited output: whoever reads ours through a pipe
        // must not wait for the reaper.
        .process_group(0)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log?)
        .spawn()
        .context("starting the reaper")?;
    reaper.stdin.take().context("the reaper's standard input is piped")
}
