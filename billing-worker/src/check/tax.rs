//! Stripe Tax, if `AUTOMATIC_TAX` is on.

use serde::Deserialize;
use serde_json::json;

use super::row::Row;
use crate::stripe::{Raw, Stripe, StripeError};

const DASHBOARD: &str = "https://dashboard.stripe.com/settings/tax";

/// <https://docs.stripe.com/api/tax/settings/object>
#[derive(Deserialize)]
struct Settings {
    /// `active` or `pending`.
    status: String,
    status_details: Details,
    defaults: Defaults,
}

#[derive(Deserialize)]
struct Details {
    pending: Option<Pending>,
}

#[derive(Deserialize)]
struct Pending {
    missing_fields: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Defaults {
    tax_behavior: Option<String>,
}

pub(super) async fn look(stripe: &Stripe) -> Result<Option<Row>, StripeError> {
    if !stripe.automatic_tax() {
        return Ok(None);
    }
    match stripe.read::<Settings>(&Raw::get("/tax/settings", json!({}))).await {
        Ok(settings) => Ok(Some(rule(&settings))),
        Err(StripeError::Unauthorized(_)) => Ok(Some(Row::error(
            "the key has no permission to read Tax Settings, and AUTOMATIC_TAX is on",
            "give it the permission in Stripe's dashboard: Tax Settings, read",
        ))),
        Err(error) => Err(error),
    }
}

fn rule(settings: &Settings) -> Row {
    if settings.status != "active" {
        let missing = settings.status_details.pending.as_ref();
        let missing = missing
            .and_then(|pending| pending.missing_fields.as_deref())
            .unwrap_or_default();
        let lacks = match missing.is_empty() {
            true => String::new(),
            false => format!(": it lacks {}", missing.join(", ")),
        };
        return Row::error(
            format!(
                "AUTOMATIC_TAX is on, and Stripe Tax is not set up ({}{lacks})",
                settings.status
            ),
            format!("complete it at {DASHBOARD}, or unset AUTOMATIC_TAX: until then no checkout opens"),
        );
    }
    match settings.defaults.tax_behavior {
        Some(_) => Row::ok("Stripe Tax is set up"),
        None => Row::error(
            "AUTOMATIC_TAX is on, and Stripe Tax has no default tax behavior for prices",
            format!("choose at {DASHBOARD} whether prices include tax"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{super::row::Level, *};

    #[test]
    fn tax_needs_settings_that_are_active_and_a_behavior() {
        let of = |status: &str, pending: Value, behavior: Option<&str>| -> Row {
            let settings = json!({ "status": status, "status_details": { "pending": pending }, "defaults": { "tax_behavior": behavior } });
            rule(&serde_json::from_value(settings).unwrap())
        };
        assert_eq!(of("active", Value::Null, Some("exclusive")).level, Level::Ok);
        let pending = of("pending", json!({ "missing_fields": ["head_office"] }), None);
        assert!(
            pending.level == Level::Error && pending.what.contains("lacks head_office"),
            "{pending:?}"
        );
        assert_eq!(
            of("pending", json!({ "missing_fields": null }), None).level,
            Level::Error
        );
        let undecided = of("active", Value::Null, None);
        assert!(undecided.level == Level::Error && undecided.what.contains("tax behavior"));
    }
}
