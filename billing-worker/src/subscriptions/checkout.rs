//! Starting a subscription by Stripe's hosted checkout.

use schema::{AccountId, Interval, Plan, period::instant};
use serde::Deserialize;
use stripe_checkout::{
    CheckoutSessionBillingAddressCollection,
    checkout_session::{
        CreateCheckoutSession, CreateCheckoutSessionAutomaticTax, CreateCheckoutSessionCustomerUpdate,
        CreateCheckoutSessionCustomerUpdateAddress, CreateCheckoutSessionCustomerUpdateName,
        CreateCheckoutSessionLineItems, CreateCheckoutSessionSubscriptionData, CreateCheckoutSessionTaxIdCollection,
    },
};
use time::OffsetDateTime;
use tracing::info;
use uuid::Uuid;

use super::{
    billing::Billing,
    checkout_settings::{BillingAddress, CheckoutSettings},
    eligibility::{cancel_unpaid, refuse_buyer, refuse_second, trial_days},
    lease::Lease,
    prices::{self, PlanPrices},
    unpaid::{self, OpenCheckout},
};
use crate::{
    accounts::customers,
    error::Error,
    stripe::{StripeError, Write, names},
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

#[derive(Deserialize)]
struct Session {
    id: String,
    url: Option<String>,
    expires_at: i64,
}

/// Opens a checkout, or returns the one that is open for this plan and these URLs. A new checkout cancels everything else that is
/// still unpaid: a checkout for another plan, with other URLs or at earlier prices, or a payment form.
pub async fn checkout(
    billing: &Billing,
    account: AccountId,
    plan: &str,
    interval: Interval,
    urls: ReturnUrls,
) -> Result<Checkout, Error> {
    let billing = &billing.of(account);
    let plan = prices::for_sale(billing, plan)?;
    prices::refuse_other(billing, plan, interval)?;
    let lease = billing.lease(account).await?;
    let checkout = open(billing, &lease, plan, interval, urls).await;
    lease.release().await;
    checkout
}

async fn open(
    billing: &Billing,
    lease: &Lease,
    plan: &Plan,
    interval: Interval,
    urls: ReturnUrls,
) -> Result<Checkout, Error> {
    let (db, account) = (&billing.admin.db, lease.account());
    refuse_buyer(billing, account).await?;
    let customer = customers::ensure(billing, account).await?;
    let prices = prices::of_plan(billing, plan, interval).await?;
    refuse_second(billing, &customer).await?;
    let again = match unpaid::open_checkout(db, account).await? {
        None => None,
        Some(open) => {
            let is_same = open.plan_id == plan.id
                && open.price_ids == prices.ids()
                && open.success_url.as_ref() == Some(&urls.success)
                && open.cancel_url.as_ref() == Some(&urls.cancel)
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
    cancel_unpaid(billing, &customer, &begun).await?;
    match again {
        Some(again) => Ok(again),
        None => create_session(billing, lease, plan, &customer, &prices, urls).await,
    }
}

/// The row is written before the call: its id is the idempotency key. If the creation fails or is interrupted, the row has no
/// session, and the next checkout ends it.
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
        "insert into checkout_sessions (id, account_id, plan_id, price_ids, expires_at, success_url, cancel_url)
         values ($1, $2, $3, $4, $5, $6, $7)",
        id,
        account.0,
        plan.id,
        &prices.ids(),
        instant(expires_at),
        urls.success,
        urls.cancel
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    lease.renew().await?;
    let request = session_request(plan, account, customer, prices, urls, expires_at, trial_days);
    let request = ask(request, &billing.settings.checkout, billing.stripe()?.automatic_tax());
    let session: Session = billing.stripe()?.write(&request, Write::Keyed(&id.to_string())).await?;
    let url = session
        .url
        .ok_or_else(|| StripeError::Unreadable(format!("checkout session {} has no url", session.id)))?;
    let checkout = Checkout {
        session_id: session.id,
        url,
        expires_at: instant(session.expires_at),
    };
    // If the lease was lost, the session is never shown, and expires.
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

impl Checkout {
    fn of(open: &OpenCheckout) -> Option<Self> {
        Some(Self {
            session_id: open.session_id.clone()?,
            url: open.url.clone()?,
            expires_at: open.expires_at,
        })
    }
}

/// The hosted page asks for a card, for a trial too.
fn session_request(
    plan: &Plan,
    account: AccountId,
    customer: &str,
    prices: &PlanPrices,
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
    subscription.metadata = Some(names::metadata(account, plan));
    subscription.trial_period_days = trial_days;
    CreateCheckoutSession::new()
        .mode(stripe_checkout::CheckoutSessionMode::Subscription)
        .customer(customer)
        .client_reference_id(account.to_string())
        .metadata(names::metadata(account, plan))
        .line_items(lines)
        .subscription_data(subscription)
        .success_url(urls.success)
        .cancel_url(urls.cancel)
        .expires_at(expires_at)
}

/// What the page asks for, apart from the payment.
fn ask(request: CreateCheckoutSession, settings: &CheckoutSettings, automatic_tax: bool) -> CreateCheckoutSession {
    let needs_address = settings.checkout_billing_address == BillingAddress::Required;
    let mut request = request;
    if settings.checkout_promotion_codes {
        request = request.allow_promotion_codes(true);
    }
    if automatic_tax {
        request = request.automatic_tax(CreateCheckoutSessionAutomaticTax::new(true));
    }
    if settings.checkout_tax_ids {
        request = request.tax_id_collection(CreateCheckoutSessionTaxIdCollection::new(true));
    }
    if needs_address {
        request = request.billing_address_collection(CheckoutSessionBillingAddressCollection::Required);
    }
    // Later invoices need what the customer entered, too.
    let mut update = CreateCheckoutSessionCustomerUpdate::new();
    if automatic_tax || needs_address {
        update.address = Some(CreateCheckoutSessionCustomerUpdateAddress::Auto);
    }
    if settings.checkout_tax_ids {
        update.name = Some(CreateCheckoutSessionCustomerUpdateName::Auto);
    }
    match update.address.is_some() || update.name.is_some() {
        true => request.customer_update(update),
        false => request,
    }
}
