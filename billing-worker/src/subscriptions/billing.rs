//! The shared parts of billing: the database, Stripe, ClickHouse, the settings and the clock.

use std::{sync::Arc, time::Duration};

use clap::{Args, ValueEnum};
use schema::{AccountId, clock::Clock};
use service::{
    boot::Mistakes,
    settings::{http_url, seconds},
};
use sqlx::PgPool;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::{
    checkout_settings::CheckoutSettings,
    lease::Lease,
    paused::PausedCollection,
    slots::{Slot, Slots},
};
use crate::{
    administration::{Administration, By},
    error::Error,
    reports::Reporter,
    stripe::{Class, Stripe, StripeError},
};

/// Work on subscriptions: for whom, through which interface, with which connections. Cheap to clone.
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

/// The longest wait before a change: a caller waits for the answer, and the account and a slot are taken.
const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Args, Clone, Debug)]
pub struct BillingSettings {
    /// URL at which browsers reach this service's public port; Stripe sends customers back to its pages
    #[arg(long, env = "BILLING_PUBLIC_URL", default_value = "http://127.0.0.1:8081", value_parser = http_url)]
    pub billing_public_url: String,

    /// How long a subscription keeps working after a failed payment, counted from when its invoice became payable (seconds; 3 days)
    #[arg(long, env = "GRACE_PERIOD", default_value = "259200", value_parser = seconds)]
    pub grace_period: Duration,

    /// What happens when the period ends that was paid last, if the collection of a subscription's invoices is paused in Stripe
    /// (pause_collection): its calls are refused (refuse), or it continues without payment (allow)
    #[arg(
        long,
        env = "PAUSED_COLLECTION",
        value_enum,
        default_value = "refuse",
        hide_possible_values = true,
        value_name = "refuse|allow"
    )]
    pub paused_collection: PausedCollection,

    /// What happens to an account when a bank decides a dispute for the customer: nothing (keep), or all its metered calls are
    /// refused (suspend)
    #[arg(
        long,
        env = "LOST_DISPUTE",
        value_enum,
        default_value = "keep",
        hide_possible_values = true,
        value_name = "keep|suspend"
    )]
    pub lost_dispute: LostDispute,

    /// How long a change that bills usage waits until all acknowledged usage is in ClickHouse (seconds, at most 60). Then it is
    /// refused, or an event is retried
    #[arg(long, env = "USAGE_STORED_WAIT", default_value = "5", value_parser = seconds)]
    pub usage_stored_wait: Duration,

    /// How long a cancellation at once waits until Stripe has counted all reported usage (seconds, at most 60). Then it is refused
    #[arg(long, env = "STRIPE_SUMMARY_WAIT", default_value = "10", value_parser = seconds)]
    pub stripe_summary_wait: Duration,

    /// Secrets of Stripe's webhook endpoint (whsec_…), comma separated: several while they are rotated
    #[arg(long, env = "STRIPE_WEBHOOK_SECRETS", value_delimiter = ',', hide_env_values = true)]
    pub stripe_webhook_secrets: Vec<String>,

    #[command(flatten)]
    pub checkout: CheckoutSettings,
}

/// What happens to an account whose customer's bank took a payment back for good (`LOST_DISPUTE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LostDispute {
    /// An operator decides.
    Keep,
    Suspend,
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
        for (wait, setting) in [
            (self.usage_stored_wait, "usage_stored_wait"),
            (self.stripe_summary_wait, "stripe_summary_wait"),
        ] {
            mistakes.ensure(
                wait <= WAIT_MAX,
                setting,
                format_args!("must be at most {WAIT_MAX:?}, because a caller waits for the answer, got {wait:?}"),
            );
        }
    }
}

impl Billing {
    pub fn new(admin: Administration, reporter: Option<Reporter>, settings: BillingSettings, clock: Clock) -> Self {
        let by = admin.by;
        let new = Self {
            admin,
            clock,
            settings: Arc::new(settings),
            reporter,
            slots: Slots::default(),
            keepers: TaskTracker::new(),
        };
        new.by(by)
    }

    /// The same for changes that come through another interface.
    pub fn by(&self, by: By) -> Self {
        let mut other = self.in_class(class(by));
        other.admin.by = by;
        other
    }

    /// The same with calls to Stripe of another class.
    pub fn in_class(&self, class: Class) -> Self {
        self.calling(|stripe| stripe.in_class(class))
    }

    /// The same for work on one account: its calls to Stripe share the account's place in the queue.
    pub fn of(&self, account: AccountId) -> Self {
        self.calling(|stripe| stripe.of(account))
    }

    /// The same with other connections to PostgreSQL.
    pub fn on(&self, db: &PgPool) -> Self {
        let mut other = self.clone();
        other.admin.db = db.clone();
        if let Some(reporter) = &mut other.reporter {
            reporter.db = db.clone();
        }
        other
    }

    fn calling(&self, change: impl FnOnce(&Stripe) -> Stripe) -> Self {
        let mut other = self.clone();
        if let Some(reporter) = &mut other.reporter {
            reporter.stripe = change(&reporter.stripe);
        }
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

    /// From now on no caller begins a change, because the shutdown could interrupt it.
    pub fn stop(&self) {
        self.slots.stop();
    }

    /// Waits, after [`Self::stop`], until all leases are released.
    pub async fn released(&self) {
        self.keepers.close();
        self.keepers.wait().await;
    }

    /// Takes the account's slot, for work with Stripe that stores nothing about the subscription and needs no lease.
    pub async fn slot(&self, account: AccountId) -> Result<Slot, Error> {
        let by = self.admin.by;
        let taken = async {
            let position = self.slots.queue(account, by).await?;
            position.slot().await
        };
        let taken = timeout(Slots::patience(by), taken).await;
        taken.ok().flatten().ok_or(Error::NoSlot)
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

fn class(by: By) -> Class {
    match by {
        By::Customer | By::AdminApi | By::Command => Class::Change,
        By::Stripe => Class::Webhook,
        By::Service => Class::Report,
    }
}
