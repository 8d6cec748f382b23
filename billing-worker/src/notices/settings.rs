//! Settings of usage notices.

use std::time::Duration;

use clap::{ArgAction, Args};
use service::settings::seconds;

use super::threshold::Thresholds;

#[derive(Args, Clone, Debug)]
pub struct NoticeSettings {
    /// At which percentages of a limit its account is told, comma separated
    #[arg(long, env = "NOTICE_THRESHOLDS", default_value = "80,100", value_name = "PERCENT,…")]
    pub notice_thresholds: Thresholds,

    /// How often usage is compared with them (seconds)
    #[arg(long, env = "NOTICE_INTERVAL", default_value = "10", value_parser = seconds)]
    pub notice_interval: Duration,

    /// Notices sent at once, at the most; to one endpoint one after the other
    #[arg(long, env = "NOTICE_CONCURRENCY", default_value = "8", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub notice_concurrency: u16,

    #[command(flatten)]
    pub policy: Policy,
}

/// Where notices may go.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Send notices to http:// too, where everyone on the way can read them (for a demo, for tests)
    #[arg(long = "notice-allow-http", env = "NOTICE_ALLOW_HTTP", action = ArgAction::Set, default_value = "false",
          num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub allow_http: bool,

    /// Send notices to private addresses too, so that whoever sets a URL reaches our own network (for a demo, for tests)
    #[arg(long = "notice-allow-private", env = "NOTICE_ALLOW_PRIVATE", action = ArgAction::Set, default_value = "false",
          num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub allow_private: bool,
}
