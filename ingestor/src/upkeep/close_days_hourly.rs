//! Closes days once an hour, in whichever ingestor has the first shard.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use clickhouse::Client;
use tracing::warn;

use crate::{ingest::Ingest, upkeep::close_days};

const EVERY: Duration = Duration::from_secs(3_600);

pub async fn run(ingest: Arc<Ingest>, client: Client) -> Result<()> {
    loop {
        tokio::select! {
            () = ingest.life.stopping() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
        if !ingest.owned.all().contains_key(&0) {
            continue;
        }
        let closed = tokio::select! {
            () = ingest.life.stopping() => return Ok(()),
            closed = close(&ingest, &client) => closed,
        };
        // The days stay open, and the next hour tries again.
        if let Err(error) = closed {
            warn!("could not close days: {error:#}");
        }
    }
}

async fn close(ingest: &Ingest, client: &Client) -> Result<()> {
    let mut manifests = Vec::new();
    for shard in 0..ingest.stream.shards {
        manifests.extend(ingest.manifests.read(shard).await?.0);
    }
    close_days::close_days(client, manifests, schema::clock::now()).await?;
    Ok(())
}
