//! An account's open checkout, and its subscriptions that wait for a payment form. At most one of them can be paid: two payments
//! would start two subscriptions, each with its own invoices.

use std::collections::HashMap;

use schema::{AccountId, Currency, Plan, period::instant};
use serde::Deserialize;
use sqlx::PgExecutor;
use stripe_billing::{
    invoice::{RetrieveInvoice, VoidInvoiceInvoice},
    subscription::{CancelSubscription, ListSubscription, ListSubscriptionStatus},
};
use stripe_checkout::checkout_session::{ExpireCheckoutSession, RetrieveCheckoutSession};
use time::OffsetDateTime;
use tracing::info;
use uuid::Uuid;

use super::{lease::Lease, prices::PlanPrices};
use crate::{
    error::Error,
    stripe::{
        StripeError, Write, names,
        object::{Invoice, List, Subscription, invoice::ConfirmationSecret, subscription::Item},
    },
    subscriptions::billing::Billing,
};

/// A checkout that was opened and has not ended, as far as this service knows.
pub struct OpenCheckout {
    pub id: Uuid,
    pub plan_id: String,
    pub price_ids: Vec<String>,
    pub currency: String,
    pub session_id: Option<String>,
    pub url: Option<String>,
    /// `None`: an earlier version opened it.
    pub success_url: Option<String>,
    pub cancel_url: Option<String>,
    pub expires_at: OffsetDateTime,
}

/// A subscription with the fields that its payment form needs.
#[derive(Deserialize)]
pub struct Begun {
    pub id: String,
    pub status: String,
    currency: String,
    latest_invoice: Option<Invoice>,
    /// For a trial: nothing is paid yet, and the card is kept for its end.
    pending_setup_intent: Option<ConfirmationSecret>,
    items: List<Item>,
    #[serde(default)]
    metadata: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Session {
    /// `open`, `complete` or `expired`.
    status: Option<String>,
}

/// The fields of [`Begun`] that Stripe has to expand.
pub const EXPANDED: [&str; 2] = ["latest_invoice.confirmation_secret", "pending_setup_intent"];

impl Begun {
    /// The secret that a payment form confirms.
    pub fn client_secret(&self) -> Option<String> {
        let invoice = self.latest_invoice.as_ref();
        let payment = invoice.and_then(|invoice| invoice.confirmation_secret.as_ref());
        let secret = payment.or(self.pending_setup_intent.as_ref())?;
        Some(secret.client_secret.clone())
    }

    /// Whether a form can still pay for it, or keep a card for it.
    pub fn is_payable(&self) -> bool {
        let invoice = self.latest_invoice.as_ref();
        self.pending_setup_intent.is_some() || invoice.is_some_and(|invoice| invoice.status.as_deref() == Some("open"))
    }

    /// Whether it is a subscription to the plan at the plan's current prices, in this currency.
    pub fn is_to(&self, plan: &Plan, prices: &PlanPrices, currency: Currency) -> bool {
        let sorted = |mut ids: Vec<String>| {
            ids.sort_unstable();
            ids
        };
        let of = self.items.data.iter().map(|item| item.price.id.clone()).collect();
        let is_of_plan = self.metadata.get(names::META_PLAN) == Some(&plan.id);
        is_of_plan && self.currency == currency.as_str() && sorted(of) == sorted(prices.ids())
    }

