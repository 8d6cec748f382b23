//! The amounts of a new price: an amount for each unit or tiers, in its own currency and in `currency_options`.

use std::collections::BTreeMap;

use crate::failure::Failure;
use crate::form::Param;
use crate::money::Decimal;
use crate::objects::pricing::{Mode, Pricing, Tier};

/// How tiers are charged. None: the price has none.
pub(crate) fn mode(params: &Param) -> Result<Option<Mode>, Failure> {
    let mode = match params.text("tiers_mode") {
        Some("graduated") => Some(Mode::Graduated),
        Some(_) => Some(Mode::Volume),
        None => None,
    };
    let (scheme, has_tiers) = (
        params.text("billing_scheme") == Some("tiered"),
        !params.list("tiers").is_empty(),
    );
    if scheme != mode.is_some() || scheme != has_tiers {
        let message = "`tiers`, `tiers_mode` and `billing_scheme=tiered` must be specified together.";
        return Err(Failure::invalid(message).param("tiers"));
    }
    Ok(mode)
}

/// The amounts of one currency.
pub(crate) fn pricing(params: &Param) -> Result<Pricing, Failure> {
    let (amount, tiers) = (decimal(params, "unit_amount")?, tiers(params)?);
    if amount.is_some() != tiers.is_empty() {
        let message =
            "You must specify either `unit_amount` or `unit_amount_decimal`, or `tiers` with `billing_scheme=tiered`.";
        return Err(Failure::invalid(message));
    }
    Ok(Pricing { amount, tiers })
}

/// `currency_options`: the same tiers, or an amount, in other currencies. `own`: the amounts in the price's own currency.
pub(crate) fn options(params: &Param, currency: &str, own: &Pricing) -> Result<BTreeMap<String, Pricing>, Failure> {
    let mut options = BTreeMap::new();
    let Some(given) = params.get("currency_options") else {
        return Ok(options);
    };
    for name in given.names() {
        let here = format!("currency_options[{name}]");
        let option = given.get(name).cloned().unwrap_or_default();
        for other in ["custom_unit_amount", "tax_behavior"] {
            if option.has(other) {
                return Err(Failure::gap(&format!("{here}[{other}]")));
            }
        }
        // Stripe's own sentences for these refusals are not documented.
        if name == currency {
            let message = format!("`currency_options` must not contain the price's own currency, `{currency}`.");
            return Err(Failure::invalid(message).param(here));
        }
        let pricing = pricing(&option).map_err(|failure| failure.param(here.clone()))?;
        if !pricing.has_tiers_of(own) {
            let message = "The tiers of a currency option must end at the same units as those of the price.";
            return Err(Failure::invalid(message).param(here));
        }
        options.insert(name.to_owned(), pricing);
    }
    Ok(options)
}

fn tiers(params: &Param) -> Result<Vec<Tier>, Failure> {
    let given = params.list("tiers");
    let (mut tiers, mut from) = (Vec::new(), 0);
    for (n, tier) in given.iter().enumerate() {
        let up_to = tier.int("up_to"); // the schema lets only integers and "inf" pass
        if up_to.is_none() != (n + 1 == given.len()) {
            return Err(Failure::invalid("The last tier, and no other, must have `up_to=inf`.").param("tiers"));
        }
        if up_to.is_some_and(|up_to| up_to <= from) {
            return Err(Failure::invalid("Tiers must be in order of `up_to`.").param("tiers"));
        }
        from = up_to.unwrap_or(from);
        let (unit, flat) = (decimal(tier, "unit_amount")?, decimal(tier, "flat_amount")?);
        if unit.is_none() && flat.is_none() {
            return Err(Failure::invalid("A tier needs a `unit_amount` or a `flat_amount`.").param("tiers"));
        }
        tiers.push(Tier { up_to, unit, flat });
    }
    Ok(tiers)
}

/// `<name>` or `<name>_decimal`.
fn decimal(params: &Param, name: &str) -> Result<Option<Decimal>, Failure> {
    let decimal_name = format!("{name}_decimal");
    let value = match (params.int(name), params.text(&decimal_name)) {
        (None, None) => return Ok(None),
        (Some(cents), None) => Some(Decimal::cents(cents)),
        (None, Some(text)) => Decimal::parse(text),
        (Some(_), Some(_)) => None,
    };
    let value = value.filter(|value| *value >= Decimal::cents(0));
    value
        .map(Some)
        .ok_or_else(|| Failure::invalid(format!("Invalid {name}")).param(name))
}
