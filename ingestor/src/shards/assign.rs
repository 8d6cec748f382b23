//! Distributes the shards: starts work on shards that this ingestor should own, and stops work on the others.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Result;
use service::Health;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{ingest::Ingest, shards::own};

const PART: &str = "members";

/// Runs until the service stops, then gives up all shards.
pub async fn run(ingest: Arc<Ingest>, health: Health) -> Result<()> {
    let mut tasks: BTreeMap<u16, Task> = BTreeMap::new();
    let every = ingest.stream.member_ttl / 3;
    health.down(PART, "no contact with the other ingestors yet");
    loop {
        let met = {
            let mut members = ingest.members.lock().await;
            match timeout(ingest.stream.member_ttl, members.meet()).await {
                Ok(Ok(())) => Ok(members.shards(ingest.stream.shards)),
                Ok(Err(error)) => Err(format!("{error:#}")),
                Err(_) => Err("no answer".to_owned()),
            }
        };
        match met {
            Ok(ours) => {
                health.up(PART);
                tasks.retain(|_, task| !task.handle.is_finished());
                for (shard, task) in &tasks {
                    if !ours.contains(shard) && !task.stop.is_cancelled() {
                        info!(shard, "the shard now belongs to another ingestor");
                        task.stop.cancel();
                    }
                }
                for shard in ours {
                    tasks.entry(shard).or_insert_with(|| Task::spawn(&ingest, shard));
                }
            }
            // Without an answer, no shard changes its owner.
            Err(why) => {
                warn!("could not reach the other ingestors: {why}");
                health.down(PART, why);
            }
        }
        ingest
            .metrics
            .owned
            .set(ingest.owned.all().len().try_into().unwrap_or(i64::MAX));
        tokio::select! {
            () = ingest.life.stopping() => break,
            () = tokio::time::sleep(every) => {}
        }
    }
    tasks.values().for_each(|task| task.stop.cancel());
    // Immediately, so that the others can ask for the shards while we finish our work on them.
    let members = ingest.members.lock().await;
    if let Err(why) = timeout(every, members.leave())
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer")))
    {
        warn!("could not leave the other ingestors: {why:#}");
    }
    Ok(())
}

struct Task {
    stop: CancellationToken,
    handle: JoinHandle<()>,
}

impl Task {
    fn spawn(ingest: &Arc<Ingest>, shard: u16) -> Self {
        let stop = CancellationToken::new();
        let handle = ingest
            .life
            .spawn_apart(own::run(Arc::clone(ingest), shard, stop.clone()));
        Self { stop, handle }
    }
}
