//! Updates the rows of one account's subscriptions to Stripe's current state. The caller holds the account's lease from before
//! the fetch to the commit. Otherwise older state could overwrite newer state.

use schema::{AccountId, Catalogue, announcement::Announcement, period::instant};
use serde_json::json;
use sqlx::{Postgres, Transaction};
use stripe_billing::subscription_schedule::RetrieveSubscriptionSchedule;
use stripe_core::customer::RetrieveCustomer;
use tracing::{error, info};
use uuid::Uuid;

use super::{
    completion::{self, Completion},
    fetched::Fetched,
    invoices::{self, FetchedInvoices, Wanted},
    irregular,
    lease::Lease,
    leftover::Leftover,
    listing,
    mirror::{Mirror, mirror},
    mirrored::Mirrored,
    owed,
    paused::{self, PausedCollection},
    pending::{self, Waiting},
    periods::{self, Upgraded},
    reversals,
    segment::Begun,
    versions,
};
use crate::{
    accounts::{self, customers, pool_limits},
    administration::audit,
    error::Error,
    findings::{finding::FindingKind, repository as findings},
    stripe::{
        Stripe, StripeError,
        object::{Customer, Schedule, Subscription},
    },
    subscriptions::billing::Billing,
    tasks::repository::{self as tasks, TaskKind},
};

/// What was stored.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// A subscription changed.
    pub changed: bool,
    pub invoices: FetchedInvoices,
}

/// Reads the account's subscriptions from Stripe and stores them; returns whether anything changed. An account without a
/// customer in Stripe stays as it is.
pub async fn refresh(billing: &Billing, account: AccountId) -> Result<bool, Error> {
    Ok(refresh_with(billing, account, &[]).await?.changed)
}

/// Does the same, and also for these invoices.
pub async fn refresh_with(billing: &Billing, account: AccountId, invoices: &[String]) -> Result<Refreshed, Error> {
    let billing = &billing.of(account);
    let lease = billing.lease(account).await?;
    let customer = customers::find(&billing.admin.db, account, billing.stripe()?.is_live()).await?;
    let refreshed = match customer {
        Some(customer) => store_with(billing, &lease, &customer, invoices).await,
        None => Ok(Refreshed::default()),
    };
    lease.release().await;
    refreshed
}

/// Does the same for the account's customer, under the caller's lease. If the lease was lost, nothing is stored.
pub async fn store(billing: &Billing, lease: &Lease, customer: &str) -> Result<bool, Error> {
    Ok(store_with(billing, lease, customer, &[]).await?.changed)
}

async fn store_with(billing: &Billing, lease: &Lease, customer: &str, invoices: &[String]) -> Result<Refreshed, Error> {
    let (account, now) = (lease.account(), billing.clock.now_s());
    let known = fetch(billing.stripe()?, customer).await?;
    let waiting = known.give_up_upgrades(billing, account).await?;
    let wanted = Wanted {
        named: invoices.to_vec(),
        ..known.invoices()
    };
    let invoices = invoices::fetch(billing, account, customer, wanted).await?;
    let (fetched, is_deleted) = match known {
        Known::Customer(fetched) => (fetched, false),
        Known::Deleted => (Vec::new(), true),
    };
    let versions = versions::of_fetched(&billing.admin.db, &fetched).await?;
    let mut tx = lease.begin().await?;
    if is_deleted {
        customers::deleted(&mut *tx, customer, now).await?;
    }
    let grace_s = billing.settings.grace_s();
    let mut mirror = mirror(&billing.admin.catalogue, &versions, &fetched, grace_s, now);
    accounts::lock(&mut tx, account).await?;
    // First, because they say until when a subscription is paid.
    invoices::store(&mut tx, account, &invoices, now).await?;
    let begun = completion::open(&mut *tx, account).await?;
    let changed = write(&mut tx, billing, account, customer, &mut mirror, begun.as_ref(), now).await?;
    let is_live = billing.stripe()?.is_live();
    mirror
        .findings
        .extend(reversals::found(&mut tx, account, is_live, now).await?);
    let opened = findings::store(&mut tx, account, &FindingKind::ALL, &mirror.findings).await?;
    pending::store(&mut tx, account, waiting.as_ref()).await?;
    tx.commit().await?;
    for finding in opened {
        let (kind, text, remedy) = (finding.kind.as_str(), &finding.text, finding.remedy());
        error!(account.id = %account, customer.id = customer, finding = kind, "an account in Stripe needs attention: {text}: {remedy}");
    }
    if changed {
        info!(account.id = %account, by = %billing.admin.by, "a subscription changed");
        let announcement = Announcement::AccountChanged { account_id: account };
        billing.admin.announcer.announce(announcement).await;
    }
    Ok(Refreshed { changed, invoices })
}

