//! Starting a subscription: by Stripe's hosted checkout, or by the caller's own payment form.

use std::collections::HashMap;

use schema::{AccountId, Plan, period::instant};
use serde::Deserialize;
use sqlx::PgPool;
use stripe_billing::subscription::{
    CreateSubscription, CreateSubscriptionItems, CreateSubscriptionPaymentBehavior, CreateSubscriptionPaymentSettings,
    CreateSubscriptionPaymentSettingsSaveDefaultPaymentMethod, CreateSubscriptionTrialSettings,
    CreateSubscriptionTrialSettingsEndBehavior, CreateSubscriptionTrialSettingsEndBehaviorMissingPaymentMethod,
};
use stripe_checkout::checkout_session::{
    CreateCheckoutSession, CreateCheckoutSessionLineItems, CreateCheckoutSessionSubscriptionData,
};
use time::OffsetDateTime;
use tracing::info;
use uuid::Uuid;

use super::{
    lease::Lease,
    prices::{self, PlanPrices},
    refresh,
    running::Running,
    unpaid::{self, Begun, OpenCheckout},
};
use crate::{
    accounts::customers,
    error::Error,
    stripe::{StripeError, Write, names},
    subscriptions::billing::Billing,
};

/// How long a checkout stays open: an hour, within Stripe's 30 minutes to 24 hours.
const CHECKOUT_S: i64 = 3_600;
/// A checkout that closes sooner than this is not handed out again.
const CHECKOUT_LEFT_S: i64 = 300;

/// Where the customer's browser goes after the checkout.
pub struct ReturnUrls {
    pub success: String,
    pub cancel: String,
}

/// A checkout for the customer's browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    pub session_id: String,
    pub url: String,
    pub expires_at: OffsetDateTime,
}

/// A subscription that waits for its first payment.
#[derive(Clone, Debug)]
pub struct Pending {
    pub subscription_id: String,
    pub status: String,
    /// What a payment form confirms: a payment, or for a trial the card that pays after it.
    pub client_secret: Option<String>,
}

#[derive(Deserialize)]
struct Session {
    id: String,
    url: Option<String>,
    expires_at: i64,
}

/// Opens a checkout, or hands out the one that is open for this plan. A new checkout cancels what else is still unpaid: a checkout
/// for another plan, one at prices that the plan had before, a payment form.
pub async fn checkout(billing: &Billing, account: AccountId, plan: &str, urls: ReturnUrls) -> Result<Checkout, Error> {
    let plan = prices::for_sale(billing, plan)?;
    let lease = billing.lease(account).await?;
    let checkout = open(billing, &lease, plan, urls).await;
    lease.release().await;
    checkout
}

async fn open(billing: &Billing, lease: &Lease, plan: &Plan, urls: ReturnUrls) -> Result<Checkout, Error> {
    let (db, account) = (&billing.admin.db, lease.account());
    let customer = customers::ensure(billing, account).await?;
    let prices = prices::of_plan(billing, plan).await?;
    refuse_second(billing, &customer).await?;
    let again = match unpaid::open_checkout(db, account).await? {
        None => None,
        Some(open) => {
            let is_same = open.plan_id == plan.id
                && open.price_ids == prices.ids()
                && open.expires_at.unix_timestamp() - billing.clock.now_s() > CHECKOUT_LEFT_S;
            let again = Checkout::of(&open).filter(|_| is_same);
            if again.is_some() && open.is_open(billing).await? {
                again
            } else {
                open.close(billing, lease).await?;
                // The customer may have paid a moment ago.
                refuse_second(billing, &customer).await?;
                None
            }
        }
    };
    let begun = unpaid::begun(billing, &customer).await?;
    give_up(billing, &customer, &begun).await?;
    match again {
        Some(again) => Ok(again),
        None => create_session(billing, lease, plan, &customer, &prices, urls).await,
    }
}

