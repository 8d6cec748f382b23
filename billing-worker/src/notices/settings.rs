//! Settings of usage notices.

use std::time::Duration;

use clap::{ArgAction, Args};
use service::settings::seconds;

use super::threshold::Thresholds;

#[derive(Args, Clone, Debug)]
pub struct NoticeSettings {
    /// Percentages of a limit at which a notice is sent, comma separated
    #[arg(long, env = "NOTICE_THRESHOLDS", default_value = "80,100", value_name = "PERCENT,…")]
    pub notice_thresholds: Thresholds,

    /// How often usage is compared with the thresholds (seconds)
    #[arg(long, env = "NOTICE_INTERVAL", default_value = "10", value_parser = seconds)]
    pub notice_interval: Duration,

    /// Maximum number of notices sent at the same time; one at a time per endpoint
    #[arg(long, env = "NOTICE_CONCURRENCY", default_value = "8", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub notice_concurrency: u16,

    #[command(flatten)]
    pub policy: Policy,
}

/// Which addresses notices may be sent to.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Also send notices to http:// URLs, which is not encrypted (for demos and tests)
    #[arg(long = "notice-allow-http", env = "NOTICE_ALLOW_HTTP", action = ArgAction::Set, default_value = "false",
          num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub allow_http: bool,

    /// Also send notices to private addresses, which lets customers reach our own network (for demos and tests)
    #[arg(long = "notice-allow-private", env = "NOTICE_ALLOW_PRIVATE", action = ArgAction::Set, default_value = "false",
          num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub allow_private: bool,
}
