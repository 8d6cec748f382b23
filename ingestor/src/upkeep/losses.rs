//! The sub-command `losses`: records that neither ClickHouse nor the stream has.

use anyhow::Result;
use schema::Manifest;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::manifests::Manifests;

/// One line for each lost range.
pub async fn list(manifests: &Manifests, shards: u16) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for shard in 0..shards {
        let Some(manifest) = manifests.read(shard).await?.0 else {
            continue;
        };
        for lost in manifest.lost {
            let found = OffsetDateTime::from_unix_timestamp(lost.found_at_ms.div_euclid(1_000))?.format(&Rfc3339)?;
            lines.push(format!(
                "shard {shard}: records {} to {}, found at {found}",
                lost.first, lost.last
            ));
        }
    }
    Ok(lines)
}

/// Forgets the lost ranges. The ingestors no longer report them.
pub async fn accept(manifests: &Manifests, shards: u16) -> Result<()> {
    let without = |manifest: Option<Manifest>| {
        let manifest = manifest.filter(|manifest| !manifest.lost.is_empty())?;
        Some(Manifest {
            lost: Vec::new(),
            ..manifest
        })
    };
    for shard in 0..shards {
        manifests.change(shard, without).await?;
    }
    Ok(())
}
