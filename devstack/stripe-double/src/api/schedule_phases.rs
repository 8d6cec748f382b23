//! The phases that a call gives to a subscription schedule.

use crate::billing::items::{self, check_currency};
use crate::calendar::{self, Interval};
use crate::failure::Failure;
use crate::form::Param;
use crate::objects::metadata::{Metadata, merge_metadata};
use crate::objects::prorate::Prorate;
use crate::objects::schedule::{Phase, PhaseItem, Schedule};
use crate::state::State;

/// The phases of a call. The first must be the current one, unchanged.
pub(crate) fn phases(state: &State, schedule: &Schedule, given: &[&Param]) -> Result<Vec<Phase>, Failure> {
    const UNDERSTOOD: [&str; 7] = [
        "items",
        "currency",
        "start_date",
        "end_date",
        "duration",
        "proration_behavior",
        "metadata",
    ];
    let present = schedule
        .phases
        .get(schedule.current)
        .ok_or_else(|| Failure::invalid("The schedule has no phase."))?;
    let (mut phases, mut from): (Vec<Phase>, i64) = (Vec::new(), present.start);
    for (n, params) in given.iter().enumerate() {
        let here = |name: &str| format!("phases[{n}][{name}]");
        if let Some(other) = params.names().into_iter().find(|name| !UNDERSTOOD.contains(name)) {
            return Err(Failure::gap(&here(other)));
        }
        match params.int("start_date") {
            None if n == 0 => {
                return Err(Failure::invalid("The first phase must have a `start_date`.").param(here("start_date")));
            }
            Some(start) if start != from && n == 0 => {
                let message = "You can not modify the start date of the current phase.";
                return Err(Failure::invalid(message).param(here("start_date")));
            }
            Some(start) if start != from => {
                let message = "A phase must start when the one before it ends.";
                return Err(Failure::invalid(message).param(here("start_date")));
            }
            _ => {}
        }
        if params
            .filled("currency")
            .is_some_and(|named| !named.eq_ignore_ascii_case(&present.currency))
        {
            // Stripe's own sentence for this refusal is not documented.
            let message = format!(
                "The currency of the subscription is `{}`, and cannot change.",
                present.currency
            );
            return Err(Failure::invalid(message).param(here("currency")));
        }
        let mut phase_items = Vec::new();
        for item in params.list("items") {
            if let Some(other) = item
                .names()
                .into_iter()
                .find(|name| !["price", "quantity", "metadata"].contains(name))
            {
                return Err(Failure::gap(&format!("phases[{n}][items][][{other}]")));
            }
            let price = items::recurring_price(state, item.text("price").unwrap_or_default());
            let price = price.map_err(|failure| failure.param(here("items")))?;
            check_currency(state, &price, &present.currency).map_err(|failure| failure.param(here("items")))?;
            let metered = state.prices.get(&price).is_some_and(|price| price.is_metered());
            let mut metadata = Metadata::new();
            merge_metadata(&mut metadata, item);
            let quantity = (!metered).then(|| item.int("quantity").unwrap_or(1));
            phase_items.push(PhaseItem {
                price,
                quantity,
                metadata,
            });
        }
        if phase_items.is_empty() {
            return Err(Failure::invalid("A phase must have at least one item.").param(here("items")));
        }
        let end = phase_end(state, params, &phase_items, from)?;
        if end <= from || (n == 0 && end < state.now()) {
            return Err(
                Failure::invalid("A phase must end after it starts, and the first not in the past.")
                    .param(here("end_date")),
            );
        }
        let prorate = Prorate::of(params.text("proration_behavior"));
        let mut metadata = Metadata::new();
        merge_metadata(&mut metadata, params);
        phases.push(Phase {
            start: from,
            end,
            items: phase_items,
            currency: present.currency.clone(),
            prorate,
            metadata,
        });
        from = end;
    }
    let prices = |phase: &Phase| {
        let mut prices: Vec<_> = phase
            .items
            .iter()
            .map(|item| (item.price.clone(), item.quantity))
            .collect();
        prices.sort_unstable();
        prices
    };
    if phases.first().map(prices) != Some(prices(present)) {
        return Err(Failure::gap("a change of the present phase's items"));
    }
    Ok(phases)
}

/// The end of a phase: a date, a duration, or one interval of the first item.
fn phase_end(state: &State, params: &Param, items: &[PhaseItem], from: i64) -> Result<i64, Failure> {
    if let Some(end) = params.int("end_date") {
        return Ok(end);
    }
    if params.text("end_date") == Some("now") {
        return Ok(state.now());
    }
    if let Some(interval) = params.text("duration.interval").and_then(Interval::parse) {
        return Ok(calendar::nth(
            from,
            interval,
            params.int("duration.interval_count").unwrap_or(1),
            1,
        ));
    }
    let first = items
        .first()
        .and_then(|item| state.prices.get(&item.price))
        .and_then(|price| price.recurring.as_ref());
    let first = first.ok_or_else(|| Failure::invalid("A phase needs an `end_date` or a `duration`."))?;
    Ok(calendar::nth(from, first.interval, first.count, 1))
}
