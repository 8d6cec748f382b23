//! The whole system at work: real traffic through real gateways, and the check that every accepted request is stored once.

mod access_log;
mod call;
mod ledger;
mod replay;
mod report;
mod send;
mod skip;
mod steps;
mod traffic;
mod upgrade;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Args;
use schema::Catalogue;

use crate::{
    DataDir, Servers, ServersOptions,
    admin::Customer,
    checkout,
    shell::{self, Shell},
    system::{Endpoints, System, SystemOptions},
};
use call::Driven;
use steps::Steps;

#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Stop after the ledger check; the exit code is 1 if the check fails
    #[arg(long)]
    exit: bool,
    /// Print the table, the check and the URLs as one JSON object on standard output
    #[arg(long)]
    json: bool,
    /// Replay this web server's access log (combined format, .gz or not) instead of the demo's own traffic
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Use this catalogue instead of the built-in one; it needs the plans free, pro and enterprise, and the usage types api_call,
    /// export and sentiment_analysis
    #[arg(long, value_name = "FILE", env = "PLANS_FILE")]
    plans: Option<PathBuf>,
}

/// Runs the demo until it is done, or until `interrupted` returns. Then it returns that exit code.
pub async fn run(args: &DemoArgs, interrupted: impl AsyncFnMut() -> ExitCode) -> Result<ExitCode> {
    let mut interrupted = interrupted;
    // A wrong file name must fail before the servers start.
    let log = args.replay.as_deref().map(access_log::read).transpose()?;
    let catalogue = args
        .plans
        .as_deref()
        .map_or_else(|| Ok(Catalogue::built_in()), catalogue)?;
    let steps = Steps::start();

    let demo = tokio::select! {
        started = start(log.is_some(), args.plans.clone(), &steps) => started?,
        code = interrupted() => return Ok(code),
    };
    let job = async {
        let driven = match &log {
            Some(log) => replay::drive(&demo.system, log, &steps).await?,
            None => traffic::drive(&demo.system, &steps).await?,
        };
        steps.say("wait until ClickHouse has stored every accepted request, then compare the rows with the requests");
        let check = ledger::check(&demo.system.endpoints, &driven, &catalogue).await?;
        anyhow::Ok((driven, check))
    };
    let (driven, check) = tokio::select! {
        done = job => done?,
        code = interrupted() => return demo.stop().await.map(|()| code),
    };

    steps.say("open a checkout for a Free account");
    let upgrade = upgrade::open_checkout(&demo.system, &driven).await?;
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
        steps.say("stop the services and the servers, and delete their data");
        return demo.stop().await.map(|()| code);
    }
    let shell = shell(&demo.system, &driven)?;
    steps.say("everything keeps running; press Ctrl-C to stop it");
    if let Some(shell) = &shell {
        steps.say(&format!(
            "in another shell, this sets the variables that README and docs use: . {}",
            shell.env().display()
        ));
    }
    let interrupt = interrupted().await;
    steps.say("stop the services and the servers (Ctrl-C again: kill them)");
    tokio::select! {
        stopped = demo.stop() => stopped.map(|()| interrupt),
        code = interrupted() => Ok(code),
    }
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

fn catalogue(file: &Path) -> Result<Catalogue> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    Catalogue::parse(&text).with_context(|| format!("{}", file.display()))
}

async fn start(is_replay: bool, plans_file: Option<PathBuf>, steps: &Steps) -> Result<Demo> {
    steps.say("start NATS, PostgreSQL and ClickHouse");
    let servers = Servers::start(DataDir::create()?, &ServersOptions::default()).await?;
    let name = format!("trendit_demo_{:08x}", rand::random::<u32>());
    let endpoints = Endpoints {
        nats_url: servers.nats.url().to_owned(),
        database_url: servers.postgres.create_database(&name).await?,
        clickhouse_url: servers.clickhouse.url().to_owned(),
        clickhouse_database: name,
    };
    let mut options = SystemOptions::new(servers.data().path().to_owned());
    (options.gateways, options.ingestors, options.stripe) = (2, 2, true);
    options.plans_file = plans_file.map(std::path::absolute).transpose()?;
    if is_replay {
        options.gateway_env = replay::gateway_settings(servers.data().path())?;
    }
    steps.say("start the billing worker, 2 ingestors, 2 gateways, an API behind them and a fake Stripe");
    let system = System::start(endpoints, options)
        .await
        .context("starting the services")?;
    Ok(Demo { system, servers })
}

/// The demo's variables and commands for a shell, until the demo ends.
fn shell(system: &System, driven: &Driven) -> Result<Option<Shell>> {
    // A replayed log without a single request makes no customers.
    let Some(large) = driven.customers.last() else {
        return Ok(None);
    };
    let is_free = |customer: &&Customer| customer.plan == "free";
    let free = driven.customers.iter().find(is_free).unwrap_or(large);
    let exe = std::env::current_exe().context("finding our own executable")?;
    let variables = shell::variables(system, large, free);
    Shell::write(&checkout::cache()?.join("demo"), &exe, &variables).map(Some)
}
