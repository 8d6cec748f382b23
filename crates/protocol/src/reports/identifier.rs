//! A report's identifier. It names one meter event permanently, whichever process sends it and however often.

use schema::AccountId;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

/// Stripe's maximum length.
const LENGTH_MAX: usize = 100;

/// Identifies a line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineId {
    pub account: AccountId,
    /// The first second of the period.
    pub start: i64,
    pub usage_type: String,
}

impl LineId {
    /// Builds the id from the columns of PostgreSQL's tables.
    pub fn of_row(account_id: Uuid, period_start: OffsetDateTime, usage_type: String) -> Self {
        Self {
            account: AccountId(account_id),
            start: period_start.unix_timestamp(),
            usage_type,
        }
    }
}

/// Returns the identifier of the `number`th report of a line. The number is needed because a correction may bring a counter
/// back to an earlier value, and a report from there is a different report.
pub fn identifier(customer: &str, line: &LineId, number: i32, from: i64, to: i64) -> String {
    let (usage_type, start) = (&line.usage_type, line.start);
    let whole = format!("{customer}.{usage_type}.{start}.{number}.{from}-{to}");
    if whole.len() <= LENGTH_MAX {
        return whole;
    }
    let hash = hex::encode(Sha256::digest(whole.as_bytes()));
    // Keep the readable end: 64 + 1 + at most 10 + 1 characters and the number stay below the maximum.
    format!("{hash}.{start}.{number}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(usage_type: &str, start: i64) -> LineId {
        LineId {
            account: AccountId::NIL,
            start,
            usage_type: usage_type.to_owned(),
        }
    }

    #[test]
    fn short_identifiers_are_readable() {
        let readable = identifier("cus_1", &line("api_call", 1_790_000_000), 2, 10, 15);
        assert_eq!(readable, "cus_1.api_call.1790000000.2.10-15");
    }

    proptest! {
        #[test]
        fn identifiers_fit_and_two_reports_never_share_one(
            usage_type in "[a-z_]{1,90}", start in 0i64..9_999_999_999, number in 1i32.., from: i64, to: i64,
        ) {
            let of = |number| identifier("cus_NffrFeUfNV2Hib", &line(&usage_type, start), number, from, to);
            prop_assert!(of(number).len() <= LENGTH_MAX);
            prop_assert_eq!(of(number), of(number));
            prop_assert_ne!(of(number), of(number - 1));
        }
    }
}
