//! One of our services (gateway, ingestor, billing worker) as a child process.
//!
//! The services are part of this binary. The child is our own executable, started as `<exe> service <name>`, so
//! there is one set of artifacts, and the code is the same that users run. See [`crate::run_if_asked`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::Http;
use crate::process::{Process, Program};

const PROBE_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// `gateway`, `ingestor` or `billing-worker`.
    pub service: String,
    /// The name of this instance in messages, and of its log: `gateway-1`.
    pub name: String,
    /// Its working directory; its log is `<name>.log` there.
    pub dir: PathBuf,
    /// The port of `/readyz`. The caller also has to set it in `env`.
    pub admin_port: u16,
    /// Its settings. It inherits only PATH, HOME, TMPDIR, RUST_LOG and RUST_BACKTRACE.
    pub env: Vec<(OsString, OsString)>,
    /// More arguments, after `service <name>`.
    pub args: Vec<OsString>,
    /// The executable; `None`: that of this process.
    pub exe: Option<PathBuf>,
    pub ready_within: Duration,
}

impl ServiceOptions {
    pub fn new(service: &str, name: &str, dir: PathBuf, admin_port: u16) -> Self {
        Self {
            service: service.to_owned(),
            name: name.to_owned(),
            dir,
            admin_port,
            env: Vec::new(),
            args: Vec::new(),
            exe: None,
            ready_within: Duration::from_secs(120),
        }
    }

    /// Adds a setting.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
}

/// A running service. Dropping it kills it.
#[derive(Debug)]
pub struct Service {
    process: Process,
    options: ServiceOptions,
}

impl Service {
    /// Starts it and waits until `/readyz` answers 200.
    pub async fn start(options: ServiceOptions) -> Result<Self> {
        let mut service = Self::spawn(options)?;
        service.wait_ready().await?;
        Ok(service)
    }

    /// Starts it without waiting.
    pub fn spawn(options: ServiceOptions) -> Result<Self> {
        let exe = match &options.exe {
            Some(exe) => exe.clone(),
            None => std::env::current_exe().context("finding our own executable")?,
        };
        let log = options.dir.join(format!("{}.log", options.name));
        let mut program = Program::new(&options.name, exe, &options.dir, log);
        program.args = vec!["service".into(), options.service.clone().into()];
        program.args.extend(options.args.iter().cloned());
        let passed_on = ["RUST_LOG", "RUST_BACKTRACE"];
        program.env = passed_on
            .iter()
            .filter_map(|name| Some((name.into(), std::env::var_os(name)?)))
            .collect();
        program.env.extend(options.env.iter().cloned());
        Ok(Self {
            process: program.start()?,
            options,
        })
    }

    pub async fn wait_ready(&mut self) -> Result<()> {
        let port = self.options.admin_port;
        self.process
            .wait_until(self.options.ready_within, async |_| is_ready(port).await)
            .await
    }

    pub fn name(&self) -> &str {
        &self.options.name
    }

    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.options.admin_port)
    }

    /// The value of a metric, which is named with its labels.
    pub async fn metric<T>(&self, name: &str) -> Result<T>
    where
        T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        let page = Http::default()
            .get(&format!("{}/metrics", self.admin_url()), "")
            .await?;
        let text = String::from_utf8(page.body.to_vec()).context("metrics are text")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.with_context(|| format!("{} has no metric {name}", self.name()))?;
        value.parse().with_context(|| format!("metric {name}"))
    }

    /// Sends SIGTERM and waits. After the deadline it is killed, which is an error.
    pub async fn stop(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.process.stop(deadline).await
    }

    /// kill -9.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }

    /// Starts it again with the same settings and waits until it is ready. If it still runs, it is
    /// killed first.
    pub async fn restart(&mut self) -> Result<()> {
        self.relaunch().await?;
        self.wait_ready().await
    }

    /// Starts it again without waiting, because a server that it needs may be down.
    pub async fn relaunch(&mut self) -> Result<()> {
        self.process.kill().await?;
        self.process = self.process.program().clone().start()?;
        Ok(())
    }

    /// SIGSTOP: its connections stay open and silent.
    pub fn pause(&mut self) -> Result<()> {
        self.process.pause()
    }

    pub fn resume(&mut self) -> Result<()> {
        self.process.resume()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// The process, for its id, its log and its end.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

async fn is_ready(port: u16) -> bool {
    matches!(timeout(PROBE_WITHIN, probe(port)).await, Ok(Ok(200)))
}

/// The status of `GET /readyz`, without an HTTP client: it is one request, and only the status line matters.
async fn probe(port: u16) -> Result<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(1024).read_to_end(&mut answer).await?;
    let line = String::from_utf8_lossy(&answer);
    line.split(' ')
        .nth(1)
        .context("no status line")?
        .parse()
        .context("no status")
}
