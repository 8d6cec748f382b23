//! Audits the shards of this ingestor periodically. Each audit overlaps the previous one a little.

use std::sync::Arc;

use anyhow::Result;
use tracing::{error, info, warn};

use crate::{ingest::Ingest, stop::Stop};

/// Runs until the service stops.
pub async fn run(ingest: Arc<Ingest>) -> Result<()> {
    loop {
        tokio::select! {
            () = ingest.life.stopping() => return Ok(()),
            () = tokio::time::sleep(ingest.settings.audit_interval) => {}
            () = ingest.audit_soon.notified() => {}
        }
        let since = schema::clock::now() - ingest.settings.audit_window;
        for shard in ingest.owned.all().into_keys() {
            let audited = tokio::select! {
                () = ingest.life.stopping() => return Ok(()),
                audited = ingest.audit.shard(shard, since) => audited,
            };
            match audited {
                Ok(report) => {
                    info!(shard, records = report.records, rows = report.rows, "audited");
                    if let Some(from) = report.missing_from {
                        ingest.owned.set_behind(shard, from);
                    }
                }
                Err(Stop::Alarm(why)) => error!(shard, "could not audit the shard: {why}"),
                Err(stop) => warn!(shard, "could not audit the shard: {stop}"),
            }
        }
    }
}
