//! The common part of the three servers: a URL, and a process if we started it.

use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Process, Program};

const READY_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// A server that we started, or one that an environment variable names and that can only be used.
#[derive(Debug)]
pub struct Server {
    url: String,
    /// The environment variable that names an existing server.
    variable: &'static str,
    /// The text in its log that says that it accepts connections.
    ready: &'static str,
    process: Option<Process>,
}

impl Server {
    /// The server that `variable` names, if it is set.
    pub(crate) fn existing(variable: &'static str) -> Option<Self> {
        let url = std::env::var(variable).ok().filter(|url| !url.is_empty())?;
        Some(Self {
            url,
            variable,
            ready: "",
            process: None,
        })
    }

    /// Starts a server and waits until it has logged `ready`.
    pub(crate) async fn start(
        program: &Program,
        url: String,
        variable: &'static str,
        ready: &'static str,
    ) -> Result<Self> {
        let process = Some(launch(program, ready).await?);
        Ok(Self {
            url,
            variable,
            ready,
            process,
        })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether we started it, so that it can be stopped, killed, restarted and paused.
    pub fn is_ours(&self) -> bool {
        self.process.is_some()
    }

    /// Stops it. After 30 s it is killed, which is an error.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.process()?.stop(STOP_WITHIN).await
    }

    /// kill -9, with all its children.
    pub async fn kill(&mut self) -> Result<()> {
        self.process()?.kill().await
    }

    /// Starts it again with the same port and data. If it runs, it is stopped first.
    pub async fn restart(&mut self) -> Result<()> {
        let ready = self.ready;
        let process = self.process()?;
        process.stop(STOP_WITHIN).await?;
        *process = launch(&process.program().clone(), ready).await?;
        Ok(())
    }

    /// SIGSTOP: its connections stay open and silent.
    pub fn pause(&mut self) -> Result<()> {
        self.process()?.pause()
    }

    pub fn resume(&mut self) -> Result<()> {
        self.process()?.resume()
    }

    /// Its process, for example for the end of its log. An error if we did not start it.
    pub fn process(&mut self) -> Result<&mut Process> {
        let variable = self.variable;
        self.process.as_mut().with_context(|| {
            format!("devstack did not start the server in {variable}, so it cannot stop or restart it")
        })
    }
}

async fn launch(program: &Program, ready: &str) -> Result<Process> {
    let mut process = program.start()?;
    process.wait_until_logged(READY_WITHIN, ready).await?;
    Ok(process)
}

/// Accepts only names that need no quotes in PostgreSQL and ClickHouse.
pub(crate) fn is_plain_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= 63
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn server_that_is_not_ours_is_not_touched() {
        let url = "nats://u:secret@elsewhere:4222".to_owned();
        let mut server = Server {
            url,
            variable: "NATS_URL",
            ready: "",
            process: None,
        };
        let refused = [
            server.kill().await,
            server.restart().await,
            server.pause(),
            server.stop().await.map(drop),
        ];
        for error in refused.map(Result::unwrap_err) {
            assert_eq!(
                error.to_string(),
                "devstack did not start the server in NATS_URL, so it cannot stop or restart it"
            );
        }
    }
}
