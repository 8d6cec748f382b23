//! Arms a spend cap: from then on no call passes it.
//!
//! 1. Every gateway says that it knows the cap, and that everything it admitted without a lease is recorded. A run that begins later
//!    reads its accounts first.
//! 2. Everything that was recorded is in ClickHouse ([`crate::stored`]).
//! 3. What was admitted without a lease is counted, and stored in the pools.
//!
//! Each step may be repeated. Several workers may arm the same cap.

use std::{collections::HashSet, time::Duration};

use anyhow::Context;
use futures_util::StreamExt;
use quota_store::{caps, writers};
use schema::{AccountId, RunId, announcement::Announcement, names, spend_cap::CapKnown};
use tokio::time::timeout;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::used;
use crate::{
    accounts::lock,
    administration::Administration,
    error::Error,
    stored::{self, WatermarkMetrics},
};

/// How long all gateways may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// How long the usage that was recorded before may take to be stored.
const STORED_WITHIN: Duration = Duration::from_secs(5);
/// How long the request that sets a cap may wait until it is armed.
const MOMENT: Duration = Duration::from_secs(5);
/// Caps of one step.
const CAPS_MAX: i64 = 50;
/// Usage that no lease paid for is counted again this often: usage of an earlier period may have been moved here.
const COUNTED_EVERY_S: f64 = 600.0;

/// Arms all caps that are not. Returns how many still wait.
pub async fn step(admin: &Administration, metrics: &WatermarkMetrics, now: i64) -> Result<i64, Error> {
    let due = sqlx::query!(
        r#"select account_id, revision from spend_caps
           where armed_at is null or counted_at < now() - make_interval(secs => $2)
           order by counted_at limit $1"#,
        CAPS_MAX,
        COUNTED_EVERY_S
    )
    .fetch_all(&admin.db)
    .await?;
    for cap in due {
        let account = AccountId(cap.account_id);
        match arm(admin, metrics, account, cap.revision, now).await {
            Ok(true) => {}
            Ok(false) => debug!(account.id = %account, "some gateways do not know a spend cap yet"),
            Err(failure) => warn!(account.id = %account, "a spend cap is not armed yet: {failure}"),
        }
    }
    let waiting = sqlx::query_scalar!(r#"select count(*) as "waiting!" from spend_caps where armed_at is null"#);
    Ok(waiting.fetch_one(&admin.db).await?)
}

/// Tries for a moment to arm the account's cap. If it does not succeed, the service tries again every second.
pub async fn soon(
    admin: &Administration,
    metrics: &WatermarkMetrics,
    account: AccountId,
    now: i64,
) -> Result<(), Error> {
    let arming = async {
        loop {
            let unarmed = sqlx::query_scalar!(
                "select revision from spend_caps where account_id = $1 and armed_at is null",
                account.0
            )
            .fetch_optional(&admin.db)
            .await?;
            let Some(revision) = unarmed else {
                return Ok(());
            };
            if arm(admin, metrics, account, revision, now).await? {
                return Ok(());
            }
        }
    };
    // The cap is set. What fails here is tried again.
    match timeout(MOMENT, arming).await {
        Ok(Err(failure @ Error::Database(_))) => Err(failure),
        Ok(Err(failure)) => {
            warn!(account.id = %account, "a spend cap is not armed yet: {failure}");
            Ok(())
        }
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}

/// `false`: some gateway does not know the cap yet, or the cap has changed.
async fn arm(
    admin: &Administration,
    metrics: &WatermarkMetrics,
    account: AccountId,
    revision: i64,
    now: i64,
) -> Result<bool, Error> {
    let gateways = writers::active_gateways(&admin.db).await?;
    if !gateways.is_empty() && !all_know(admin, account, revision, &gateways).await {
        return Ok(false);
    }
    // A gateway that came meanwhile was not asked.
    let later = writers::active_gateways(&admin.db).await?;
    if later.iter().any(|run| !gateways.contains(run)) {
        return Ok(false);
    }
    stored::wait(admin, metrics, account, STORED_WITHIN).await?;
    let used = used::read(admin, account, now).await?;
    let unleased = used::unleased(admin, account, &used).await?;
    let mut tx = admin.db.begin().await?;
    lock(&mut tx, account).await?;
    caps::lock(&mut tx, &[account]).await?;
    let armed = sqlx::query!(
        "update spend_caps set armed_at = coalesce(armed_at, now()), counted_at = now() where account_id = $1 and revision = $2",
        account.0,
        revision
    )
    .execute(&mut *tx)
    .await?;
    if armed.rows_affected() == 0 {
        return Ok(false);
    }
    caps::count(&mut tx, account, used.period, &unleased).await?;
    tx.commit().await?;
    info!(account.id = %account, revision, used_cents = used.cents(), "a spend cap is armed");
    Ok(true)
}

/// Whether each of these gateways knows the cap.
async fn all_know(admin: &Administration, account: AccountId, revision: i64, gateways: &[RunId]) -> bool {
    match timeout(ANSWERS_WITHIN, ask(admin, account, revision, gateways)).await {
        Ok(Ok(all)) => all,
        Ok(Err(failure)) => {
            warn!("cannot ask gateways whether they know a spend cap: {failure:#}");
            false
        }
        Err(_) => false,
    }
}

/// Ends when all have answered, or one of them does not know the cap.
async fn ask(admin: &Administration, account: AccountId, revision: i64, gateways: &[RunId]) -> anyhow::Result<bool> {
    /// So that a gateway is not asked again at once.
    const PAUSE: Duration = Duration::from_millis(50);
    let client = admin.announcer.connection().await?;
    let reply = names::caps_known(Uuid::new_v4());
    let mut answers = client.subscribe(reply.clone()).await.context("subscribing")?;
    let question = Announcement::SpendCapSet {
        account_id: account,
        revision,
    };
    let payload = serde_json::to_vec(&question)?;
    client
        .publish_with_reply(question.subject(), reply, payload.into())
        .await
        .context("asking")?;
    let mut awaited: HashSet<RunId> = gateways.iter().copied().collect();
    while !awaited.is_empty() {
        let answer = answers.next().await.context("the subscription ended")?;
        let known: CapKnown = serde_json::from_slice(&answer.payload).context("reading an answer")?;
        if !known.is_known {
            tokio::time::sleep(PAUSE).await;
            return Ok(false);
        }
        awaited.remove(&known.run_id);
    }
    Ok(true)
}