/// The state of a customer in Stripe.
enum Known {
    /// All subscriptions, with their schedules and unpaid invoices.
    Customer(Vec<Fetched>),
    /// The customer was deleted, and all of its subscriptions with it.
    Deleted,
}

impl Known {
    /// Voids the invoice of an upgrade of ours that was not paid. Returns the one that still waits for its payment.
    async fn give_up_upgrades(&self, billing: &Billing, account: AccountId) -> Result<Option<Waiting>, Error> {
        let Self::Customer(fetched) = self else {
            return Ok(None);
        };
        let mut waiting = None;
        if pending::is_begun(&billing.admin.db, account).await? {
            for one in fetched {
                let waits = pending::give_up(billing.stripe()?, &one.subscription).await?;
                waiting = waiting.or(waits);
            }
        }
        Ok(waiting)
    }

    /// The invoices that were read already, and the latest one of each subscription: a change makes one, and its caller may ask
    /// for it at once.
    fn invoices(&self) -> Wanted {
        let mut wanted = Wanted::default();
        let Self::Customer(fetched) = self else {
            return wanted;
        };
        for one in fetched {
            wanted.read.extend(one.unpaid.iter().chain(&one.paid).cloned());
            let latest = one.subscription.latest_invoice.as_ref();
            wanted.latest.extend(latest.map(|invoice| invoice.id().to_owned()));
        }
        wanted
    }
}

async fn fetch(stripe: &Stripe, customer: &str) -> Result<Known, StripeError> {
    let subscriptions = match listing::all(stripe, customer).await {
        Ok(subscriptions) => subscriptions,
        // Our customers are also missing if the key belongs to another Stripe account. Then they are not deleted.
        Err(error) if error.is_missing() => {
            let customer: Customer = stripe.read(&RetrieveCustomer::new(customer)).await?;
            return customer.deleted.then_some(Known::Deleted).ok_or(error);
        }
        Err(error) => return Err(error),
    };
    let mut fetched = Vec::new();
    for subscription in subscriptions {
        fetched.push(complete(stripe, subscription).await?);
    }
    Ok(Known::Customer(fetched))
}

async fn complete(stripe: &Stripe, subscription: Subscription) -> Result<Fetched, StripeError> {
    let schedule = match &subscription.schedule {
        Some(schedule) => {
            let retrieve =
                RetrieveSubscriptionSchedule::new(schedule.id()).expand(vec!["phases.items.price".to_owned()]);
            Some(stripe.read::<Schedule>(&retrieve).await?)
        }
        None => None,
    };
    let unpaid = owed::unpaid(stripe, &subscription).await?;
    let paid = paused::paid(stripe, &subscription).await?;
    Ok(Fetched {
        subscription,
        schedule,
        unpaid,
        paid,
    })
}

