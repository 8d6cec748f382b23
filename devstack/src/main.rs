//! `devstack`: the whole system on one machine.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use devstack::{DataDir, Servers, ServersOptions, StripeDouble, StripeDoubleOptions, demo};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Parser)]
#[command(
    version,
    about = "The whole system on one machine: real servers and our services, without a container engine"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole system with real traffic, then check that every accepted request is stored once
    Demo(demo::DemoArgs),
    /// Start NATS, PostgreSQL and ClickHouse, print their URLs and run until Ctrl-C
    Servers(ServersArgs),
    /// Start a fake Stripe billing API, print its URL and keys and run until Ctrl-C
    Stripe(StripeArgs),
}

#[derive(Args)]
struct ServersArgs {
    /// Print the URLs as one JSON object instead of shell assignments
    #[arg(long)]
    json: bool,
    /// Keep the data in this directory, and start with the data that it has
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Args)]
struct StripeArgs {
    /// Listen on this port of 127.0.0.1 [default: a free one]
    #[arg(long)]
    port: Option<u16>,
    /// Send all webhook events to this URL
    #[arg(long, value_name = "URL")]
    webhook_url: Option<String>,
    /// The secret API key [default: random]
    #[arg(long, value_name = "KEY", env = "STRIPE_DOUBLE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// The signing secret of webhooks [default: random]
    #[arg(
        long,
        value_name = "SECRET",
        env = "STRIPE_DOUBLE_WEBHOOK_SECRET",
        hide_env_values = true
    )]
    webhook_secret: Option<String>,
    /// Print one JSON object instead of shell assignments
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    if let Some(code) = devstack::run_if_asked() {
        return code;
    }
    // `cargo demo -- --exit` reaches us as `demo -- --exit`.
    let cli = Cli::parse_from(
        std::env::args_os()
            .enumerate()
            .filter(|(n, arg)| *n != 2 || arg != "--")
            .map(|(_, arg)| arg),
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.context("starting the async runtime").and_then(|runtime| {
        let result = runtime.block_on(run(cli));
        runtime.shutdown_background(); // do not wait for an installation; the reaper ends it
        result
    });
    result.unwrap_or_else(|error| {
        eprintln!("devstack: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(cli: Cli) -> Result<ExitCode> {
    let mut interrupts = Interrupts::listen()?;
    match cli.command {
        Command::Demo(args) => demo::run(&args, async || interrupts.next().await).await,
        Command::Servers(args) => servers(&args, &mut interrupts).await,
        Command::Stripe(args) => stripe(args, &mut interrupts).await,
    }
}

async fn servers(args: &ServersArgs, interrupts: &mut Interrupts) -> Result<ExitCode> {
    let data = match &args.data {
        Some(dir) => DataDir::existing(dir)?,
        None => DataDir::create()?,
    };
    let options = ServersOptions::default();
    let servers = tokio::select! {
        started = Servers::start(data, &options) => started?,
        code = interrupts.next() => return Ok(code), // dropping a server kills it
    };
    let (nats, database, clickhouse) = (servers.nats.url(), servers.postgres.url(), servers.clickhouse.url());
    if args.json {
        let urls = json!({ "nats_url": nats, "database_url": database, "clickhouse_url": clickhouse });
        println!("{}", json!({ "urls": urls, "data": servers.data().path() }));
    } else {
        println!("NATS_URL={nats}\nDATABASE_URL={database}\nCLICKHOUSE_URL={clickhouse}");
    }
    eprintln!(
        "devstack: ready; data in {}; press Ctrl-C to stop",
        servers.data().path().display()
    );
    let code = interrupts.next().await;
    eprintln!("devstack: stopping (press Ctrl-C again to kill)");
    tokio::select! {
        stopped = servers.stop() => stopped.map(|()| code),
        code = interrupts.next() => Ok(code),
    }
}

async fn stripe(args: StripeArgs, interrupts: &mut Interrupts) -> Result<ExitCode> {
    let options = StripeDoubleOptions {
        port: args.port,
        webhook_url: args.webhook_url,
        api_key: args.api_key,
        webhook_secret: args.webhook_secret,
        ..StripeDoubleOptions::default()
    };
    let stripe = StripeDouble::start(options).await?;
    let (url, key, secret) = (stripe.url(), stripe.api_key(), stripe.webhook_secret());
    if args.json {
        println!(
            "{}",
            json!({ "url": url, "api_key": key, "webhook_secret": secret, "dashboard": format!("{url}/") })
        );
    } else {
        println!("STRIPE_API_BASE={url}\nSTRIPE_SECRET_KEY={key}\nSTRIPE_WEBHOOK_SECRETS={secret}");
    }
    eprintln!("devstack: the fake Stripe is ready; {url}/ shows it, {url}/_double/ controls it; press Ctrl-C to stop");
    Ok(interrupts.next().await)
}

/// Waits for Ctrl-C or SIGTERM and returns the exit code that a shell expects after it.
struct Interrupts {
    ctrl_c: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            ctrl_c: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.ctrl_c.recv() => ExitCode::from(130),
            _ = self.terminate.recv() => ExitCode::from(143),
        }
    }
}
