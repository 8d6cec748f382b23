//! Starting a subscription by the caller's own payment form.

use schema::{AccountId, Interval, Plan};
use stripe_billing::subscription::{
    CreateSubscription, CreateSubscriptionAutomaticTax, CreateSubscriptionItems, CreateSubscriptionPaymentBehavior,
    CreateSubscriptionPaymentSettings, CreateSubscriptionPaymentSettingsSaveDefaultPaymentMethod,
    CreateSubscriptionTrialSettings, CreateSubscriptionTrialSettingsEndBehavior,
    CreateSubscriptionTrialSettingsEndBehaviorMissingPaymentMethod,
};
use tracing::info;
use uuid::Uuid;

use super::{
    billing::Billing,
    eligibility::{cancel_unpaid, refuse_buyer, refuse_second, trial_days},
    lease::Lease,
    prices::{self, PlanPrices},
    refresh,
    unpaid::{self, Begun},
};
use crate::{
    accounts::customers,
    error::Error,
    stripe::{Write, names},
};

/// A subscription that waits for its first payment.
#[derive(Clone, Debug)]
pub struct Pending {
    pub subscription_id: String,
    pub status: String,
    /// The secret that a payment form confirms: for a payment, or in a trial for the card that pays later.
    pub client_secret: Option<String>,
}

/// Begins a subscription; the caller's own form confirms its first payment. If one already waits for its first payment,
/// returns that one. Cancels everything else that is still unpaid.
pub async fn subscribe(
    billing: &Billing,
    account: AccountId,
    plan: &str,
    interval: Interval,
) -> Result<Pending, Error> {
    let billing = &billing.of(account);
    let plan = prices::for_sale(billing, plan)?;
    prices::refuse_other(billing, plan, interval)?;
    let lease = billing.lease(account).await?;
    let pending = begin(billing, &lease, plan, interval).await;
    lease.release().await;
    pending
}

async fn begin(billing: &Billing, lease: &Lease, plan: &Plan, interval: Interval) -> Result<Pending, Error> {
    let (db, account) = (&billing.admin.db, lease.account());
    refuse_buyer(billing, account).await?;
    let customer = customers::ensure(billing, account).await?;
    let prices = prices::of_plan(billing, plan, interval).await?;
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
    cancel_unpaid(billing, &customer, &others).await?;
    let begun: Begun = match begun {
        Some(begun) => begun,
        None => {
            let trial_days = trial_days(db, billing, account, &customer, plan).await?;
            let stripe = billing.stripe()?;
            let request = subscription_request(plan, account, &customer, &prices, trial_days, stripe.automatic_tax());
            let key = format!("subscribe-{account}-{}", Uuid::now_v7());
            lease.renew().await?;
            stripe.write(&request, Write::Keyed(&key)).await?
        }
    };
    refresh::store(billing, lease, &customer).await?;
    info!(account.id = %account, plan = plan.id, stripe_subscription.id = begun.id, "began a subscription");
    Ok(Pending::of(begun))
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

fn subscription_request(
    plan: &Plan,
    account: AccountId,
    customer: &str,
    prices: &PlanPrices,
    trial_days: Option<u32>,
    automatic_tax: bool,
) -> CreateSubscription {
    let item = |price: &String, quantity: Option<u64>| {
        let mut item = CreateSubscriptionItems::new();
        (item.price, item.quantity) = (Some(price.clone()), quantity);
        item
    };
    let metered = prices.metered.iter().map(|(_, price)| item(price, None));
    let items: Vec<_> = std::iter::once(item(&prices.plan, Some(1))).chain(metered).collect();
    let mut payment = CreateSubscriptionPaymentSettings::new();
    payment.save_default_payment_method =
        Some(CreateSubscriptionPaymentSettingsSaveDefaultPaymentMethod::OnSubscription);
    let mut request = CreateSubscription::new()
        .customer(customer)
        .items(items)
        .payment_behavior(CreateSubscriptionPaymentBehavior::DefaultIncomplete)
        .payment_settings(payment)
        .metadata(names::metadata(account, plan))
        .expand(unpaid::EXPANDED.map(str::to_owned).to_vec());
    if automatic_tax {
        request = request.automatic_tax(CreateSubscriptionAutomaticTax::new(true));
    }
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
