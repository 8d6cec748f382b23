//! PostgreSQL 18, as durable as in production (`fsync` stays on), on 127.0.0.1 only.

mod home;

use std::ops::{Deref, DerefMut};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use self::home::Home;
use crate::process::{Children, Program};
use crate::server::is_plain_name;
use crate::{Server, checkout, ports, wheels};

const VARIABLE: &str = "DATABASE_URL";

#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// `None`: a free port.
    pub port: Option<u16>,
    pub max_connections: u32,
    /// More settings, `("name", "value")`.
    pub settings: Vec<(String, String)>,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            port: None,
            max_connections: 300,
            settings: Vec::new(),
        }
    }
}

/// One server. [`Server`] has its operations. Its process is dropped before its home.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    _home: Option<Home>,
}

impl Postgres {
    /// Starts a server with its data in `dir`, which is created if it does not exist. If we are root it runs as `nobody`; if
    /// that user cannot reach `dir`, its data are in the system's temporary directory and are removed with the server.
    pub async fn start(dir: &Path, options: &PostgresOptions) -> Result<Self> {
        let wheels = wheels::install().await?;
        checkout::make_dir(dir)?;
        let asked = dir.to_path_buf();
        let prepared = tokio::task::spawn_blocking(move || Home::prepare(&wheels, &asked));
        let home = prepared
            .await
            .context("preparing PostgreSQL's data")?
            .context("preparing PostgreSQL's data")?;
        let server = ports::on_free_port(options.port, async |port| {
            let program = program(&home, dir, port, options);
            let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
            Server::start(
                &program,
                url,
                VARIABLE,
                "database system is ready to accept connections",
            )
            .await
        });
        Ok(Self {
            server: server.await?,
            _home: Some(home),
        })
    }

    /// The server that `DATABASE_URL` names, or one that we start.
    pub async fn existing_or_start(dir: &Path, options: &PostgresOptions) -> Result<Self> {
        match Server::existing(VARIABLE) {
            Some(server) => Ok(Self { server, _home: None }),
            None => Self::start(dir, options).await,
        }
    }

    /// Creates an empty database and returns its URL.
    pub async fn create_database(&self, name: &str) -> Result<String> {
        ensure!(is_plain_name(name), "{name:?} is no plain database name");
        let mut connection = PgConnection::connect(self.url())
            .await
            .context("connecting to PostgreSQL")?;
        // No client connects to template0, so several databases can be created from it at the same time.
        let create = format!("create database {name} template template0");
        connection
            .execute(AssertSqlSafe(create.clone()))
            .await
            .with_context(|| format!("PostgreSQL: {create}"))?;
        connection
            .close()
            .await
            .context("closing the connection to PostgreSQL")?;
        Ok(with_database(self.url(), name))
    }
}

impl Deref for Postgres {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Postgres {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

fn program(home: &Home, dir: &Path, port: u16, options: &PostgresOptions) -> Program {
    let mut program = Program::new(
        "PostgreSQL",
        home.bin.join("postgres"),
        &home.data,
        dir.join("postgres.log"),
    );
    program.args = vec![
        "-D".into(),
        home.data.clone().into(),
        "-p".into(),
        port.to_string().into(),
    ];
    let fixed = [
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("timezone", "UTC"),
        ("max_connections", &options.max_connections.to_string()),
    ];
    let asked = options
        .settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in fixed.into_iter().chain(asked) {
        program.args.extend(["-c".into(), format!("{name}={value}").into()]);
    }
    program.user = home.user;
    program.stop_signal = Signal::SIGINT; // "fast"; its SIGTERM waits for the clients to go
    program.reap_signal = Signal::SIGQUIT; // "immediate": no checkpoint for data that are about to go
    program.children = Children::InOwnGroups;
    program
}

/// The URL of another database on the same server.
fn with_database(url: &str, name: &str) -> String {
    let (base, query) = url
        .split_once('?')
        .map_or((url, None), |(base, query)| (base, Some(query)));
    let authority = base.find("://").map_or(0, |scheme| scheme + 3);
    let end = base[authority..]
        .find('/')
        .map_or(base.len(), |slash| authority + slash);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}/{name}{query}", &base[..end])
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn database_is_replaced_and_the_rest_of_the_url_kept() {
        for (url, expected) in [
            ("postgres://u:p@h:1/old", "postgres://u:p@h:1/new"),
            ("postgres://u:p@h:1", "postgres://u:p@h:1/new"),
            (
                "postgresql://h/old?sslmode=require&x=/y",
                "postgresql://h/new?sslmode=require&x=/y",
            ),
        ] {
            assert_eq!(with_database(url, "new"), expected);
        }
    }
}
