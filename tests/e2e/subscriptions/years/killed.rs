//! The worker stops at any moment while it charges.

use std::time::Duration;

use billing_worker::{reports, subscriptions::slices};
use devstack::stripe_double::{FaultKind, FaultRule};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::timeout;

use super::start;

#[tokio::test(flavor = "multi_thread")]
async fn over_thirteen_months_no_unit_is_charged_twice_although_the_worker_is_killed() {
    let rig = start("monthly").await;
    rig.control().set_strict(false);
    let ada = rig.paid_per_year("ada", "pro").await;
    let mut random = StdRng::seed_from_u64(13);
    for month in 1..=13 {
        rig.use_units(&ada, "api_call", 1_000 + month * 10).await;
        rig.use_units(&ada, "export", month).await;
        let end = rig.period(&ada).await.end;
        rig.turn_to(end + 3_700);
        rig.settle().await;
        rig.control().clear_faults();
        for (seed, path) in (0..).zip(["/v1/invoiceitems", "/v1/invoices"]) {
            let fault = FaultRule::new(FaultKind::Reset).path(path).after();
            rig.control().add_fault(fault.probability(0.3, seed + month as u64));
        }
        for _ in 0..8 {
            let step = async {
                slices::step(&rig.billing).await.ok();
                let reporter = rig.billing.reporter().unwrap();
                reports::step(reporter, rig.control().now()).await.ok();
            };
            // Dropped wherever it is.
            timeout(Duration::from_millis(random.random_range(1..150)), step)
                .await
                .ok();
            sqlx::query("update meter_carries set claimed_until = null")
                .execute(&rig.pool)
                .await
                .unwrap();
            rig.turn_by(1_000);
        }
        rig.control().clear_faults();
        for _ in 0..3 {
            rig.charge().await;
            rig.turn_by(3_700);
            rig.settle().await;
        }
    }
    // A call costs 1.5 cents, and an export 33.3333 cents.
    let expected: i64 = (1..=13)
        .map(|month| month * 15 + (month * 333_333 + 5_000) / 10_000)
        .sum();
    assert_eq!(rig.totals(&ada).iter().sum::<i64>(), 2 * 29_000 + expected);
    let [owed, invoiced, credited, pending] = rig.explained().await;
    assert_eq!(
        (owed, invoiced, credited, pending),
        (2 * 29_000 + expected, 2 * 29_000 + expected, 0, 0)
    );
}
