//! A period in which the usage prices change: each segment is reported to its own meters until the invoice of the period is final.

use std::time::Duration;

use billing_worker::{
    reports::{
        close,
        money::Source,
        reconcile::{self, LineState, Question, Which},
    },
    stripe::object::Invoice,
};
use schema::{Period, period::instant};
use serde_json::json;

use super::rig::{Account, DAY, HOUR, Rig, month};

/// The first month with an upgrade on the tenth day, and what each segment reported for exports.
struct Upgraded {
    rig: Rig,
    account: Account,
    pro: Period,
    enterprise: Period,
}

impl Upgraded {
    async fn start() -> Self {
        let rig = Rig::start().await;
        let (account, all) = (rig.account().await, month(0));
        let at = all.start + 10 * DAY;
        let pro = Period { end: at, ..all };
        let enterprise = Period { start: at, ..all };
        sqlx::query(
            "with pro as (
                 update billing_periods set period_end = $2, bills_at = period_end, plan_id = 'pro' where account_id = $1
                 returning account_id, period_start, bills_at, customer_id, stripe_subscription_id)
             insert into billing_periods (account_id, period_start, period_end, quota_start, meter_slot, plan_id, customer_id,
                 stripe_subscription_id)
             select account_id, $2, bills_at, period_start, 1, 'enterprise', customer_id, stripe_subscription_id from pro",
        )
        .bind(account.id.0)
        .bind(instant(at))
        .execute(&rig.db)
        .await
        .unwrap();
        rig.stripe.advance_to(at + HOUR);
        Self {
            rig,
            account,
            pro,
            enterprise,
        }
    }

    /// Units in the meters of the first two slots, at any time.
    fn reported(&self) -> [i64; 2] {
        ["trendit_export", "trendit2_export"].map(|meter| {
            self.rig
                .stripe
                .meter_total(&self.account.customer, meter, 0, month(2).end)
        })
    }

    async fn use_exports(&self, segment: Period, units: i64) {
        self.rig.use_units(&self.account, segment, "export", &[units]).await;
        self.rig.step().await;
    }

    /// Stripe finalizes the invoice of the first month.
    async fn finalize(&self) {
        let end = month(0).end;
        let invoice: Invoice = serde_json::from_value(json!({
            "id": "in_1", "status": "paid", "currency": "usd", "total": 0, "amount_due": 0, "created": end,
            "period_start": month(0).start, "period_end": end, "status_transitions": { "finalized_at": end + HOUR },
        }))
        .unwrap();
        let subscription = format!("sub_of_{}", self.account.customer);
        let closed = close::close(&self.rig.db, self.account.id, &subscription, &invoice);
        assert!(closed.await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_reported_to_the_meters_of_its_segment_whenever_it_arrives() {
    let upgraded = Upgraded::start().await;
    upgraded.use_exports(upgraded.pro, 10).await;
    upgraded.use_exports(upgraded.enterprise, 5).await;
    assert_eq!(upgraded.reported(), [10, 5]);
    // Admitted before the upgrade, stored long after it.
    upgraded.rig.stripe.advance_to(month(0).end + 60);
    upgraded.use_exports(upgraded.pro, 3).await;
    assert_eq!(upgraded.reported(), [13, 5]);

    let question = Question {
        which: Which::Previous,
        account: None,
        recount: true,
        source: Source::Copies,
        summaries: true,
    };
    let (reporter, now) = (&upgraded.rig.reporter, upgraded.rig.now());
    let found = reconcile::run(reporter, &question, Duration::ZERO, now).await.unwrap();
    let exports = found.rows.iter().filter(|row| row.usage_type == "export");
    let exports: Vec<_> = exports
        .map(|row| (row.numbers.stripe_units, row.state, row.period_end.unix_timestamp()))
        .collect();
    let ok = LineState::Ok;
    assert_eq!(
        exports,
        [(Some(13), ok, upgraded.pro.end), (Some(5), ok, upgraded.enterprise.end)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_invoice_closes_all_segments_and_late_usage_keeps_its_prices() {
    let upgraded = Upgraded::start().await;
    upgraded.use_exports(upgraded.pro, 10).await;
    let (rig, account) = (&upgraded.rig, &upgraded.account);
    rig.stripe.advance_to(month(0).end + 2 * HOUR);
    upgraded.finalize().await;
    let open: i64 = sqlx::query_scalar("select count(*) from billing_periods where final_at is null")
        .fetch_one(&rig.db)
        .await
        .unwrap();
    assert_eq!(open, 0);
    rig.add_period(std::slice::from_ref(account), month(1)).await;
    sqlx::query("update billing_periods set plan_id = 'enterprise', meter_slot = 1 where final_at is null")
        .execute(&rig.db)
        .await
        .unwrap();
    upgraded.use_exports(upgraded.pro, 3).await;
    upgraded.use_exports(upgraded.enterprise, 4).await;
    // Those of Enterprise are reported in its next period. Those of Pro wait for a charge.
    assert_eq!(upgraded.reported(), [10, 4]);
    let lines = rig.lines().await;
    let line = |period: Period| lines[&(account.id, period.start, "export".to_owned())];
    assert_eq!(
        [line(upgraded.pro), line(upgraded.enterprise), line(month(1))],
        [(0, 3, 0), (0, 4, 0), (4, 0, 0)]
    );
}
