//! What an account pays for its plan, as each answer shows it.

use schema::{AccountId, CurrentPlan, Interval};
use serde::Serialize;
use sqlx::PgPool;
use time::OffsetDateTime;

use super::currency;
use crate::error::Error;

#[derive(Clone, Debug, Serialize)]
pub struct Paying {
    /// The version of the plan that the account subscribed to. `None`: it follows the catalogue, because nobody pays in Stripe, or
    /// this service did not make the price.
    pub plan_version: Option<i32>,
    /// Of this version, for the interval.
    pub price_cents: Option<i64>,
    /// What the account pays in, or would pay in by default. Of all amounts and prices.
    pub currency: String,
    /// How often it is paid for: `month`, `year`, or `other`. `None`: there is no subscription in Stripe.
    pub interval: Option<&'static str>,
    /// What the last invoice of the plan pays for. Limits are for the period, which is a month of it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub paid_period_start: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub paid_period_end: Option<OffsetDateTime>,
}

impl Paying {
    pub async fn read(db: &PgPool, account: AccountId, current_plan: &CurrentPlan) -> Result<Self, Error> {
        let paid = sqlx::query!(
            r#"select interval_months, coalesce(paid_period_start, period_start) as "start!",
                   coalesce(paid_period_end, period_end) as "end!"
               from subscriptions where account_id = $1 and is_current and stripe_subscription_id is not null"#,
            account.0
        )
        .fetch_optional(db)
        .await?;
        let interval = paid.as_ref().map(|paid| Interval::from_months(paid.interval_months));
        let version = current_plan.version.as_ref();
        let price = |interval| version?.terms.price(interval, current_plan.currency?);
        Ok(Self {
            plan_version: version.map(|version| version.number),
            price_cents: interval.flatten().and_then(price),
            currency: currency::of_account(db, account).await?,
            // No plan is sold for another interval.
            interval: interval.map(|interval| interval.map_or("other", Interval::as_str)),
            paid_period_start: paid.as_ref().map(|paid| paid.start),
            paid_period_end: paid.as_ref().map(|paid| paid.end),
        })
    }
}
