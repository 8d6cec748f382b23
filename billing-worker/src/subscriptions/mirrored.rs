//! One subscription in Stripe as a row here. Pure.

use std::{collections::BTreeSet, sync::Arc};

use protocol::reports::period::BilledBy;
use schema::{
    Catalogue, Currency, Interval, Period, PlanVersion, SubscriptionId, prices::UsageBilling,
    subscription::SubscriptionStatus,
};
use uuid::Uuid;

use super::{fetched::Fetched, month, owed, versions::Versions};
use crate::stripe::{
    catalogue::Rate,
    names,
    object::{
        Item, Schedule, Subscription,
        schedule::{Phase, PriceOrId},
        subscription::Price,
    },
};

/// A subscription as a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrored {
    pub id: SubscriptionId,
    pub stripe_id: String,
    pub plan: String,
    /// The version of the plan; `None`: this service did not make the price.
    pub version: Option<Arc<PlanVersion>>,
    pub status: SubscriptionStatus,
    /// What limits are for: the paid period, or a month of it.
    pub period: Period,
    /// What the last invoice of the plan pays for.
    pub paid: Period,
    /// How many months that is. 0: no number of months.
    pub interval_months: i32,
    /// Of the plan's price. `None`: no plan has such a currency.
    pub currency: Option<Currency>,
    pub anchor: i64,
    pub ends_at: Option<i64>,
    pub then_plan: Option<String>,
    pub then_version: Option<Arc<PlanVersion>>,
    /// All prices of its schedule. They must stay active.
    pub then_price_ids: Vec<String>,
    pub grace_until: Option<i64>,
    /// The invoice that is owed for longest, because of which there is a grace period.
    pub owed_invoice: Option<String>,
    /// Its invoices are not collected.
    pub is_paused: bool,
    pub cancel_at_period_end: bool,
    pub trial_ends_at: Option<i64>,
    pub schedule_id: Option<String>,
    pub ended_at: Option<i64>,
    pub items: Vec<MirroredItem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirroredItem {
    pub id: String,
    pub price_id: String,
    /// `None`: the plan's own price.
    pub usage_type: Option<String>,
    /// The plan that the price belongs to.
    pub plan: Option<String>,
    /// Of a metered price: the slot of its meter, and what a unit costs.
    pub meter_slot: i16,
    pub rate: Option<Rate>,
    pub created: Option<i64>,
    pub period: Period,
}

impl MirroredItem {
    /// The slot of its meter; `None`: its price is not metered.
    pub fn metered_slot(&self) -> Option<i16> {
        self.usage_type.as_ref().map(|_| self.meter_slot)
    }
}

/// Our id of a subscription in Stripe. Usage events are stamped with it, so every reader derives the same one.
pub fn subscription_id(stripe_id: &str) -> SubscriptionId {
    SubscriptionId(Uuid::new_v5(
        &Uuid::NAMESPACE_URL,
        format!("stripe:{stripe_id}").as_bytes(),
    ))
}

impl Mirrored {
    /// Whether it can decide what its account may do.
    pub fn is_live(&self) -> bool {
        self.status.is_live()
    }

    /// Only a subscription that is paid monthly has metered prices.
    pub fn billed_by(&self) -> BilledBy {
        match self.interval_months {
            1 => BilledBy::Invoice,
            _ => BilledBy::Charge,
        }
    }

    /// When the usage of a slice can be charged: at its end, or at the end of the year.
    pub fn charged_at(&self, slice_end: i64) -> i64 {
        match self.version.as_ref().map(|version| version.terms.usage_billing) {
            Some(UsageBilling::YearEnd) => self.paid.end.max(slice_end),
            Some(UsageBilling::Monthly) | None => slice_end,
        }
    }

    /// What the billing worker charges for units, by usage type. Empty: it charges none. Nobody sold a plan for another interval.
    pub fn rates(&self) -> Vec<(String, Rate)> {
        let is_yearly = Interval::from_months(self.interval_months) == Some(Interval::Year);
        let (Some(version), Some(currency), true) = (&self.version, self.currency, is_yearly) else {
            return Vec::new();
        };
        let terms = &version.terms;
        let rate = |usage_type: &str| {
            let rate = Rate {
                currency: currency.to_string(),
                included: terms.usage.get(usage_type)?.limit,
                unit_price_micros: terms.unit_price_micros(usage_type, currency)?,
            };
            Some((usage_type.to_owned(), rate))
        };
        terms.billed().filter_map(rate).collect()
    }
}

pub(super) enum Unmirrored {
    NotOurs,
    Unreadable(String),
}

