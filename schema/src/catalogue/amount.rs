//! Amounts as the catalogue file has them: a number is an amount in US dollars, a table has amounts by currency.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

use crate::prices::{ByCurrency, Currency};

/// Millionths or hundredths of the main unit, by currency. Never without `usd`, and each is at least 1.
#[derive(Debug)]
pub(super) struct Amount(pub ByCurrency);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AmountVisitor)
    }
}

struct AmountVisitor;

impl<'de> de::Visitor<'de> for AmountVisitor {
    type Value = Amount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a whole number (of US dollars' smaller unit) or a table by currency, such as { usd = 2900, eur = 2700 }",
        )
    }

    fn visit_i64<E: de::Error>(self, amount: i64) -> Result<Amount, E> {
        positive(Currency::USD, amount)?;
        Ok(Amount(ByCurrency::from([(Currency::USD, amount)])))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut table: A) -> Result<Amount, A::Error> {
        let mut amounts = ByCurrency::new();
        while let Some((currency, amount)) = table.next_entry()? {
            positive(currency, amount)?;
            amounts.insert(currency, amount);
        }
        if !amounts.contains_key(&Currency::USD) {
            return Err(de::Error::custom("`usd` is missing: a price by currency needs it"));
        }
        Ok(Amount(amounts))
    }
}

fn positive<E: de::Error>(currency: Currency, amount: i64) -> Result<(), E> {
    if amount > 0 {
        return Ok(());
    }
    Err(E::custom(format!(
        "the price in {currency} is {amount}: it must be more than 0"
    )))
}