/// The row is there before the call: its id is the idempotency key. A row without a session is one whose creation failed or was cut
/// off; the next checkout ends it.
async fn create_session(
    billing: &Billing,
    lease: &Lease,
    plan: &Plan,
    customer: &str,
    prices: &PlanPrices,
    urls: ReturnUrls,
) -> Result<Checkout, Error> {
    let account = lease.account();
    let trial_days = trial_days(&billing.admin.db, billing, account, customer, plan).await?;
    let (id, expires_at) = (Uuid::now_v7(), billing.clock.now_s() + CHECKOUT_S);
    let mut tx = lease.begin().await?;
    sqlx::query!(
        "insert into checkout_sessions (id, account_id, plan_id, price_ids, expires_at) values ($1, $2, $3, $4, $5)",
        id,
        account.0,
        plan.id,
        &prices.ids(),
        instant(expires_at)
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    lease.renew().await?;
    let request = session_request(plan, account, customer, prices, urls, expires_at, trial_days);
    let session: Session = billing.stripe()?.write(&request, Write::Keyed(&id.to_string())).await?;
    let url = session
        .url
        .ok_or_else(|| StripeError::Unreadable(format!("checkout session {} has no url", session.id)))?;
    let checkout = Checkout {
        session_id: session.id,
        url,
        expires_at: instant(session.expires_at),
    };
    // Where the lease was lost the session is shown to nobody, and expires.
    let mut tx = lease.begin().await?;
    sqlx::query!(
        "update checkout_sessions set session_id = $2, url = $3, expires_at = $4 where id = $1",
        id,
        checkout.session_id,
        checkout.url,
        checkout.expires_at
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    info!(account.id = %account, plan = plan.id, session.id = checkout.session_id, "opened a checkout");
    Ok(checkout)
}

/// Begins a subscription whose first payment the caller's own form confirms, or hands out the one that waits for it. It cancels
/// what else is still unpaid.
pub async fn subscribe(billing: &Billing, account: AccountId, plan: &str) -> Result<Pending, Error> {
    let plan = prices::for_sale(billing, plan)?;
    let lease = billing.lease(account).await?;
    let pending = begin(billing, &lease, plan).await;
    lease.release().await;
    pending
}

async fn begin(billing: &Billing, lease: &Lease, plan: &Plan) -> Result<Pending, Error> {
    let (db, account) = (&billing.admin.db, lease.account());
    let customer = customers::ensure(billing, account).await?;
    let prices = prices::of_plan(billing, plan).await?;
    match refuse_second(billing, &customer).await {
        Ok(()) => {}
        // A trial whose response was lost is handed out again until a card is kept.
        Err(refusal @ Error::AlreadySubscribed { .. }) => {
            let mut tried = unpaid::tried(billing, &customer).await?.into_iter();
            let begun = tried.find(|begun| begun.is_payable() && begun.is_to(plan, &prices));
            return begun.map(Pending::of).ok_or(refusal);
        }
        Err(error) => return Err(error),
    }
    if let Some(open) = unpaid::open_checkout(db, account).await? {
        open.close(billing, lease).await?;
        // The customer may have paid a moment ago.
        refuse_second(billing, &customer).await?;
    }
    // A subscription that an earlier call began, perhaps with a lost response, is handed out again.
    let mut others = unpaid::begun(billing, &customer).await?;
    let begun = others
        .iter()
        .position(|begun| begun.is_payable() && begun.is_to(plan, &prices));
    let begun = begun.map(|position| others.swap_remove(position));
    give_up(billing, &customer, &others).await?;
    let begun: Begun = match begun {
        Some(begun) => begun,
        None => {
            let trial_days = trial_days(db, billing, account, &customer, plan).await?;
            let request = subscription_request(plan, account, &customer, &prices, trial_days);
            let key = format!("subscribe-{account}-{}", Uuid::now_v7());
            lease.renew().await?;
            billing.stripe()?.write(&request, Write::Keyed(&key)).await?
        }
    };
    refresh::store(billing, lease, &customer).await?;
    info!(account.id = %account, plan = plan.id, stripe_subscription.id = begun.id, "began a subscription");
    Ok(Pending::of(begun))
}

impl Checkout {
    fn of(open: &OpenCheckout) -> Option<Self> {
        Some(Self {
            session_id: open.session_id.clone()?,
            url: open.url.clone()?,
            expires_at: open.expires_at,
        })
    }
}

impl Pending {
    fn of(begun: Begun) -> Self {
        Self {
            client_secret: begun.client_secret(),
            subscription_id: begun.id,
            status: begun.status,
        }
    }
}

/// Cancels what was begun and not paid. Fails with [`Error::AlreadySubscribed`] if one of them was paid meanwhile.
async fn give_up(billing: &Billing, customer: &str, begun: &[Begun]) -> Result<(), Error> {
    if begun.is_empty() {
        return Ok(());
    }
    let given_up = unpaid::give_up(billing, begun).await;
    refuse_second(billing, customer).await?;
    given_up
}

/// A customer who has a subscription changes it: a second one would be paid as well.
async fn refuse_second(billing: &Billing, customer: &str) -> Result<(), Error> {
    match Running::of_customer(billing, customer.to_owned()).await {
        Ok(running) => Err(Error::AlreadySubscribed {
            plan: running.plan().unwrap_or_default().to_owned(),
        }),
        Err(Error::NotSubscribed) => Ok(()),
        Err(error) => Err(error),
    }
}

/// An account has one trial, whatever the plan. A trial that no event has reported yet counts too.
async fn trial_days(
    db: &PgPool,
    billing: &Billing,
    account: AccountId,
    customer: &str,
    plan: &Plan,
) -> Result<Option<u32>, Error> {
    if plan.trial_days == 0 {
        return Ok(None);
    }
    let had_one = sqlx::query_scalar!(
        r#"select exists (select from subscriptions where account_id = $1 and trial_ends_at is not null) as "had_one!""#,
        account.0
    )
    .fetch_one(db)
    .await?;
    let had_one = had_one || Running::has_had_trial(billing, customer).await?;
    Ok(Some(plan.trial_days).filter(|_| !had_one))
}

fn subscription_request(
    plan: &Plan,
    account: AccountId,
    customer: &str,
    prices: &prices::PlanPrices,
    trial_days: Option<u32>,
) -> CreateSubscription {
    let item = |price: String| {
        let mut item = CreateSubscriptionItems::new();
        item.price = Some(price);
        item
    };
    let items: Vec<_> = prices.ids().into_iter().map(item).collect();
    let mut payment = CreateSubscriptionPaymentSettings::new();
    payment.save_default_payment_method =
        Some(CreateSubscriptionPaymentSettingsSaveDefaultPaymentMethod::OnSubscription);
    let request = CreateSubscription::new()
        .customer(customer)
        .items(items)
        .payment_behavior(CreateSubscriptionPaymentBehavior::DefaultIncomplete)
        .payment_settings(payment)
        .metadata(metadata(account, plan))
        .expand(unpaid::EXPANDED.map(str::to_owned).to_vec());
    let Some(days) = trial_days else {
        return request;
    };
    // A customer who gave no card by the end of the trial did not want the plan, and owes nothing.
    let mut end = CreateSubscriptionTrialSettingsEndBehavior::new();
    end.missing_payment_method = Some(CreateSubscriptionTrialSettingsEndBehaviorMissingPaymentMethod::Cancel);
    request
        .trial_period_days(days)
        .trial_settings(CreateSubscriptionTrialSettings::new(end))
}

/// The hosted page asks for a card, for a trial too.
fn session_request(
    plan: &Plan,
    account: AccountId,
    customer: &str,
    prices: &prices::PlanPrices,
    urls: ReturnUrls,
    expires_at: i64,
    trial_days: Option<u32>,
) -> CreateCheckoutSession {
    let line = |price: &str, quantity: Option<u64>| {
        let mut line = CreateCheckoutSessionLineItems::new();
        (line.price, line.quantity) = (Some(price.to_owned()), quantity);
        line
    };
    let lines = std::iter::once(line(&prices.plan, Some(1)))
        .chain(prices.metered.iter().map(|(_, price)| line(price, None)))
        .collect::<Vec<_>>();
    let mut subscription = CreateCheckoutSessionSubscriptionData::new();
    subscription.metadata = Some(metadata(account, plan));
    subscription.trial_period_days = trial_days;
    CreateCheckoutSession::new()
        .mode(stripe_checkout::CheckoutSessionMode::Subscription)
        .customer(customer)
        .client_reference_id(account.to_string())
        .metadata(metadata(account, plan))
        .line_items(lines)
        .subscription_data(subscription)
        .success_url(urls.success)
        .cancel_url(urls.cancel)
        .expires_at(expires_at)
}

fn metadata(account: AccountId, plan: &Plan) -> HashMap<String, String> {
    HashMap::from([
        (names::META_ACCOUNT.to_owned(), account.to_string()),
        (names::META_PLAN.to_owned(), plan.id.clone()),
    ])
}
