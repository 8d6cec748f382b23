//! The beginning of a subscription: by Stripe's hosted checkout, or by a payment form of one's own.

use std::collections::HashMap;

use schema::{AccountId, Plan, period::instant};
use serde::Deserialize;
use stripe_billing::subscription::{
    CreateSubscription, CreateSubscriptionItems, CreateSubscriptionPaymentBehavior, CreateSubscriptionPaymentSettings,
    CreateSubscriptionPaymentSettingsSaveDefaultPaymentMethod, ListSubscription, ListSubscriptionStatus,
};
use stripe_checkout::checkout_session::{
    CreateCheckoutSession, CreateCheckoutSessionLineItems, CreateCheckoutSessionSubscriptionData, ExpireCheckoutSession,
};
use time::OffsetDateTime;
use tracing::info;
use uuid::Uuid;

use super::{prices, refresh, running::Running};
use crate::{
    accounts,
    billing::Billing,
    customers,
    error::Error,
    stripe::{
        StripeError, Write, names,
        object::{Invoice, List, subscription::Item},
    },
};

/// How long a checkout stays open: an hour, within Stripe's 30 minutes to 24 hours.
const CHECKOUT_S: i64 = 3_600;
/// One that is open for less than this is not worth handing out again.
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
    /// What a payment form confirms; `None`: nothing is to be paid (a trial).
    pub client_secret: Option<String>,
}

#[derive(Deserialize)]
struct Session {
    id: String,
    url: Option<String>,
    expires_at: i64,
}

#[derive(Deserialize)]
struct Begun {
    id: String,
    status: String,
    latest_invoice: Option<Invoice>,
    items: List<Item>,
    #[serde(default)]
    metadata: HashMap<String, String>,
}

