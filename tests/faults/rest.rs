//! Removes all faults and lets the system settle. Each wait has a condition and a deadline.

use std::{
    future::Future,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::time::sleep;

use super::{
    plan::Part,
    proxy::Weather,
    stores,
    strike::READY_WITHIN,
    system::{DEAD_AFTER, Reach},
};

/// Longer than a service's own shutdown deadline.
const STOP_WITHIN: Duration = Duration::from_secs(40);
/// Within this time, all acknowledged events are stored and all held units are returned.
const DRAINED_WITHIN: Duration = Duration::from_secs(120);
/// Within this time, all usage is reported to Stripe.
const REPORTED_WITHIN: Duration = Duration::from_secs(120);
/// Within this time, the units of a dead gateway are returned: twice the time until a gateway is presumed dead, plus the time
/// that its events need through the stream.
pub const SETTLED_WITHIN: Duration = Duration::from_secs(DEAD_AFTER.as_secs() * 2 + 8);
const LOOK: Duration = Duration::from_millis(200);

/// Removes every fault and waits until every service is ready.
pub async fn heal(reach: &Reach) -> Result<()> {
    reach.links.values().for_each(|link| link.set(Weather::Clear));
    reach.stripe.control().clear_faults();
    for (part, handle) in &reach.services {
        if let Part::Gateway(n) = part {
            tokio::fs::write(reach.clock_file(*n), "0").await?;
        }
        let end = Instant::now() + READY_WITHIN;
        loop {
            // The keeper may restart the service at the same time.
            let ready = handle.service.lock().await.wait_ready().await;
            match ready {
                Ok(()) => break,
                Err(why) if Instant::now() > end => {
                    return Err(why).context(format!("{part} is not ready after all faults were removed"));
                }
                Err(_) => sleep(LOOK).await,
            }
        }
    }
    Ok(())
}

/// Sends SIGTERM to all gateways at once. Each must exit cleanly, because no fault is active.
pub async fn stop_gateways(reach: &Reach) -> Result<()> {
    let gateways = reach
        .services
        .iter()
        .filter(|(part, _)| matches!(part, Part::Gateway(_)));
    let stops = gateways.map(async |(part, handle)| {
        handle.wanted.store(false, Ordering::Release);
        let status = handle.service.lock().await.stop(STOP_WITHIN).await;
        let status = status.with_context(|| format!("stopping {part}"))?;
        ensure!(
            status.success(),
            "{part} ended with {status} although no fault was active"
        );
        Ok(())
    });
    futures_util::future::try_join_all(stops).await.map(drop)
}

/// Every shard is stored to its end, every run is closed or settled, and the units of every duplicate are returned.
pub async fn drained(reach: &Reach) -> Result<()> {
    until(DRAINED_WITHIN, async || {
        let shards = stores::shards(reach).await?;
        let behind: Vec<_> = shards
            .iter()
            .filter(|(last, done, pending)| done < last || *pending)
            .collect();
        ensure!(
            behind.is_empty(),
            "shards are not stored to their end (last, done through, pending): {behind:?}"
        );
        let open: i64 =
            sqlx::query_scalar("select count(*) from gateway_runs where state not in ('closed', 'settled')")
                .fetch_one(&reach.database)
                .await?;
        ensure!(open == 0, "{open} runs are neither closed nor settled");
        let held: i64 = sqlx::query_scalar("select count(*) from quota_leases where state = 'live'")
            .fetch_one(&reach.database)
            .await?;
        ensure!(held == 0, "{held} leases are neither returned nor settled");
        let (paid, returned) = stores::duplicates_returned(reach).await?;
        ensure!(paid == returned, "{returned} of {paid} duplicates were given back");
        Ok(())
    })
    .await
}

/// All usage is reported to Stripe, and `reconcile` finds no difference.
pub async fn reported(reach: &Reach) -> Result<()> {
    until(REPORTED_WITHIN, async || {
        // The retry delay of a failed report and the claim of a dead worker are longer than a test, so pretend that they have
        // passed.
        for passed in [
            "update meter_reports set claimed_until = null where claimed_until > now() + interval '20 s'",
            "update meter_reports set next_attempt_at = now() - interval '1 minute'
             where state = 'open' and claimed_until is null and next_attempt_at > now()",
        ] {
            sqlx::query(passed).execute(&reach.database).await?;
        }
        let mut command = reach.env.command(&["reconcile", "--period", "all", "--json"]);
        command
            .env("CLICKHOUSE_URL", &reach.clickhouse_url)
            .env("CLICKHOUSE_DATABASE", "faults");
        let output = tokio::time::timeout(Duration::from_secs(30), command.output())
            .await
            .context("`reconcile` takes too long")??;
        let reconciliation: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`reconcile`: {}", String::from_utf8_lossy(&output.stderr)))?;
        let totals = &reconciliation["totals"];
        ensure!(
            output.status.success()
                && totals["pending"] == 0
                && totals["differing"] == 0
                && totals["differing_periods"] == 0,
            "`reconcile` exits with {}: {totals}",
            output.status
        );
        let violations = reach.stripe.control().violations();
        ensure!(
            violations.is_empty(),
            "invalid calls to the fake Stripe: {violations:?}"
        );
        Ok(())
    })
    .await
}

/// Polls until the condition holds.
async fn until<F: Future<Output = Result<()>>>(within: Duration, look: impl Fn() -> F) -> Result<()> {
    let end = Instant::now() + within;
    loop {
        match look().await {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() > end => bail!("not within {within:?}: {why:#}"),
            Err(_) => sleep(LOOK).await,
        }
    }
}