pub(super) fn mirrored(
    catalogue: &Catalogue,
    versions: &Versions,
    fetched: &Fetched,
    grace_s: i64,
    now: i64,
) -> Result<Mirrored, Unmirrored> {
    let of = &fetched.subscription;
    let unreadable = |why: String| Unmirrored::Unreadable(why);
    let plan_item = of.plan_item().ok_or(Unmirrored::NotOurs)?;
    let plan = plan_item.price.plan().ok_or(Unmirrored::NotOurs)?;
    if catalogue.plan(plan).is_none() {
        return Err(unreadable(format!("its plan `{plan}` is not in the catalogue")));
    }
    let status = SubscriptionStatus::from_stored(&of.status)
        .ok_or_else(|| unreadable(format!("its status `{}` is unknown", of.status)))?;
    let period = |start: i64, end: i64| match start < end {
        true => Ok(Period { start, end }),
        false => Err(unreadable(format!("its period from {start} to {end} is invalid"))),
    };
    let items = of.items.data.iter().map(|item| {
        Ok(MirroredItem {
            id: item.id.clone(),
            price_id: item.price.id.clone(),
            usage_type: item.price.usage_type().map(str::to_owned),
            plan: item.price.plan().map(str::to_owned),
            meter_slot: item.price.meter_slot(),
            created: item.created,
            rate: item
                .price
                .metadata
                .get(names::META_TERMS)
                .and_then(|terms| Rate::parse(terms)),
            period: period(item.current_period_start, item.current_period_end)?,
        })
    });
    let items = items.collect::<Result<Vec<_>, Unmirrored>>()?;
    let (ends_at, then) = end(of, fetched.schedule.as_ref(), plan_item, now);
    let owed = owed::longest(of, &fetched.unpaid);
    let paid = period(plan_item.current_period_start, plan_item.current_period_end)?;
    let interval_months = plan_item.price.interval_months();
    let is_trial = status == SubscriptionStatus::Trialing;
    let at = of.ended_at.map_or(now, |ended| now.min(ended - 1));
    Ok(Mirrored {
        id: subscription_id(&of.id),
        stripe_id: of.id.clone(),
        plan: plan.to_owned(),
        version: versions.of_price(&plan_item.price.id),
        status,
        period: month::slice(paid, of.billing_cycle_anchor, interval_months, is_trial, at),
        paid,
        interval_months,
        currency: plan_item.price.currency.parse().ok(),
        anchor: of.billing_cycle_anchor,
        ends_at,
        then_plan: then.and_then(Price::plan).map(str::to_owned),
        then_version: then.and_then(|price| versions.of_price(&price.id)),
        then_price_ids: scheduled_prices(fetched.schedule.as_ref()),
        grace_until: owed.map(|invoice| owed::since(invoice) + grace_s),
        owed_invoice: owed.map(|invoice| invoice.id.clone()),
        is_paused: of.pause_collection.is_some(),
        cancel_at_period_end: of.cancel_at_period_end,
        trial_ends_at: of.trial_end,
        schedule_id: fetched
            .schedule
            .as_ref()
            .filter(|schedule| schedule.is_active())
            .map(|schedule| schedule.id.clone()),
        ended_at: of.ended_at,
        items,
    })
}

/// Sorted.
fn scheduled_prices(schedule: Option<&Schedule>) -> Vec<String> {
    let phases = schedule.filter(|schedule| schedule.is_active()).into_iter();
    let phases = phases.flat_map(|schedule| &schedule.phases);
    let prices: BTreeSet<&str> = phases.flat_map(Phase::prices).map(PriceOrId::id).collect();
    prices.into_iter().map(str::to_owned).collect()
}

/// When it is due to end and the price of the plan that follows, if it is cancelled or scheduled to change.
fn end<'a>(
    of: &Subscription,
    schedule: Option<&'a Schedule>,
    item: &Item,
    now: i64,
) -> (Option<i64>, Option<&'a Price>) {
    if let Some(at) = of.ended_at.or(of.cancel_at) {
        return (Some(at), None);
    }
    let next = schedule
        .filter(|schedule| schedule.is_active())
        // Just after the end of a period, Stripe may still show it as the running one. Then the phase after it is next.
        .and_then(|schedule| schedule.phase_from(item.current_period_end.min(now + 1)))
        // A phase with the same version of the plan is not an end.
        .filter(|phase| !phase.prices().any(|price| price.id() == item.price.id));
    match next {
        Some(phase) => {
            let prices = phase.prices().filter_map(PriceOrId::price);
            let own = prices.filter(|price| price.plan().is_some());
            let own = own.min_by_key(|price| price.is_metered());
            (own.is_some().then_some(phase.start_date), own)
        }
        None => (None, None),
    }
}
