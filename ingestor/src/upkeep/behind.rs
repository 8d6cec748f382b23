//! Finds out whether ClickHouse lost rows that a manifest has as stored: a table was dropped, created anew, or restored from an
//! older backup. [`protocol::behind`] decides.

use anyhow::Result;
use protocol::behind;
use schema::{
    Manifest, clock,
    manifest::{LostRange, StoredRange},
};

use super::audit::Audit;
use crate::{
    manifests::Manifests,
    pipeline::verify::{Span, Verifier},
    stop::Stop,
};

const DAY_MS: i64 = 24 * 3_600 * 1_000;

/// Whether ClickHouse lacks rows of this range.
pub async fn is_lacking(verifier: &Verifier, generation: u32, shard: u16, newest: &StoredRange) -> Result<bool> {
    let span = Span {
        generation,
        shard,
        first: newest.first,
        last: newest.last,
    };
    let positions = verifier.positions(span).await?;
    if positions >= newest.rows {
        return Ok(false);
    }
    let open_from_ms = verifier.open_from().await? * DAY_MS;
    Ok(behind::is_behind(newest, positions, open_from_ms))
}

/// The manifest, with a mark if ClickHouse lacks its newest rows, and with the records that the stream does not have any more
/// either. A manifest of an earlier release gets its newest rows.
pub async fn examined(
    verifier: &Verifier,
    manifests: &Manifests,
    shard: u16,
    mut manifest: Manifest,
) -> Result<Manifest> {
    if manifest.done_through == 0 {
        return Ok(manifest);
    }
    let Some(newest) = &manifest.newest else {
        manifest.newest = verifier.newest(manifest.generation, shard).await?;
        return Ok(manifest);
    };
    if !is_lacking(verifier, manifest.generation, shard, newest).await? {
        return Ok(manifest);
    }
    let through = verifier.stored_below(manifest.generation, shard, newest.first).await?;
    let trimmed = manifests.trimmed(shard).await?;
    let lost = behind::lost(manifest.generation, through, newest.last, trimmed, clock::now_ms());
    // An owner that died while it stored rows again has found the same loss.
    let is_known = |lost: &LostRange| {
        let mut known = manifest.lost.iter();
        known.any(|known| known.first <= lost.first && lost.last <= known.last)
    };
    let lost = lost.filter(|lost| !is_known(lost));
    manifest.lost.extend(lost);
    manifest.behind_from = Some(1);
    Ok(manifest)
}

/// The newest range after missing rows were stored again. Fails with [`Stop::Behind`] if ClickHouse lost rows meanwhile.
pub async fn newest_again(audit: &Audit, shard: u16, manifest: &Manifest) -> Result<Option<StoredRange>, Stop> {
    let generation = manifest.generation;
    let Some(newest) = &manifest.newest else {
        return Ok(audit.verifier.newest(generation, shard).await?);
    };
    if !is_lacking(&audit.verifier, generation, shard, newest).await? {
        return Ok(Some(newest.clone()));
    }
    let trimmed = audit.manifests.trimmed(shard).await?;
    match trimmed.generation == generation && newest.first <= trimmed.through {
        // Its rows are lost, so it proves nothing any more.
        true => Ok(audit.verifier.newest(generation, shard).await?),
        false => Err(Stop::Behind(1)),
    }
}
