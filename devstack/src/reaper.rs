//! Ends our processes and removes our directories when we end, also after a panic, Ctrl-C or kill -9.
//!
//! Each of our processes has one small Python process (`reaper.py`), in its own process group, at the other end of a pipe.
//! When we end, for whatever reason, the kernel closes our end. Then the reaper ends every process and removes every
//! directory that it knows. It knows a process *before* that process runs (see [`crate::process`]).

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

/// How long the reaper waits for processes to end before it kills them.
const PATIENCE: Duration = Duration::from_secs(3);

/// Ends this process and its children when we end.
pub fn watch(pid: u32, signal: Signal) -> Result<()> {
    tell(json!({ "process": pid, "signal": signal as i32 }))
}

/// Says that this process has ended.
pub fn forget(pid: u32) -> Result<()> {
    tell(json!({ "forget": pid }))
}

/// Removes this directory when we end, after all processes have ended.
pub fn remove_at_end(directory: &Path) -> Result<()> {
    tell(json!({ "directory": directory }))
}

/// Undoes [`remove_at_end`].
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
    // An order is far shorter than an atomic write to a pipe (4096 bytes), so it is never written in part.
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
        // In its own process group, it gets no Ctrl-C from the terminal. It does not inherit our output: a reader of our output
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
