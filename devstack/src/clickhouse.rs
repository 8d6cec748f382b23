//! ClickHouse 26.9: its engine in one Python process, behind ClickHouse's HTTP interface (`clickhouse_http.py`).

use std::ops::{Deref, DerefMut};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::process::Program;
use crate::server::is_plain_name;
use crate::{Server, checkout, ports, wheels};

const VARIABLE: &str = "CLICKHOUSE_URL";

#[derive(Clone, Debug, Default)]
pub struct ClickHouseOptions {
    /// `None`: a free port.
    pub port: Option<u16>,
}

/// One server. [`Server`] has its operations: stop, kill, restart, pause.
#[derive(Debug)]
pub struct ClickHouse(Server);

impl ClickHouse {
    /// Starts a server with its data in `dir`, which is created if it does not exist.
    pub async fn start(dir: &Path, options: &ClickHouseOptions) -> Result<Self> {
        let wheels = wheels::install().await?;
        checkout::make_dir(dir)?;
        ports::on_free_port(options.port, async |port| {
            let mut program = Program::new("ClickHouse", wheels.python(), dir, dir.join("clickhouse.log"));
            program.args = ["-I", "-u", "-c", include_str!("../clickhouse_http.py")]
                .map(Into::into)
                .into();
            program.args.extend(["--path".into(), dir.join("data").into()]);
            program.args.extend(["--spool".into(), dir.join("spool").into()]);
            program.args.extend(["--port".into(), port.to_string().into()]);
            let url = format!("http://127.0.0.1:{port}");
            Ok(Self(
                Server::start(&program, url, VARIABLE, "clickhouse_http: ready").await?,
            ))
        })
        .await
    }

    /// The server that `CLICKHOUSE_URL` names, or one that we start.
    pub async fn existing_or_start(dir: &Path, options: &ClickHouseOptions) -> Result<Self> {
        match Server::existing(VARIABLE) {
            Some(server) => Ok(Self(server)),
            None => Self::start(dir, options).await,
        }
    }

    /// A client of this server, without a database.
    pub fn client(&self) -> clickhouse::Client {
        clickhouse::Client::default().with_url(self.url())
    }

    /// Creates a database and returns a client for it.
    pub async fn create_database(&self, name: &str) -> Result<clickhouse::Client> {
        ensure!(is_plain_name(name), "{name:?} is no plain database name");
        let create = format!("create database {name}");
        self.client()
            .query(&create)
            .execute()
            .await
            .with_context(|| format!("ClickHouse: {create}"))?;
        Ok(self.client().with_database(name))
    }
}

impl Deref for ClickHouse {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for ClickHouse {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}
