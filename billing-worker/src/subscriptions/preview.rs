//! The cost of another plan, before a customer decides.

use schema::AccountId;
use serde::Serialize;
use stripe_billing::invoice::{
    CreatePreviewInvoice, CreatePreviewInvoiceSubscriptionDetails, CreatePreviewInvoiceSubscriptionDetailsItems,
    CreatePreviewInvoiceSubscriptionDetailsProrationBehavior, CreatePreviewInvoiceSubscriptionDetailsTrialEnd,
};
use time::OffsetDateTime;

use super::{
    change::{Beginning, ChangeWhen, begins_now, ends_trial},
    prices,
    running::Running,
    swap::swaps,
};
use crate::{
    error::Error,
    stripe::{Write, object::Invoice},
    subscriptions::billing::Billing,
};

/// What a change of plan costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Preview {
    pub plan: String,
    /// Due at once, in the currency's smallest unit: the new plan for the rest of the period, less the unused part of the old
    /// plan. 0: the change begins with the next period.
    pub amount_due_cents: i64,
    pub currency: String,
    #[serde(with = "time::serde::rfc3339")]
    pub effective_at: OffsetDateTime,
}

/// What changing to `plan` would cost; changes nothing.
pub async fn preview(billing: &Billing, account: AccountId, plan: &str, when: ChangeWhen) -> Result<Preview, Error> {
    let billing = &billing.of(account);
    let plan = prices::for_sale(billing, plan)?;
    let _slot = billing.slot(account).await?;
    let running = Running::find(&billing.admin.db, billing, account).await?;
    let now = billing.clock.now_s();
    if running.plan() == Some(plan.id.as_str()) {
        return Err(Error::SamePlan { plan: plan.id.clone() });
    }
    if !begins_now(billing, &running, plan, when)? {
        return Ok(Preview {
            plan: plan.id.clone(),
            amount_due_cents: 0,
            currency: running.currency().to_owned(),
            effective_at: schema::period::instant(running.period_end()),
        });
    }
    let prices = prices::of_plan(billing, plan).await?;
    let to = Beginning {
        plan: &plan.id,
        prices: &prices,
        ends_trial: ends_trial(&running, plan),
        counts_from: None,
    };
    let invoice = invoice(billing, &running, &to).await?;
    Ok(Preview {
        plan: plan.id.clone(),
        amount_due_cents: invoice.amount_due,
        currency: invoice.currency,
        effective_at: schema::period::instant(now),
    })
}

/// The invoice that a plan makes if it begins at once.
pub(super) async fn invoice(billing: &Billing, running: &Running, to: &Beginning<'_>) -> Result<Invoice, Error> {
    let mut details = CreatePreviewInvoiceSubscriptionDetails::new();
    details.items = Some(
        swaps(&running.subscription, to.prices)
            .into_iter()
            .map(|swap| {
                let mut item = CreatePreviewInvoiceSubscriptionDetailsItems::new();
                (item.id, item.price, item.quantity) = (swap.item, swap.price, swap.quantity);
                item.deleted = swap.deleted.then_some(true);
                item
            })
            .collect(),
    );
    details.trial_end = to
        .ends_trial
        .then_some(CreatePreviewInvoiceSubscriptionDetailsTrialEnd::Now);
    details.proration_date = to.counts_from;
    details.proration_behavior = Some(CreatePreviewInvoiceSubscriptionDetailsProrationBehavior::AlwaysInvoice);
    let request = CreatePreviewInvoice::new()
        .customer(running.customer.clone())
        .subscription(running.subscription.id.clone())
        .subscription_details(details);
    Ok(billing.stripe()?.write(&request, Write::Settable).await?)
}
