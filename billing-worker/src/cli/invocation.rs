//! The command line: the settings, and what the process does.

use clap::Parser;

use super::Command;
use crate::config::Settings;

#[derive(Parser)]
#[command(
    name = "billing-worker",
    version,
    max_term_width = 120,
    about = "Accounts, API keys, plans, limits and billing of Trendit Usage. Runs the service, unless a command is given."
)]
pub struct Arguments {
    /// Commands: print one JSON value to standard output
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub settings: Settings,

    #[command(subcommand)]
    pub command: Option<Command>,
}
