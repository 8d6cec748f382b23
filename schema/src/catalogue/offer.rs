//! What a plan can be paid for, as the catalogue file says it.

use std::{collections::BTreeMap, ops::Range};

use toml::Spanned;

use super::{Catalogue, amount::Amount};
use crate::prices::{ByCurrency, Currency, Interval, UsageBilling};

/// The entries of the file.
pub(super) struct Entries {
    /// How a price was written in earlier releases: refused with what to write.
    pub price_cents: Option<Spanned<i64>>,
    pub prices: Option<Spanned<BTreeMap<Interval, Amount>>>,
    pub usage_billing: Option<Spanned<UsageBilling>>,
}

pub(super) struct Offer {
    /// Per month, in US cents.
    pub price_cents: i64,
    /// The other prices.
    pub prices: BTreeMap<Interval, ByCurrency>,
    pub usage_billing: UsageBilling,
    /// All prices of one plan have the same ones.
    currencies: Vec<Currency>,
}

impl Offer {
    /// `at`: the plan. The error has its place in the file.
    pub(super) fn of(plan: &str, at: Range<usize>, entries: Entries) -> Result<Self, (Range<usize>, String)> {
        let is_free = plan == Catalogue::FREE;
        if let Some(cents) = entries.price_cents {
            let problem = match (is_free, cents.get_ref()) {
                (true, _) => format!("plan `{plan}`: remove `price_cents`, because `{plan}` costs nothing"),
                (false, n) => {
                    format!("plan `{plan}`: instead of `price_cents = {n}` write `prices = {{ month = {n} }}`")
                }
            };
            return Err((cents.span(), problem));
        }
        let at = entries.prices.as_ref().map_or(at, Spanned::span);
        let prices = entries.prices.map(Spanned::into_inner).unwrap_or_default().into_iter();
        let mut prices: BTreeMap<_, _> = prices.map(|(interval, Amount(by))| (interval, by)).collect();
        if is_free && !prices.is_empty() {
            return Err((
                at,
                format!("plan `{plan}`: remove `prices`, because `{plan}` costs nothing"),
            ));
        }
        if !is_free && !prices.contains_key(&Interval::Month) {
            let problem = format!(
                "plan `{plan}`: `prices` needs a price per month, such as {{ month = 2900 }}; only the plan `{}` has no prices",
                Catalogue::FREE
            );
            return Err((at, problem));
        }
        let currencies = prices.values().next().into_iter();
        let currencies: Vec<_> = currencies.flat_map(|by| by.keys().copied()).collect();
        if prices.values().any(|by| !by.keys().eq(currencies.iter())) {
            let problem = format!("plan `{plan}`: the prices of all intervals must have the same currencies");
            return Err((at, problem));
        }
        let usage_billing = entries.usage_billing.as_ref();
        if let Some(without) = usage_billing.filter(|_| !prices.contains_key(&Interval::Year)) {
            let problem = format!("plan `{plan}`: `usage_billing` is only for a plan with a price per year");
            return Err((without.span(), problem));
        }
        let monthly = prices.get_mut(&Interval::Month);
        let price_cents = monthly.and_then(|by| by.remove(&Currency::USD)).unwrap_or(0);
        prices.retain(|_, by| !by.is_empty());
        Ok(Self {
            price_cents,
            prices,
            usage_billing: entries.usage_billing.map(Spanned::into_inner).unwrap_or_default(),
            currencies,
        })
    }

    /// Fails if the price of a unit has other currencies than the plan.
    pub(super) fn check_unit(&self, price: &ByCurrency) -> Result<(), String> {
        if price.keys().eq(self.currencies.iter()) {
            return Ok(());
        }
        let currencies: Vec<_> = self.currencies.iter().map(Currency::as_str).collect();
        Err(format!(
            "`unit_price_micros` must have the currencies of the plan's prices: {}",
            currencies.join(", ")
        ))
    }
}
