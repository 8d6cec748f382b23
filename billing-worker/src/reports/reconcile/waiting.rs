//! Late usage of a line that is in no period and on no invoice yet: open money.

use std::fmt;

use serde::Serialize;
use time::OffsetDateTime;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// Negative: a credit.
    pub units: i64,
    /// In the smallest unit of the currency. `None`: not calculated yet.
    pub amount_cents: Option<i64>,
    pub currency: Option<String>,
    /// When the oldest of the units were found to be late.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

impl Waiting {
    pub fn is_older(&self, than_s: i64, now: i64) -> bool {
        now - self.since.unix_timestamp() > than_s
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} late units are on no invoice", self.units)?;
        match (self.amount_cents, &self.currency) {
            (Some(cents), Some(currency)) => write!(f, " ({cents} cents, {currency})"),
            _ => Ok(()),
        }
    }
}
