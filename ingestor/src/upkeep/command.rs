//! The sub-command `audit`: compares all records in the stream with their rows, and stores missing rows.

use std::time::Duration;

use anyhow::{Context, Result};
use schema::Manifest;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    audit::{Audit, Report},
    catch_up::catch_up,
    repeated,
};
use crate::stop::Stop;

/// How long an ingestor may take to store missing rows.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(3_600);

/// Audits all records that the stream holds, of all shards, and looks for repeated events in all rows.
pub async fn everything(audit: &Audit) -> Result<Report> {
    let mut all = Report::default();
    for shard in 0..audit.stream.shards {
        let audited = async {
            let report = audit.compare(shard, None).await?;
            match report.missing_from {
                None => Ok(report),
                Some(from) => Ok(Report {
                    left: repair(audit, shard, from).await?,
                    ..report
                }),
            }
        };
        let audited: Result<Report, Stop> = audited.await;
        all += audited.with_context(|| format!("auditing shard {shard}"))?;
    }
    all.repeated = repeated::rows(&audit.verifier, 0..=u16::MAX, 0).await?;
    Ok(all)
}

/// Takes the shard from its owner, stores what is missing from this record on, and gives the shard back. If an ingestor takes
/// it meanwhile, that one stores it. Returns how many rows are still wrong.
async fn repair(audit: &Audit, shard: u16, from: u64) -> Result<u64, Stop> {
    let me = Uuid::now_v7().to_string();
    let take = |manifest: Option<Manifest>| {
        let manifest = manifest?;
        Some(Manifest {
            owner: Some(me.clone()),
            behind_from: Some(manifest.behind_from.map_or(from, |before| before.min(from))),
            ..manifest
        })
    };
    let Some(held) = audit.manifests.change(shard, take).await? else {
        return Ok(0);
    };
    info!(shard, from, "storing missing rows");
    let given_back = match catch_up(audit, shard, &held).await {
        Ok((next, _)) => {
            let free = Manifest { owner: None, ..next };
            audit
                .manifests
                .write(shard, free, held.revision)
                .await
                .map_err(Stop::from)
        }
        Err(stop) => Err(stop),
    };
    match given_back {
        Ok(_) => {}
        Err(Stop::Lost) => {
            warn!(
                shard,
                "an ingestor took the shard: waiting until it has stored the missing rows"
            );
            let caught_up = async {
                while audit
                    .manifests
                    .read(shard)
                    .await?
                    .0
                    .is_some_and(|manifest| manifest.behind_from.is_some())
                {
                    sleep(Duration::from_millis(500)).await;
                }
                Ok::<_, anyhow::Error>(())
            };
            timeout(CAUGHT_UP_WITHIN, caught_up)
                .await
                .context("the ingestor has not stored the missing rows")??;
        }
        Err(stop) => {
            give_up(audit, shard, &me).await?;
            return Err(stop);
        }
    }
    Ok(audit.compare(shard, None).await?.left)
}

/// Leaves the shard to the ingestors, which store the missing rows.
async fn give_up(audit: &Audit, shard: u16, me: &str) -> Result<()> {
    let free = |manifest: Option<Manifest>| {
        let ours = manifest.filter(|manifest| manifest.owner.as_deref() == Some(me))?;
        Some(Manifest { owner: None, ..ours })
    };
    audit.manifests.change(shard, free).await?;
    Ok(())
}
