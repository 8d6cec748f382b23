//! The settings of this service that Stripe depends on.

use super::row::Row;

/// The key itself is in no row.
pub(super) fn rules(key: &str, public_url: &str, webhook_secrets: usize) -> Vec<Row> {
    let is_live = key.get(3..).is_some_and(|rest| rest.starts_with("live_"));
    let mode = if is_live { "live mode: real money" } else { "test mode" };
    let key = match (key.starts_with("rk_"), is_live) {
        (true, _) => Row::ok(format!("STRIPE_SECRET_KEY is a restricted key of {mode}")),
        (false, false) => Row::ok(format!("STRIPE_SECRET_KEY is a secret key of {mode}")),
        (false, true) => Row::warning(
            format!("STRIPE_SECRET_KEY is a secret key of {mode}; it may do everything"),
            "make a restricted key with the permissions in docs/billing.md, \"The key\"",
        ),
    };
    let secrets = match webhook_secrets {
        0 => Row::error(
            "STRIPE_WEBHOOK_SECRETS is not set: no event of Stripe is accepted",
            "set it to the signing secret of the webhook endpoint (whsec_…)",
        ),
        count => Row::ok(format!("signing secrets in STRIPE_WEBHOOK_SECRETS: {count}")),
    };
    let mend = "set it to the https:// URL at which browsers and Stripe reach the public port";
    let url = match (public_url.starts_with("https://"), is_live) {
        (true, _) => Row::ok(format!("BILLING_PUBLIC_URL is {public_url}")),
        (false, true) => Row::error(
            format!("BILLING_PUBLIC_URL is {public_url}, which is not encrypted"),
            mend,
        ),
        (false, false) => Row::warning(
            format!("BILLING_PUBLIC_URL is {public_url}, which is not encrypted"),
            mend,
        ),
    };
    vec![key, secrets, url]
}

#[cfg(test)]
mod tests {
    use super::{super::row::Level, *};

    #[test]
    fn real_money_needs_encryption_and_should_have_a_restricted_key() {
        use Level::{Error, Ok, Warning};
        let (here, there) = ("http://127.0.0.1:8081", "https://billing.example.com");
        for (key, url, secrets, expected) in [
            ("rk_live_hunter2", there, 1, [Ok, Ok, Ok]),
            ("sk_live_hunter2", there, 2, [Warning, Ok, Ok]),
            ("sk_live_hunter2", here, 1, [Warning, Ok, Error]),
            ("sk_test_hunter2", here, 0, [Ok, Error, Warning]),
            ("rk_test_hunter2", there, 0, [Ok, Error, Ok]),
        ] {
            let rows = rules(key, url, secrets);
            let levels: Vec<_> = rows.iter().map(|row| row.level).collect();
            assert_eq!(levels, expected, "{key} {url} {secrets}");
            assert!(rows.iter().all(|row| !row.what.contains("hunter2")));
        }
    }
}