async fn write(
    tx: &mut Transaction<'_, Postgres>,
    billing: &Billing,
    account: AccountId,
    customer: &str,
    mirror: &mut Mirror,
    begun: Option<&(Uuid, Completion)>,
    now: i64,
) -> Result<bool, Error> {
    // First, because at most one row may be current. A paid subscription replaces a plan that an operator assigned. Without
    // one, the assigned plan stays.
    let mut changed = sqlx::query!(
        "update subscriptions set is_current = false, updated_at = now()
         where account_id = $1 and is_current and id is distinct from $2
           and ($2::uuid is not null or stripe_subscription_id is not null)",
        account.0,
        mirror.current.map(|id| id.0)
    )
    .execute(&mut **tx)
    .await?
    .rows_affected();
    let refuses = billing.settings.paused_collection == PausedCollection::Refuse;
    for subscription in &mirror.subscriptions {
        let (is_current, ends) = (
            mirror.current == Some(subscription.id),
            refuses && subscription.is_paused,
        );
        changed += upsert(tx, account, subscription, is_current, ends).await?;
        changed += write_items(tx, subscription).await?;
        let upgrade = begun.filter(|(_, upgrade)| upgrade.has_begun(subscription));
        let upgraded = upgrade.map(|(_, upgrade)| Upgraded {
            begun: Begun {
                at: upgrade.at,
                slot: upgrade.slot,
            },
            is_complete: upgrade.is_complete(subscription),
        });
        let written = periods::write(tx, account, customer, subscription, upgraded, now).await?;
        changed += written.changed;
        if let Some(running) = written.running {
            Leftover::find(tx, account, customer, subscription, running.slot).await?;
            // The prices of an upgrade that has just begun are added in a moment.
            if subscription.is_live() && upgraded.is_none_or(|upgraded| upgraded.is_complete) {
                let unbilled = irregular::unbilled(&billing.admin.catalogue, subscription, running);
                mirror.findings.extend(unbilled);
            }
        }
        match (upgrade, upgraded) {
            (Some((task, _)), Some(Upgraded { is_complete: true, .. })) => tasks::done(&mut **tx, *task).await?,
            (Some(_), _) => tasks::wake(&mut **tx, account, TaskKind::CompleteUpgrade).await?,
            (None, _) => {}
        }
    }
    let limited = pool_limits::apply(tx, &billing.admin.catalogue, &[account], now).await?;
    if changed > 0 {
        let current = mirror.subscriptions.iter().find(|one| Some(one.id) == mirror.current);
        let entry = audit::Entry {
            action: "subscription.change",
            account: Some(account),
            subject: current.map_or_else(|| customer.to_owned(), |current| current.stripe_id.clone()),
            details: json!({
                "plan": current.map_or(Catalogue::FREE, |current| &current.plan),
                "version": current.and_then(|current| current.version.as_ref()).map(|version| version.number),
                "status": current.map(|current| current.status),
                "period_start": current.map(|current| current.period.start),
                "interval_months": current.map(|current| current.interval_months),
                "ends_at": current.and_then(|current| current.ends_at),
                "then_plan": current.and_then(|current| current.then_plan.as_deref()),
                "grace_until": current.and_then(|current| current.grace_until),
                "owed_invoice": current.and_then(|current| current.owed_invoice.as_deref()),
                "collection_paused": current.is_some_and(|current| current.is_paused),
            }),
            actor: billing.admin.actor(),
        };
        audit::record(tx, entry).await?;
    }
    Ok(changed > 0 || !limited.is_empty())
}

