//! How usage is reported to Stripe.

use std::time::Duration;

use clap::{Args, ValueEnum};
use protocol::reports::late::Policy;
use service::{boot::Mistakes, settings::seconds};

#[derive(Args, Clone, Debug)]
pub struct ReportSettings {
    /// How often usage is reported to Stripe (seconds)
    #[arg(long, env = "REPORT_INTERVAL", default_value = "300", value_parser = seconds)]
    pub report_interval: Duration,

    /// Maximum number of meter events in flight
    #[arg(long, env = "REPORT_CONCURRENCY", default_value = "64", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub report_concurrency: u16,

    /// What happens to usage that arrives after its period's invoice was finalized
    #[arg(long, env = "LATE_USAGE", value_enum, default_value = "next_period")]
    pub late_usage: LateUsage,

    /// With LATE_USAGE=next_period: how long late usage waits for a next period before it is charged (seconds)
    #[arg(long, env = "LATE_CHARGE_AFTER", default_value = "3600", value_parser = seconds)]
    pub late_charge_after: Duration,

    /// How long late usage may be on no invoice before `reconcile` fails because of it; at least LATE_CHARGE_AFTER (seconds)
    #[arg(long, env = "OPEN_MONEY_AFTER", default_value = "86400", value_parser = seconds)]
    pub open_money_after: Duration,

    /// How long after its end a period is frozen, if ClickHouse, the ledger and Stripe have the same totals (seconds)
    #[arg(long, env = "FREEZE_AFTER", default_value = "10800", value_parser = seconds)]
    pub freeze_after: Duration,

    /// How long done reports are kept (seconds); their sums stay in the ledger
    #[arg(long, env = "REPORTS_KEPT", default_value = "1209600", value_parser = seconds)]
    pub reports_kept: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum LateUsage {
    /// It is reported in the subscription's next billing period; without one, it is billed as an invoice item
    NextPeriod,
    /// It is billed as an invoice item at once
    CreditOrCharge,
}

impl LateUsage {
    pub fn policy(self) -> Policy {
        match self {
            Self::NextPeriod => Policy::NextPeriod,
            Self::CreditOrCharge => Policy::CreditOrCharge,
        }
    }
}

impl ReportSettings {
    /// With a shorter time, `reconcile` would fail because of late usage that is charged as it should be.
    pub fn check(&self, mistakes: &mut Mistakes) {
        mistakes.ensure(
            self.open_money_after >= self.late_charge_after,
            "open_money_after",
            format_args!(
                "must be at least {:?}, the value of LATE_CHARGE_AFTER, got {:?}",
                self.late_charge_after, self.open_money_after
            ),
        );
    }

    /// How long units may be pending: three times the interval of reports, and at least five minutes.
    pub fn pending_for_s(&self) -> i64 {
        let intervals = self.report_interval.saturating_mul(3).max(Duration::from_secs(300));
        i64::try_from(intervals.as_secs()).unwrap_or(i64::MAX)
    }

    pub fn late_charge_after_s(&self) -> i64 {
        i64::try_from(self.late_charge_after.as_secs()).unwrap_or(i64::MAX)
    }

    pub fn open_money_after_s(&self) -> i64 {
        i64::try_from(self.open_money_after.as_secs()).unwrap_or(i64::MAX)
    }
}

impl Default for ReportSettings {
    /// What `--help` says.
    fn default() -> Self {
        Self {
            report_interval: Duration::from_secs(300),
            report_concurrency: 64,
            late_usage: LateUsage::NextPeriod,
            late_charge_after: Duration::from_secs(3_600),
            open_money_after: Duration::from_secs(24 * 3_600),
            freeze_after: Duration::from_secs(3 * 3_600),
            reports_kept: Duration::from_secs(14 * 24 * 3_600),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        settings: ReportSettings,
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let parsed = Arguments::parse_from(["test"]).settings;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", ReportSettings::default()));
    }
}