/// Opens a checkout, or hands out the one that is open for this plan. One for another plan, or for prices that the plan had
/// before, is closed: two that are both paid would be two subscriptions.
pub async fn checkout(billing: &Billing, account: AccountId, plan: &str, urls: ReturnUrls) -> Result<Checkout, Error> {
    let plan = prices::for_sale(billing, plan)?;
    let customer = customers::ensure(billing, account).await?;
    let prices = prices::of_plan(billing, plan).await?;
    let _turn = billing.turn().await?;
    let now = billing.clock.now_s();
    let mut tx = billing.admin.db.begin().await?;
    accounts::lock_subscription(&mut tx, account).await?;
    refuse_second(&mut tx, billing, account).await?;
    let open = sqlx::query!(
        "select id, plan_id, price_ids, session_id, url, expires_at from checkout_sessions
         where account_id = $1 and ended_at is null",
        account.0
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(open) = open {
        let left_s = open.expires_at.unix_timestamp() - now;
        if let (Some(session_id), Some(url)) = (&open.session_id, &open.url)
            && open.plan_id == plan.id
            && open.price_ids == prices.ids()
            && left_s > CHECKOUT_LEFT_S
        {
            return Ok(Checkout {
                session_id: session_id.clone(),
                url: url.clone(),
                expires_at: open.expires_at,
            });
        }
        if let Some(session_id) = &open.session_id
            && left_s > 0
        {
            expire(billing, session_id).await?;
            // It may have been paid a moment ago.
            refuse_second(&mut tx, billing, account).await?;
        }
        end(&mut tx, open.id, now).await?;
    }
    let id = Uuid::now_v7();
    let expires_at = now + CHECKOUT_S;
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
    // Still under the lock: who comes at the same time is handed this session, not another.
    let request = session_request(plan, account, &customer, &prices, urls, expires_at);
    let session: Session = billing.stripe()?.write(&request, Write::Keyed(&id.to_string())).await?;
    let url = session
        .url
        .ok_or_else(|| StripeError::Unreadable(format!("checkout session {} has no url", session.id)))?;
    let checkout = Checkout {
        session_id: session.id,
        url,
        expires_at: instant(session.expires_at),
    };
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

/// Begins a subscription whose first payment a form of the caller's own confirms.
pub async fn subscribe(billing: &Billing, account: AccountId, plan: &str) -> Result<Pending, Error> {
    let plan = prices::for_sale(billing, plan)?;
    let customer = customers::ensure(billing, account).await?;
    let prices = prices::of_plan(billing, plan).await?;
    let _turn = billing.turn().await?;
    let mut tx = billing.admin.db.begin().await?;
    accounts::lock_subscription(&mut tx, account).await?;
    refuse_second(&mut tx, billing, account).await?;
    let item = |price: String| {
        let mut item = CreateSubscriptionItems::new();
        item.price = Some(price);
        item
    };
    let items: Vec<_> = prices.ids().into_iter().map(item).collect();
    let mut payment = CreateSubscriptionPaymentSettings::new();
    payment.save_default_payment_method =
        Some(CreateSubscriptionPaymentSettingsSaveDefaultPaymentMethod::OnSubscription);
    let mut request = CreateSubscription::new()
        .customer(customer.clone())
        .items(items)
        .payment_behavior(CreateSubscriptionPaymentBehavior::DefaultIncomplete)
        .payment_settings(payment)
        .metadata(metadata(account, plan))
        .expand(vec!["latest_invoice.confirmation_secret".to_owned()]);
    if plan.trial_days > 0 {
        request = request.trial_period_days(plan.trial_days);
    }
    // One that was begun before and waits for its payment, perhaps by a call whose answer was lost, is the one.
    let begun = match begun(billing, &customer, plan, &prices).await? {
        Some(begun) => begun,
        None => {
            let key = format!("subscribe-{account}-{}", Uuid::now_v7());
            billing.stripe()?.write(&request, Write::Keyed(&key)).await?
        }
    };
    let changed = refresh::store(&mut tx, billing, account, &customer).await?;
    tx.commit().await?;
    refresh::tell(billing, account, changed).await;
    info!(account.id = %account, plan = plan.id, stripe_subscription.id = begun.id, "began a subscription");
    Ok(Pending {
        subscription_id: begun.id,
        status: begun.status,
        client_secret: begun
            .latest_invoice
            .and_then(|invoice| invoice.confirmation_secret)
            .map(|secret| secret.client_secret),
    })
}

/// A subscription of the customer to the plan, at the prices that it has now, that waits for its first payment.
async fn begun(
    billing: &Billing,
    customer: &str,
    plan: &Plan,
    prices: &prices::PlanPrices,
) -> Result<Option<Begun>, Error> {
    let list = ListSubscription::new()
        .customer(customer)
        .status(ListSubscriptionStatus::Incomplete)
        .expand(vec!["data.latest_invoice.confirmation_secret".to_owned()])
        .limit(100);
    let found: List<Begun> = billing.stripe()?.read(&list).await?;
    let mut wanted = prices.ids();
    wanted.sort_unstable();
    let is_it = |begun: &Begun| {
        let mut of: Vec<_> = begun.items.data.iter().map(|item| item.price.id.clone()).collect();
        of.sort_unstable();
        begun.metadata.get(names::META_PLAN) == Some(&plan.id) && of == wanted
    };
    Ok(found.data.into_iter().find(is_it))
}

/// A session was completed or has expired: the next checkout is another.
pub async fn checkout_ended(billing: &Billing, session_id: &str) -> Result<(), Error> {
    sqlx::query!(
        "update checkout_sessions set ended_at = $2 where session_id = $1 and ended_at is null",
        session_id,
        instant(billing.clock.now_s())
    )
    .execute(&billing.admin.db)
    .await?;
    Ok(())
}

/// Whoever has a subscription changes it; a second one would be paid for as well.
async fn refuse_second(
    tx: &mut sqlx::Transaction<'_, sqlx::Postgres>,
    billing: &Billing,
    account: AccountId,
) -> Result<(), Error> {
    match Running::find_locked(tx, billing, account).await {
        Ok(running) => Err(Error::AlreadySubscribed {
            plan: running.plan().unwrap_or_default().to_owned(),
        }),
        Err(Error::NotSubscribed) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Closed already is closed, too.
async fn expire(billing: &Billing, session_id: &str) -> Result<(), Error> {
    match billing
        .stripe()?
        .write::<Session>(&ExpireCheckoutSession::new(session_id), Write::Settable)
        .await
    {
        Ok(_) | Err(StripeError::Refused(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn end(tx: &mut sqlx::Transaction<'_, sqlx::Postgres>, id: Uuid, now: i64) -> Result<(), Error> {
    sqlx::query!(
        "update checkout_sessions set ended_at = $2 where id = $1",
        id,
        instant(now)
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn session_request(
    plan: &Plan,
    account: AccountId,
    customer: &str,
    prices: &prices::PlanPrices,
    urls: ReturnUrls,
    expires_at: i64,
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
    subscription.trial_period_days = (plan.trial_days > 0).then_some(plan.trial_days);
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
