//! The shared parts of billing: the database, Stripe, ClickHouse, the settings and the clock.

use std::{sync::Arc, time::Duration};

use clap::Args;
use schema::{AccountId, clock::Clock, period::instant};
use service::{
    boot::Mistakes,
    settings::{http_url, seconds},
};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::{lease::Lease, slots::Slots};
use crate::{
    administration::{Administration, By},
    error::Error,
    reports::{self, Reporter},
    stripe::{Stripe, StripeError},
};

/// Cheap to clone.
#[derive(Clone)]
pub struct Billing {
    pub admin: Administration,
    pub clock: Clock,
    pub settings: Arc<BillingSettings>,
    /// `None`: there is no Stripe key.
    reporter: Option<Reporter>,
    slots: Slots,
    /// Renew and release the leases.
    keepers: TaskTracker,
}

#[derive(Args, Clone, Debug)]
pub struct BillingSettings {
    /// URL at which browsers reach this service's public port; Stripe sends customers back to its pages
    #[arg(long, env = "BILLING_PUBLIC_URL", default_value = "http://127.0.0.1:8081", value_parser = http_url)]
    pub billing_public_url: String,

    /// How long a subscription keeps working after a failed payment, counted from when its invoice became payable (seconds; 3 days)
    #[arg(long, env = "GRACE_PERIOD", default_value = "259200", value_parser = seconds)]
    pub grace_period: Duration,

    /// Secrets of Stripe's webhook endpoint (whsec_…), comma separated: several while they are rotated
    #[arg(long, env = "STRIPE_WEBHOOK_SECRETS", value_delimiter = ',', hide_env_values = true)]
    pub stripe_webhook_secrets: Vec<String>,
}

impl BillingSettings {
    pub fn grace_s(&self) -> i64 {
        i64::try_from(self.grace_period.as_secs()).unwrap_or(i64::MAX / 2)
    }

    /// Names every mistake in them, without the secrets.
    pub fn check(&self, mistakes: &mut Mistakes) {
        // With an empty secret, anyone could create a valid signature.
        let is_secret = |secret: &String| {
            secret
                .trim()
                .strip_prefix("whsec_")
                .is_some_and(|rest| !rest.is_empty())
        };
        mistakes.ensure(
            self.stripe_webhook_secrets.iter().all(is_secret),
            "stripe_webhook_secrets",
            "must be one or more secrets of the form whsec_…, separated by commas, none of them empty",
        );
    }
}

impl Billing {
    pub fn new(admin: Administration, reporter: Option<Reporter>, settings: BillingSettings, clock: Clock) -> Self {
        Self {
            admin,
            clock,
            settings: Arc::new(settings),
            reporter,
            slots: Slots::default(),
            keepers: TaskTracker::new(),
        }
    }

    /// The same for changes that come through another interface.
    pub fn by(&self, by: By) -> Self {
        let mut other = self.clone();
        other.admin.by = by;
        other
    }

    pub fn stripe(&self) -> Result<&Stripe, Error> {
        self.reporter().map(|reporter| &reporter.stripe)
    }

    pub fn has_stripe(&self) -> bool {
        self.reporter.is_some()
    }

    /// Reports usage to Stripe.
    pub fn reporter(&self) -> Result<&Reporter, Error> {
        self.reporter.as_ref().ok_or(Error::Stripe(StripeError::NotConfigured))
    }

    /// Reports all of the account's usage to Stripe now. Fails if some usage that the subscription still bills cannot be reported:
    /// usage that is unreported when the subscription ends is never billed.
    pub async fn flush(&self, account: AccountId, subscription: &str) -> Result<(), Error> {
        let flushed = reports::flush(self.reporter()?, account, self.clock.now_s())
            .await
            .map_err(|failure| Error::UsageUnreported(format!("{failure:#}")))?;
        let held = flushed.held.into_iter();
        let (starts, usage_types): (Vec<_>, Vec<_>) = held.map(|line| (instant(line.start), line.usage_type)).unzip();
        let unreported = sqlx::query_scalar!(
            r#"select count(*) as "unreported!" from (
                   select period_start, usage_type from meter_reports where account_id = $1 and state in ('open', 'parked')
                   union select * from unnest($3::timestamptz[], $4::text[]) as held (period_start, usage_type)
               ) as unreported
                   join billing_periods p on p.account_id = $1 and p.period_start = unreported.period_start
                   join subscriptions s on s.stripe_subscription_id = p.stripe_subscription_id
                   join subscription_items i on i.subscription_id = s.id and i.usage_type = unreported.usage_type
               where p.stripe_subscription_id = $2 and p.final_at is null"#,
            account.0,
            subscription,
            &starts,
            &usage_types
        )
        .fetch_one(&self.admin.db)
        .await?;
        match unreported {
            0 => Ok(()),
            unreported => Err(Error::UsageUnreported(format!(
                "{unreported} counts of the account wait for a report or have a parked report"
            ))),
        }
    }

    /// Before a change that bills the usage so far: fails if some of it was reported with a timestamp in the future. In a
    /// period's first minute usage is reported for the next minute (see [`protocol::reports::period`]), and would not be
    /// billed.
    pub async fn refuse_reported_ahead(&self, account: AccountId, subscription: &str) -> Result<(), Error> {
        let now = self.clock.now_s();
        let ahead = sqlx::query_scalar!(
            "select max(r.reported_for) from meter_reports r
                 join billing_periods p on p.account_id = r.account_id and p.period_start = r.period_start
                 join subscriptions s on s.stripe_subscription_id = p.stripe_subscription_id
                 join subscription_items i on i.subscription_id = s.id and i.usage_type = r.usage_type
             where r.account_id = $1 and r.reported_for >= $3 and p.stripe_subscription_id = $2",
            account.0,
            subscription,
            instant(now)
        )
        .fetch_one(&self.admin.db)
        .await?;
        match ahead {
            None => Ok(()),
            Some(ahead) => Err(Error::ReportedAhead {
                wait_s: ahead.unix_timestamp() - now + 1,
            }),
        }
    }

    /// From now on no caller begins a change, because the shutdown could interrupt it.
    pub fn stop(&self) {
        self.slots.stop();
    }

    /// Waits, after [`Self::stop`], until all leases are released.
    pub async fn released(&self) {
        self.keepers.close();
        self.keepers.wait().await;
    }

    /// Takes the account's lease. The caller holds it from before its first call to Stripe until the result is stored.
    /// While another worker holds it, an event waits in the inbox instead of here.
    pub async fn lease(&self, account: AccountId) -> Result<Lease, Error> {
        /// How long an event waits here for the lease.
        const MOMENT: Duration = Duration::from_secs(1);
        let by = self.admin.by;
        let patience = Slots::patience(by);
        let taken = async {
            let position = self.slots.queue(account, by).await.ok_or(Error::NoSlot)?;
            let ask_for = if by == By::Stripe { MOMENT } else { patience };
            let lease = Lease::take(&self.admin.db, &self.keepers, account, ask_for).await?;
            let slot = position.slot().await.ok_or(Error::NoSlot)?;
            Ok(lease.with(slot))
        };
        timeout(patience, taken).await.unwrap_or(Err(Error::NoSlot))
    }
}