async fn upsert(
    tx: &mut Transaction<'_, Postgres>,
    account: AccountId,
    of: &Mirrored,
    is_current: bool,
    ends_when_paid: bool,
) -> Result<u64, Error> {
    let paid = Some(of.paid).filter(|paid| *paid != of.period);
    let written = sqlx::query!(
        "insert into subscriptions as s (id, account_id, plan_id, status, period_start, period_end, billing_anchor, ends_at,
             then_plan_id, grace_until, is_current, stripe_subscription_id, cancel_at_period_end, trial_ends_at,
             stripe_schedule_id, ended_at, owed_invoice_id, then_price_ids, version_id, then_version_id, interval_months,
             paid_period_start, paid_period_end, paid_until)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $22, $23, $24,
             -- Before the first payment, nothing is paid.
             case when $21 then coalesce((
                 select max(l.period_end) from stripe_invoices i join stripe_invoice_lines l on l.invoice_id = i.id
                 where i.account_id = $2 and i.subscription_id = $12 and i.status = 'paid' and l.kind = 'plan'), $23, $5) end)
         on conflict (id) do update set plan_id = excluded.plan_id, status = excluded.status,
             period_start = excluded.period_start, period_end = excluded.period_end,
             billing_anchor = excluded.billing_anchor, ends_at = excluded.ends_at, then_plan_id = excluded.then_plan_id,
             grace_until = excluded.grace_until, is_current = excluded.is_current,
             cancel_at_period_end = excluded.cancel_at_period_end, trial_ends_at = excluded.trial_ends_at,
             stripe_schedule_id = excluded.stripe_schedule_id, ended_at = excluded.ended_at,
             owed_invoice_id = excluded.owed_invoice_id, then_price_ids = excluded.then_price_ids,
             version_id = excluded.version_id, then_version_id = excluded.then_version_id,
             interval_months = excluded.interval_months, paid_period_start = excluded.paid_period_start,
             paid_period_end = excluded.paid_period_end, paid_until = excluded.paid_until, updated_at = now()
         where (s.plan_id, s.status, s.period_start, s.period_end, s.billing_anchor, s.ends_at, s.then_plan_id,
                s.grace_until, s.is_current, s.cancel_at_period_end, s.trial_ends_at, s.stripe_schedule_id, s.ended_at,
                s.owed_invoice_id, s.then_price_ids, s.version_id, s.then_version_id, s.interval_months, s.paid_period_start,
                s.paid_period_end, s.paid_until)
            is distinct from
               (excluded.plan_id, excluded.status, excluded.period_start, excluded.period_end, excluded.billing_anchor,
                excluded.ends_at, excluded.then_plan_id, excluded.grace_until, excluded.is_current,
                excluded.cancel_at_period_end, excluded.trial_ends_at, excluded.stripe_schedule_id, excluded.ended_at,
                excluded.owed_invoice_id, excluded.then_price_ids, excluded.version_id, excluded.then_version_id,
                excluded.interval_months, excluded.paid_period_start, excluded.paid_period_end, excluded.paid_until)",
        of.id.0,
        account.0,
        of.plan,
        of.status.as_str(),
        instant(of.period.start),
        instant(of.period.end),
        instant(of.anchor),
        of.ends_at.map(instant),
        of.then_plan,
        of.grace_until.map(instant),
        is_current,
        of.stripe_id,
        of.cancel_at_period_end,
        of.trial_ends_at.map(instant),
        of.schedule_id,
        of.ended_at.map(instant),
        of.owed_invoice,
        &of.then_price_ids,
        of.version.as_ref().map(|version| version.id),
        of.then_version.as_ref().map(|version| version.id),
        ends_when_paid,
        of.interval_months,
        paid.map(|paid| instant(paid.start)),
        paid.map(|paid| instant(paid.end))
    )
    .execute(&mut **tx)
    .await?;
    Ok(written.rows_affected())
}

async fn write_items(tx: &mut Transaction<'_, Postgres>, of: &Mirrored) -> Result<u64, Error> {
    let ids: Vec<String> = of.items.iter().map(|item| item.id.clone()).collect();
    let mut changed = sqlx::query!(
        "delete from subscription_items where subscription_id = $1 and stripe_item_id <> all($2)",
        of.id.0,
        &ids
    )
    .execute(&mut **tx)
    .await?
    .rows_affected();
    for item in &of.items {
        changed += sqlx::query!(
            "insert into subscription_items as i (stripe_item_id, subscription_id, price_id, usage_type, period_start, period_end)
             values ($1, $2, $3, $4, $5, $6)
             on conflict (stripe_item_id) do update set subscription_id = excluded.subscription_id,
                 price_id = excluded.price_id, usage_type = excluded.usage_type, period_start = excluded.period_start,
                 period_end = excluded.period_end
             where (i.subscription_id, i.price_id, i.usage_type, i.period_start, i.period_end) is distinct from
                   (excluded.subscription_id, excluded.price_id, excluded.usage_type, excluded.period_start,
                    excluded.period_end)",
            item.id,
            of.id.0,
            item.price_id,
            item.usage_type,
            instant(item.period.start),
            instant(item.period.end)
        )
        .execute(&mut **tx)
        .await?
        .rows_affected();
    }
    Ok(changed)
}
