//! The demo's progress on standard error: each step with the time since the start.

use std::{
    io::{IsTerminal, Write},
    time::Instant,
};

pub(super) struct Steps {
    started: Instant,
    is_terminal: bool,
}

impl Steps {
    pub(super) fn start() -> Self {
        Self {
            started: Instant::now(),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Says what the demo does now.
    pub(super) fn say(&self, step: &str) {
        self.line(step, '\n');
    }

    /// Counts in place on a terminal, and every 5,000 requests elsewhere.
    pub(super) fn progress(&self, done: usize, of: usize) {
        let every = if self.is_terminal { 500 } else { 5_000 };
        if done.is_multiple_of(every) || done == of {
            let end = if self.is_terminal && done < of { '\r' } else { '\n' };
            self.line(&format!("  {done} of {of} requests sent"), end);
        }
    }

    fn line(&self, text: &str, end: char) {
        let seconds = self.started.elapsed().as_secs_f64();
        let mut output = std::io::stderr().lock();
        // The demo continues even if standard error is closed.
        drop(write!(output, "demo: {seconds:>5.1} s  {text}{end}"));
    }
}
