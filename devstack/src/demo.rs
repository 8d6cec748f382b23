//! The main job, end to end: real traffic through real gateways, and the check that every accepted request is stored once.

mod access_log;
mod ledger;
mod replay;
mod report;
mod traffic;

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use crate::{
    DataDir, Servers, ServersOptions,
    admin::Customer,
    checkout,
    http::Http,
    shell::{self, Shell},
    system::{Endpoints, System, SystemOptions},
};

#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// End after the check instead of staying up; the exit code is not 0 if the check fails
    #[arg(long)]
    exit: bool,
    /// Print the table, the check and the URLs as one JSON object on standard output
    #[arg(long)]
    json: bool,
    /// Replay this web server's access log (combined format, .gz or not) instead of the demo's own traffic
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

/// Runs the demo until it is done, or until `interrupted`, whose exit code it returns.
pub async fn run(args: &DemoArgs, interrupted: impl AsyncFnMut() -> ExitCode) -> Result<ExitCode> {
    let mut interrupted = interrupted;
    // Read before anything is started: a wrong file name should cost nothing.
    let log = args.replay.as_deref().map(access_log::read).transpose()?;

    say("starting NATS, PostgreSQL and ClickHouse");
    let demo = tokio::select! {
        started = start(log.is_some()) => started?,
        code = interrupted() => return Ok(code),
    };
    let job = async {
        let driven = match &log {
            Some((entries, unreadable)) => replay::drive(&demo.system, entries, *unreadable).await?,
            None => traffic::drive(&demo.system).await?,
        };
        say("waiting until all of it is in ClickHouse");
        let check = ledger::check(&demo.system.endpoints, &driven).await?;
        anyhow::Ok((driven, check))
    };
    let (driven, check) = tokio::select! {
        done = job => done?,
        code = interrupted() => return demo.stop().await.map(|()| code),
    };

    let upgrade = checkout_link(&demo.system, &driven).await?;
    let report = report::Report::new(&demo.system, &driven, &check, upgrade);
    if args.json {
        println!("{}", report.json());
        std::io::stdout().flush()?;
    } else {
        println!("{}", report.text());
    }
    let code = if check.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    if args.exit {
        return demo.stop().await.map(|()| code);
    }
    let shell = shell(&demo.system, &driven)?;
    say(&format!(
        "everything stays up; Ctrl-C ends it. In another shell, this sets the variables that README and docs use: . {}",
        shell.env().display()
    ));
    let interrupt = interrupted().await;
    say("stopping (Ctrl-C again: at once)");
    tokio::select! {
        stopped = demo.stop() => stopped.map(|()| interrupt),
        code = interrupted() => Ok(code),
    }
}

/// What was sent and what became of it.
struct Driven {
    customers: Vec<Customer>,
    calls: Vec<traffic::Call>,
    /// Lines of a replayed log that no HTTP request can carry.
    unreadable: usize,
    took: std::time::Duration,
}

/// How the Free account becomes a paying one.
struct Upgrade {
    checkout_url: String,
    key: String,
}

struct Demo {
    system: System,
    servers: Servers,
}

impl Demo {
    async fn stop(mut self) -> Result<()> {
        self.system.stop().await?;
        drop(self.system);
        self.servers.stop().await
    }
}

async fn start(is_replay: bool) -> Result<Demo> {
    let servers = Servers::start(DataDir::create()?, &ServersOptions::default()).await?;
    let name = format!("trendit_demo_{:08x}", rand::random::<u32>());
    let endpoints = Endpoints {
        nats_url: servers.nats.url().to_owned(),
        database_url: servers.postgres.create_database(&name).await?,
        clickhouse_url: servers.clickhouse.url().to_owned(),
        clickhouse_database: name,
    };
    say("starting the billing worker, 2 ingestors and 2 gateways");
    let mut options = SystemOptions::new(servers.data().path().to_owned());
    (options.gateways, options.ingestors, options.stripe) = (2, 2, true);
    if is_replay {
        options.gateway_env = replay::gateway_settings(servers.data().path())?;
    }
    let system = System::start(endpoints, options)
        .await
        .context("starting the services")?;
    Ok(Demo { system, servers })
}

/// The demo's variables and commands for a shell, until the demo ends.
fn shell(system: &System, driven: &Driven) -> Result<Shell> {
    let large = driven.customers.last().context("the demo has customers")?;
    let is_free = |customer: &&Customer| customer.plan == "free";
    let free = driven.customers.iter().find(is_free).unwrap_or(large);
    let exe = std::env::current_exe().context("finding our own executable")?;
    Shell::write(
        &checkout::cache()?.join("demo"),
        &exe,
        &shell::variables(system, large, free),
    )
}

/// Where the first Free account can be upgraded.
async fn checkout_link(system: &System, driven: &Driven) -> Result<Option<Upgrade>> {
    let Some(customer) = driven.customers.iter().find(|customer| customer.plan == "free") else {
        return Ok(None);
    };
    let url = format!("{}/billing/create-checkout-session", system.billing_url);
    let opened = Http::default()
        .post(&url, &customer.key, &json!({ "tier": "pro" }))
        .await?
        .ok()?;
    let checkout_url = opened["checkout_url"].as_str().context("the checkout has no URL")?;
    Ok(Some(Upgrade {
        checkout_url: checkout_url.to_owned(),
        key: customer.key.clone(),
    }))
}

/// A line of progress for people.
fn say(line: &str) {
    eprintln!("demo: {line}");
}

/// Progress in place on a terminal, now and then elsewhere.
fn progress(done: usize, of: usize) {
    let every = if std::io::stderr().is_terminal() { 500 } else { 5_000 };
    if done.is_multiple_of(every) || done == of {
        let end = if std::io::stderr().is_terminal() && done < of {
            '\r'
        } else {
            '\n'
        };
        eprint!("demo: {done} of {of} requests sent{end}");
    }
}
