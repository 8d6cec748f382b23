//! The children of a process, in whatever process group they are.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::POLL;

const WITHIN: Duration = Duration::from_secs(5);

/// The living children of `parent`.
pub(super) fn children(parent: Pid) -> Result<Vec<Pid>> {
    Ok(table()?
        .into_iter()
        .filter(|row| row.parent == parent && !row.zombie)
        .map(|row| row.pid)
        .collect())
}

/// Sends a signal to each process that still exists.
pub(super) fn signal(pids: &[Pid], signal: Signal) {
    for &pid in pids {
        kill(pid, signal).ok();
    }
}

/// Waits until none of them runs. We are not their parent, and their parent (init) may never reap them, so a zombie
/// counts as ended.
pub(super) fn wait_gone(pids: &[Pid]) -> Result<()> {
    wait_for_all(pids, "survived SIGKILL", |row| row.zombie)
}

/// Waits until none of them runs after SIGSTOP. Each has one thread, as PostgreSQL's processes do.
pub(super) fn wait_stopped(pids: &[Pid]) -> Result<()> {
    wait_for_all(pids, "ignored SIGSTOP", |row| row.stopped || row.zombie)
}

fn wait_for_all(pids: &[Pid], otherwise: &str, done: impl Fn(&Row) -> bool) -> Result<()> {
    let end = Instant::now() + WITHIN;
    while !pids.is_empty() && table()?.iter().any(|row| pids.contains(&row.pid) && !done(row)) {
        ensure!(Instant::now() < end, "children {otherwise} for {WITHIN:?}");
        std::thread::sleep(POLL);
    }
    Ok(())
}

struct Row {
    pid: Pid,
    parent: Pid,
    zombie: bool,
    stopped: bool,
}

/// All processes. Small images have no `ps`, and macOS has no /proc.
fn table() -> Result<Vec<Row>> {
    if !Path::new("/proc/self/stat").exists() {
        let output = Command::new("ps")
            .args(["-A", "-o", "pid=,ppid=,stat="])
            .output()
            .context("running ps")?;
        return Ok(String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(parse_ps)
            .collect());
    }
    let entries = fs::read_dir("/proc").context("reading /proc")?.filter_map(Result::ok);
    Ok(entries
        .filter_map(|entry| parse_stat(&fs::read_to_string(entry.path().join("stat")).ok()?))
        .collect())
}

fn parse_ps(line: &str) -> Option<Row> {
    let mut words = line.split_whitespace();
    let (pid, parent, state) = (words.next()?, words.next()?, words.next()?);
    row(pid, parent, state)
}

/// Parses `pid (name) state parent …`. A name can contain spaces and brackets.
fn parse_stat(line: &str) -> Option<Row> {
    let (pid, _) = line.split_once(" (")?;
    let mut words = line.rsplit_once(')')?.1.split_whitespace();
    let (state, parent) = (words.next()?, words.next()?);
    row(pid, parent, state)
}

fn row(pid: &str, parent: &str, state: &str) -> Option<Row> {
    let (pid, parent) = (Pid::from_raw(pid.parse().ok()?), Pid::from_raw(parent.parse().ok()?));
    Some(Row {
        pid,
        parent,
        zombie: state.starts_with('Z'),
        stopped: state.starts_with('T'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_a_process_with_a_hostile_name_is_read() {
        let row = parse_stat("42 (a) Z 1 (b) S 7 42 42 0").unwrap();
        assert_eq!((row.pid.as_raw(), row.parent.as_raw(), row.zombie), (42, 7, false));
    }

    #[test]
    fn both_sources_of_the_table_agree() {
        let row = parse_ps("  42   7 Z+").unwrap();
        assert_eq!((row.pid.as_raw(), row.parent.as_raw(), row.zombie), (42, 7, true));
    }
}