    fn is_ours(&self) -> bool {
        self.items.data.iter().any(|item| item.price.plan().is_some())
    }
}

/// The subscriptions of the customer that wait for their first payment.
pub async fn begun(billing: &Billing, customer: &str) -> Result<Vec<Begun>, Error> {
    list(billing, customer, ListSubscriptionStatus::Incomplete).await
}

/// The subscriptions of the customer that are on trial.
pub async fn tried(billing: &Billing, customer: &str) -> Result<Vec<Begun>, Error> {
    list(billing, customer, ListSubscriptionStatus::Trialing).await
}

async fn list(billing: &Billing, customer: &str, status: ListSubscriptionStatus) -> Result<Vec<Begun>, Error> {
    let list = ListSubscription::new()
        .customer(customer)
        .status(status)
        .expand(EXPANDED.map(|field| format!("data.{field}")).to_vec())
        .limit(100);
    let mut found: List<Begun> = billing.stripe()?.read(&list).await?;
    found.data.retain(Begun::is_ours);
    Ok(found.data)
}

/// Cancels these subscriptions. Fails if one was just paid or its payment is in progress. Then the caller looks again for a
/// running subscription.
pub async fn give_up(billing: &Billing, begun: &[Begun]) -> Result<(), Error> {
    let stripe = billing.stripe()?;
    for one in begun {
        // Void the invoice first, so that it cannot be paid. Otherwise it might be paid while the subscription is cancelled.
        if let Some(invoice) = &one.latest_invoice
            && !void(billing, &invoice.id).await?
        {
            return Err(Error::Conflict(format!(
                "the first payment of another subscription ({}) is in progress: try again when it is complete",
                one.id
            )));
        }
        let cancel = CancelSubscription::new(one.id.as_str())
            .invoice_now(false)
            .prorate(false);
        match stripe.write::<Subscription>(&cancel, Write::Settable).await {
            // It may have ended with its invoice.
            Ok(_) | Err(StripeError::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
        info!(
            stripe_subscription.id = one.id,
            "cancelled a subscription that was never paid"
        );
    }
    Ok(())
}

/// Voids an invoice. False: it is paid, or its payment is in progress.
async fn void(billing: &Billing, invoice: &str) -> Result<bool, Error> {
    let stripe = billing.stripe()?;
    let void = VoidInvoiceInvoice::new(invoice);
    let invoice: Invoice = match stripe.write(&void, Write::Settable).await {
        Ok(invoice) => invoice,
        // It may be void already.
        Err(StripeError::Refused(_)) => stripe.read(&RetrieveInvoice::new(invoice)).await?,
        Err(error) => return Err(error.into()),
    };
    Ok(invoice.status.as_deref() == Some("void"))
}

/// The account's open checkout.
pub async fn open_checkout(db: impl PgExecutor<'_>, account: AccountId) -> Result<Option<OpenCheckout>, Error> {
    let open = sqlx::query_as!(
        OpenCheckout,
        "select id, plan_id, price_ids, currency, session_id, url, success_url, cancel_url, expires_at from checkout_sessions
         where account_id = $1 and ended_at is null",
        account.0
    )
    .fetch_optional(db)
    .await?;
    Ok(open)
}

impl OpenCheckout {
    /// Whether the customer can still complete it, as Stripe says.
    pub async fn is_open(&self, billing: &Billing) -> Result<bool, Error> {
        let Some(session_id) = &self.session_id else {
            return Ok(false);
        };
        let retrieve = RetrieveCheckoutSession::new(session_id.as_str());
        match billing.stripe()?.read::<Session>(&retrieve).await {
            Ok(session) => Ok(session.status.as_deref() == Some("open")),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Closes it, in Stripe and here. It may already be closed.
    pub async fn close(&self, billing: &Billing, lease: &Lease) -> Result<(), Error> {
        if let Some(session_id) = &self.session_id {
            let expire = ExpireCheckoutSession::new(session_id.as_str());
            match billing.stripe()?.write::<Session>(&expire, Write::Settable).await {
                Ok(_) | Err(StripeError::Refused(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut tx = lease.begin().await?;
        sqlx::query!(
            "update checkout_sessions set ended_at = $2 where id = $1",
            self.id,
            instant(billing.clock.now_s())
        )
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }
}

/// A session was completed or has expired: the next checkout opens another.
pub async fn checkout_ended(db: impl PgExecutor<'_>, session_id: &str, now: i64) -> Result<(), Error> {
    sqlx::query!(
        "update checkout_sessions set ended_at = $2 where session_id = $1 and ended_at is null",
        session_id,
        instant(now)
    )
    .execute(db)
    .await?;
    Ok(())
}
