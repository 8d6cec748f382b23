//! Parameters of subscriptions: trials, and when they are to be canceled.

use crate::failure::Failure;
use crate::form::Param;
use crate::objects::subscription::{Subscription, WithoutCard};

pub(crate) fn trial_end(params: &Param, now: i64) -> Result<Option<i64>, Failure> {
    let end = match (params.text("trial_end"), params.int("trial_period_days")) {
        (Some(_), Some(_)) => {
            return Err(Failure::invalid(
                "You may only specify one of these parameters: trial_end, trial_period_days.",
            ));
        }
        (None, None) | (Some("now"), None) => return Ok(None),
        (None, Some(days)) => now.saturating_add(days.saturating_mul(86_400)),
        (Some(_), None) => params.int("trial_end").unwrap_or(now),
    };
    if end < now || end > now + 730 * 86_400 {
        return Err(Failure::invalid("Invalid timestamp: must be within the next two years.").param("trial_end"));
    }
    Ok(Some(end))
}

pub(crate) fn without_card(params: &Param) -> Option<WithoutCard> {
    Some(
        match params.text("trial_settings.end_behavior.missing_payment_method")? {
            "cancel" => WithoutCard::Cancel,
            "pause" => WithoutCard::Pause,
            _ => WithoutCard::CreateInvoice,
        },
    )
}

pub(crate) fn charge_automatically(params: &Param) -> Result<(), Failure> {
    match params.text("collection_method") {
        Some("send_invoice") => Err(Failure::gap("collection_method=send_invoice")),
        _ => Ok(()),
    }
}

/// `cancel_at_period_end` and `cancel_at`.
pub(crate) fn cancel_times(subscription: &mut Subscription, params: &Param, now: i64) -> Result<(), Failure> {
    let at = match params.text("cancel_at") {
        None => None,
        Some("") => Some(None),
        Some("min_period_end") => Some(subscription.next_renewal()),
        Some("max_period_end" | "max_billed_until") => Some(subscription.last_period_end()),
        Some(_) => match params.int("cancel_at") {
            Some(at) if at > now => Some(Some(at)),
            _ => return Err(Failure::invalid("`cancel_at` must be a timestamp in the future.").param("cancel_at")),
        },
    };
    let at_period_end = params.flag("cancel_at_period_end");
    if at.flatten().is_some() && at_period_end == Some(true) {
        let message = "You may only specify one of these parameters: cancel_at, cancel_at_period_end.";
        return Err(Failure::invalid(message));
    }
    let at = match at_period_end {
        Some(true) => Some(subscription.last_period_end()),
        Some(false) if subscription.cancel_at_period_end && at.is_none() => Some(None),
        _ => at,
    };
    let Some(at) = at else { return Ok(()) };
    subscription.cancel_at = at;
    subscription.cancel_at_period_end = at_period_end == Some(true);
    subscription.canceled_at = at.map(|_| subscription.canceled_at.unwrap_or(now));
    subscription.cancellation.reason = at.map(|_| "cancellation_requested");
    Ok(())
}

/// Refuses parameters that Stripe does not accept together with `pending_if_incomplete`.
pub(crate) fn supported_by_pending(params: &Param) -> Result<(), Failure> {
    const SUPPORTED: [&str; 9] = [
        "expand",
        "items",
        "payment_behavior",
        "proration_behavior",
        "proration_date",
        "billing_cycle_anchor",
        "trial_end",
        "off_session",
        "add_invoice_items",
    ];
    match params.names().into_iter().find(|name| !SUPPORTED.contains(name)) {
        Some(other) => {
            let message = format!(
                "When using `payment_behavior=pending_if_incomplete`, `{other}` cannot be updated. Update it in another call."
            );
            Err(Failure::invalid(message).param(other))
        }
        None => Ok(()),
    }
}
