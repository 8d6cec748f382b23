//! Stores again what ClickHouse lacks of the records that a manifest has as stored.
//!
//! Only the owner of the shard does this, and it reads no new record meanwhile. So no two inserts of one record are in progress
//! together, as for a range that is stored for the first time.

use anyhow::Result;
use schema::{Manifest, names};
use tokio::time::sleep;

use super::{
    audit::{Audit, Report},
    behind::newest_again,
};
use crate::{
    manifests::Held,
    pipeline::fence::{Fence, TRUSTED_FOR},
    stop::Stop,
};

/// Compares the records from `behind_from` on with their rows, and stores what is missing. Returns the next manifest, without
/// the mark.
pub async fn catch_up(audit: &Audit, shard: u16, held: &Held) -> Result<(Manifest, Report), Stop> {
    let manifest = &held.manifest;
    let (generation, from) = (manifest.generation, manifest.behind_from.unwrap_or(1));
    // The last owner may have read its manifest just before it lost the shard.
    sleep(TRUSTED_FOR).await;
    let tokens = format!("{}/{generation}/{shard}/", names::USAGE_STREAM);
    audit.verifier.inserts_end(&tokens).await?;
    let mut fence = Fence::new(&audit.manifests, shard, held.revision, held.at);
    let reader = audit.reader(shard, generation, from.saturating_sub(1));
    let report = audit
        .records(reader, generation, shard, manifest.done_through, Some(&mut fence))
        .await?;
    if report.left > 0 {
        return Err(Stop::Alarm(format!(
            "{} stored rows are missing or doubled in ClickHouse, and could not be repaired (see the log)",
            report.left
        )));
    }
    let next = Manifest {
        behind_from: None,
        newest: newest_again(audit, shard, manifest).await?,
        ..manifest.clone()
    };
    Ok((next, report))
}
