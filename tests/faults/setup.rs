//! Creates the test population before any fault happens.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use devstack::{admin::Customer, http::Http};
use schema::{Catalogue, Mode, Period, clock, period::instant};
use serde_json::json;

use super::{
    cast::{Cast, CastKey, Member, PLANS, ROLES, Role, USAGE_TYPES},
    limits::Limits,
    system::Reach,
};

/// Low enough that these accounts are near their limits within seconds.
const NEAR: [i64; 3] = [300, 60, 150];
const FAR: i64 = 1_000_000_000;
const SUBSCRIBED_WITHIN: Duration = Duration::from_secs(30);

/// Creates the accounts, keys and initial limits. Periods end within `length`, the length of the run.
pub async fn make(system: &Reach, length: Duration) -> Result<(Cast, Limits)> {
    let (mut members, mut keys, mut limits) = (Vec::new(), Vec::new(), Limits::default());
    let roles = ROLES
        .iter()
        .flat_map(|(role, count)| (0..*count).map(move |n| (*role, n)));
    for (role, n) in roles {
        let plan = match role {
            Role::Near | Role::RollsOver => "pro",
            Role::Far => "enterprise",
            Role::Paying | Role::Changes => "free",
        };
        let name = format!("{role:?}{n}").to_lowercase();
        let customer = system.admins[0].customer(&name, plan).await?;
        let account = members.len();
        let overrides = match role {
            Role::Near | Role::RollsOver => NEAR,
            Role::Far => [FAR; 3],
            Role::Paying | Role::Changes => [0; 3],
        };
        let mut of_stripe = None;
        for (usage_type, limit) in overrides.iter().enumerate() {
            if *limit > 0 {
                system.admins[0]
                    .set_limit(customer.account_id, USAGE_TYPES[usage_type], *limit)
                    .await?;
                limits.begin(account, usage_type, *limit);
            }
        }
        match role {
            Role::Paying => {
                of_stripe = Some(subscribe(system, &customer).await?);
                of_plan(&mut limits, account, "flex");
            }
            Role::Changes => of_plan(&mut limits, account, "free"),
            Role::RollsOver => {
                // The periods end one by one in the middle of the run.
                let share = f64::from(u32::try_from(n + 1).unwrap_or(1)) / 4.0;
                end_period_in(system, &customer, length.mul_f64(share)).await?;
            }
            Role::Near | Role::Far => {}
        }
        members.push(Member {
            id: customer.account_id,
            role,
            customer: of_stripe,
        });
        keys.push(CastKey {
            id: customer.key_id,
            secret: customer.key,
            account,
        });
    }
    Ok((Cast::new(members, keys), limits))
}

/// The limits of a plan. A usage type that is billed past its limit, or that has no limit, is never refused.
pub fn plan_limits(plan: &str) -> Vec<(usize, i64)> {
    let catalogue = Catalogue::parse(PLANS).expect("every run parses this catalogue");
    let Some(plan) = catalogue.plan(plan) else {
        return Vec::new();
    };
    let of_type = |usage_type: &schema::UsageType| {
        let allowance = plan.allowance(*usage_type);
        (allowance.mode == Mode::Limited).then_some((usage_type.index(), allowance.limit))
    };
    catalogue.usage_types().iter().filter_map(of_type).collect()
}

fn of_plan(limits: &mut Limits, account: usize, plan: &str) {
    for (usage_type, limit) in plan_limits(plan) {
        limits.begin(account, usage_type, limit);
    }
}

/// Subscribes through Stripe's checkout, as a customer does. Returns the customer id in Stripe.
async fn subscribe(system: &Reach, customer: &Customer) -> Result<String> {
    let url = format!("{}/billing/create-checkout-session", system.billing_url);
    let opened = Http::default()
        .post(&url, &customer.key, &json!({ "tier": "flex" }))
        .await?
        .ok()?;
    let session = opened["session_id"].as_str().context("a checkout has an id")?;
    system.stripe.control().complete_checkout(session)?;
    let subscribed = async {
        loop {
            let found: Option<String> = sqlx::query_scalar(
                "select c.customer_id from subscriptions s join stripe_customers c using (account_id)
                 where s.account_id = $1 and s.is_current and s.plan_id = 'flex' and s.status = 'active'
                   and exists (select from billing_periods p where p.account_id = s.account_id)",
            )
            .bind(customer.account_id.0)
            .fetch_optional(&system.database)
            .await?;
            match found {
                Some(customer) => return anyhow::Ok(customer),
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    match tokio::time::timeout(SUBSCRIBED_WITHIN, subscribed).await {
        Ok(found) => found,
        Err(_) => bail!("{} is not subscribed within {SUBSCRIBED_WITHIN:?}", customer.account_id),
    }
}

/// Moves the billing anchor of the account so that its period ends after this time, by the real clock.
async fn end_period_in(system: &Reach, customer: &Customer, after: Duration) -> Result<()> {
    let now = clock::now_s();
    let end = now + i64::try_from(after.as_secs())?;
    // Any anchor a whole month before the end gives such a period. Days up to the 28th exist in every month.
    let anchor = (1..=31)
        .map(|days| end - days * 86_400)
        .find(|anchor| Period::anchored_month(*anchor, now).end == end)
        .context("no anchor gives a period that ends in the middle of the run")?;
    let period = Period::anchored_month(anchor, now);
    sqlx::query(
        "update subscriptions set period_start = $2, period_end = $3, billing_anchor = $4, updated_at = now()
         where account_id = $1 and is_current",
    )
    .bind(customer.account_id.0)
    .bind(instant(period.start))
    .bind(instant(period.end))
    .bind(instant(anchor))
    .execute(&system.database)
    .await
    .context("moving a billing period")?;
    Ok(())
}
