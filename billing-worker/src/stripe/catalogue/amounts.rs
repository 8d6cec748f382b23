//! Amounts in several currencies as the metadata of a price have them: the terms in US dollars, then the other amounts, such as
//! `usd-2900-month,eur-2700`.

use schema::{Currency, prices::ByCurrency};

/// The terms in US dollars, with the amounts in other currencies.
pub(super) fn short(in_dollars: String, amounts: &ByCurrency) -> String {
    let others = amounts.iter().filter(|(currency, _)| **currency != Currency::USD);
    others.fold(in_dollars, |text, (currency, amount)| {
        format!("{text},{currency}-{amount}")
    })
}

/// The first terms, and the amounts in other currencies. `None`: it is not such a text.
pub(super) fn parse(short: &str) -> Option<(&str, ByCurrency)> {
    let (first, others) = short.split_once(',').unwrap_or((short, ""));
    let amount = |other: &str| {
        let (currency, amount) = other.split_once('-')?;
        Some((currency.parse().ok()?, amount.parse().ok()?))
    };
    let others = others.split(',').filter(|other| !other.is_empty());
    Some((first, others.map(amount).collect::<Option<_>>()?))
}
