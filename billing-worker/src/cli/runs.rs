//! `runs …`: list unsettled runs; give up a run whose spool is lost.

use anyhow::{Result, ensure};
use clap::{
    Subcommand,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use protocol::run::RunState;
use schema::RunId;

use super::{
    page::PageArguments,
    print::{instant, list, out, row},
};
use crate::{
    administration::Administration,
    runs::operator::{self, GiveUp, RunView},
};

#[derive(Subcommand)]
pub enum RunsCommand {
    /// List unsettled runs of gateways and billing workers, oldest first
    List {
        /// Only runs in this state; `settled` is possible too
        #[arg(long, value_parser = state_parser())]
        state: Option<RunState>,
        #[command(flatten)]
        page: PageArguments,
    },
    /// End a spooling run whose spool is lost; requests that it acknowledged but did not publish are lost
    GiveUp {
        /// Id of the run
        run: RunId,
        /// Confirm that the spool cannot be recovered
        #[arg(long)]
        spool_is_lost: bool,
    },
}

pub(super) async fn run(command: &RunsCommand, admin: &Administration, json: bool) -> Result<()> {
    match command {
        RunsCommand::List { state, page } => {
            let listed = operator::list(&admin.db, *state, page.page()).await?;
            out(json, &listed, || list(HEADING, &listed, run_row))
        }
        RunsCommand::GiveUp { run, spool_is_lost } => {
            ensure!(
                *spool_is_lost,
                "confirm with --spool-is-lost: {}",
                operator::SPOOL_IS_LOST
            );
            let asked = GiveUp {
                spool_is_lost: *spool_is_lost,
            };
            let given_up = operator::give_up(admin, *run, asked).await?;
            out(json, &given_up, || {
                format!(
                    "run {} is being ended: the service settles its {} leases of {} units when the ingestors have stored \
                     the events that it published",
                    given_up.id, given_up.live_leases, given_up.held_units
                )
            })
        }
    }
}

const HEADING: [&str; 9] = [
    "run",
    "kind",
    "name",
    "state",
    "started",
    "age (s)",
    "last heartbeat (s ago)",
    "live leases",
    "units held",
];

fn run_row(run: &RunView) -> Vec<String> {
    row([
        &run.id.to_string(),
        run.kind.as_str(),
        &run.gateway,
        run.state.as_str(),
        &instant(run.started_at),
        &run.age_s.to_string(),
        &run.heartbeat_age_s.to_string(),
        &run.live_leases.to_string(),
        &run.held_units.to_string(),
    ])
}

fn state_parser() -> impl TypedValueParser<Value = RunState> {
    let values = RunState::ALL.map(|state| PossibleValue::new(state.as_str()).help(meaning(state)));
    PossibleValuesParser::new(values)
        .map(|name| RunState::parse(&name).expect("the parser takes no other names than those of the states"))
}

fn meaning(state: RunState) -> &'static str {
    match state {
        RunState::Live => "It takes leases and records events",
        RunState::Spooling => "NATS is unreachable: it records events in its spool",
        RunState::Fencing => "It is being ended and its leases are being settled",
        RunState::Closed => "It ended normally",
        RunState::Settled => "All its leases are settled",
    }
}
