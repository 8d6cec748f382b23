//! Asks ClickHouse regularly whether it answers. A server that hangs would otherwise show only when an insert reaches its time
//! limit.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use service::Health;

use crate::{ingest::Ingest, pipeline::verify::within_limit};

const PART: &str = "clickhouse";
const EVERY: Duration = Duration::from_secs(2);
/// A server that is only busy answers in less.
const LIMIT: Duration = Duration::from_secs(5);

/// Runs until the service stops.
pub async fn run(ingest: Arc<Ingest>, health: Health) -> Result<()> {
    loop {
        let question = ingest.store.verifier.client().query("select 1").fetch_one::<u8>();
        tokio::select! {
            () = ingest.life.stopping() => return Ok(()),
            answer = within_limit(LIMIT, "asking ClickHouse", question) => match answer {
                Ok(_) => health.up(PART),
                Err(trouble) => health.down(PART, format!("{trouble:#}")),
            },
        }
        tokio::select! {
            () = ingest.life.stopping() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
