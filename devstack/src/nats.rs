//! A NATS server with JetStream that fsyncs before it acknowledges, with the users of `deploy/nats/users.conf`. A client
//! that names no user is the operator, who may do everything. So a test or a shell needs only the URL of this server.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::Program;
use crate::{Server, checkout, ports, wheels};

const VARIABLE: &str = "NATS_URL";

const USERS: &str = include_str!("../../deploy/nats/users.conf");

/// Users, and what the file calls their passwords.
const PASSWORDS: [(&str, &str); 5] = [
    ("operator", "NATS_OPERATOR_PASSWORD"),
    ("gateway", "NATS_GATEWAY_PASSWORD"),
    ("ingestor", "NATS_INGESTOR_PASSWORD"),
    ("billing-worker", "NATS_BILLING_PASSWORD"),
    ("notices", "NATS_NOTICES_PASSWORD"),
];

#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// `None`: a free port.
    pub port: Option<u16>,
    /// The largest message in bytes.
    pub max_payload: u64,
    /// The most bytes that all streams may have on disk.
    pub max_file_store: u64,
    /// More lines for the configuration file.
    pub extra_config: String,
}

impl Default for NatsOptions {
    fn default() -> Self {
        Self {
            port: None,
            max_payload: 1 << 20,
            max_file_store: 16 << 30,
            extra_config: String::new(),
        }
    }
}

/// One server. [`Server`] has its operations: stop, kill, restart, pause.
#[derive(Debug)]
pub struct Nats(Server);

impl Nats {
    /// Starts a server with its data in `dir`, which is created if it does not exist.
    pub async fn start(dir: &Path, options: &NatsOptions) -> Result<Self> {
        let wheels = wheels::install().await?;
        checkout::make_dir(dir)?;
        ports::on_free_port(options.port, async |port| {
            let config = write_config(dir, port, options)?;
            let mut program = Program::new("NATS", wheels.nats_server(), dir, dir.join("nats.log"));
            program.args = vec!["-c".into(), config.into()];
            let password = |(user, variable): (&str, &str)| (variable.into(), password(user).into());
            program.env.extend(PASSWORDS.map(password));
            let url = format!("nats://127.0.0.1:{port}");
            Ok(Self(Server::start(&program, url, VARIABLE, "Server is ready").await?))
        })
        .await
    }

    /// The server that `NATS_URL` names, or one that we start.
    pub async fn existing_or_start(dir: &Path, options: &NatsOptions) -> Result<Self> {
        match Server::existing(VARIABLE) {
            Some(server) => Ok(Self(server)),
            None => Self::start(dir, options).await,
        }
    }
}

impl Deref for Nats {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for Nats {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

/// The password of a user of our own servers, which only this machine can reach.
pub fn password(user: &str) -> String {
    format!("{user}-of-devstack")
}

/// `sync_interval: always`, because by default an acknowledged message can reach the disk two minutes later.
fn write_config(dir: &Path, port: u16, options: &NatsOptions) -> Result<PathBuf> {
    let (path, users) = (dir.join("nats.conf"), dir.join("users.conf"));
    fs::write(&users, USERS).with_context(|| format!("writing {}", users.display()))?;
    // A quoted string in the configuration of NATS has the escapes of JSON.
    let store = serde_json::to_string(&dir.join("jetstream")).context("the data directory's name is not UTF-8")?;
    let config = format!(
        "listen: \"127.0.0.1:{port}\"\n\
         include users.conf\n\
         no_auth_user: operator\n\
         max_payload: {}\n\
         jetstream {{\n  store_dir: {store}\n  sync_interval: always\n  max_file_store: {}\n}}\n{}\n",
        options.max_payload, options.max_file_store, options.extra_config,
    );
    fs::write(&path, config).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}
