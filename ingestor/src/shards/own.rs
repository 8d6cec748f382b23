//! Owns one shard: claims it when it is free, works on it despite failures, and gives it up on request.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use protocol::claim::{self, Beginning, Claim};
use schema::Manifest;
use service::Backoff;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    ingest::Ingest,
    manifests::{Held, WriteError},
    pipeline::{
        continuity,
        work::{RELEASE_WITHIN, Work},
    },
    stop::Stop,
    upkeep::{behind, catch_up},
};

/// How often the ingestor looks whether another owner's shard is free.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Works on a shard until `stop` is cancelled, despite failures. Then gives it up.
pub async fn run(ingest: Arc<Ingest>, shard: u16, stop: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
    let mut behind = None;
    while !stop.is_cancelled() {
        let began = Instant::now();
        let ended = own(&ingest, shard, &mut behind, &stop).await;
        ingest.owned.remove(shard);
        // After a while without failures, the delays start from the shortest again.
        if began.elapsed() > Duration::from_secs(60) {
            backoff.reset();
        }
        match ended {
            Ok(()) => break,
            Err(Stop::Lost) => info!(shard, "another ingestor took the shard over"),
            Err(Stop::Behind(from)) => behind = Some(from),
            Err(Stop::Alarm(why)) => ingest.alarms.raise(shard, &why),
            Err(Stop::Trouble(trouble)) => warn!(shard, "restarting the shard: {trouble:#}"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
    ingest.alarms.clear(shard);
    ingest.alarms.lost(shard, &[]);
    let released = timeout(RELEASE_WITHIN, release(&ingest, shard)).await;
    if let Err(trouble) = released.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer from NATS"))) {
        warn!(
            shard,
            "could not give up the shard, the next owner waits until this ingestor counts as gone: {trouble:#}"
        );
    }
}

/// Claims the shard once it is free, and works on it until `stop` is cancelled. `behind`: the first record whose rows ClickHouse
/// lacks, until the manifest has it.
async fn own(ingest: &Ingest, shard: u16, behind: &mut Option<u64>, stop: &CancellationToken) -> Result<(), Stop> {
    let Some(mut held) = claim_when_free(ingest, shard, *behind, stop).await? else {
        return Ok(());
    };
    *behind = None;
    ingest.owned.take_behind(shard);
    info!(shard, done_through = held.manifest.done_through, "claimed the shard");
    ingest.alarms.lost(shard, &held.manifest.lost);
    if let Some(from) = held.manifest.behind_from {
        ingest.alarms.behind(shard, from, held.manifest.done_through);
        held = tokio::select! {
            caught_up = catch_up(ingest, shard, held) => caught_up?,
            () = stop.cancelled() => return Ok(()),
        };
        ingest.alarms.clear(shard);
    }
    ingest.owned.done(shard, held.manifest.done_through);
    let mut work = Work::new(ingest, shard, held);
    tokio::select! {
        replayed = work.replay() => replayed?,
        () = until_overdue(stop) => return Ok(()),
    }
    work.follow(stop).await
}

/// Stores the rows again that ClickHouse lost. One shard at a time: it holds whole chunks of records.
async fn catch_up(ingest: &Ingest, shard: u16, held: Held) -> Result<Held, Stop> {
    let _permit = ingest.replays.acquire().await.context("waiting for other replays")?;
    let began = Instant::now();
    let (next, report) = catch_up::catch_up(&ingest.audit, shard, &held).await?;
    let held = ingest.manifests.write(shard, next, held.revision).await?;
    info!(
        shard,
        records = report.records,
        rows = report.missing,
        seconds = began.elapsed().as_secs(),
        "stored the rows again that ClickHouse lost"
    );
    Ok(held)
}

/// Waits until the shard is free, and claims it. `None`: `stop` was cancelled before.
async fn claim_when_free(
    ingest: &Ingest,
    shard: u16,
    behind: Option<u64>,
    stop: &CancellationToken,
) -> Result<Option<Held>, Stop> {
    loop {
        let (manifest, revision) = ingest.manifests.read(shard).await?;
        let claim = {
            let mut members = ingest.members.lock().await;
            claim::claim(manifest.as_ref(), &ingest.me, |owner| members.view.is_gone(owner))
        };
        if claim == Claim::Take {
            let manifest = begin(ingest, shard, manifest).await?;
            let behind_from = manifest.behind_from.into_iter().chain(behind).min();
            let ours = claim::claimed(
                Manifest {
                    behind_from,
                    ..manifest
                },
                &ingest.me,
            );
            match ingest.manifests.write(shard, ours, revision).await {
                Ok(held) => return Ok(Some(held)),
                Err(WriteError::Lost) => {}
                Err(trouble) => return Err(trouble.into()),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Where the work on the shard begins, and what ClickHouse lost before.
async fn begin(ingest: &Ingest, shard: u16, manifest: Option<Manifest>) -> Result<Manifest, Stop> {
    ingest.tables.ensure().await?;
    let verifier = &ingest.store.verifier;
    let state = ingest.stream.state().await?;
    let generation = manifest
        .as_ref()
        .map_or(state.generation, |manifest| manifest.generation);
    let stored = verifier.stored_through(generation, shard).await?;
    let manifest = match claim::beginning(manifest, state, stored) {
        Beginning::At(manifest) => manifest,
        Beginning::Moved(manifest) => {
            warn!(
                shard,
                done_through = manifest.done_through,
                "the manifest is lost or outdated: continuing where the rows in ClickHouse end"
            );
            manifest
        }
        Beginning::Alarm(why) => return Err(Stop::Alarm(why)),
    };
    continuity::check(&ingest.stream, verifier, shard, &manifest).await?;
    Ok(behind::examined(verifier, &ingest.manifests, shard, manifest).await?)
}

/// Leaves the manifest to the next owner, with the range that could not be finished.
async fn release(ingest: &Ingest, shard: u16) -> Result<(), anyhow::Error> {
    let (manifest, revision) = ingest.manifests.read(shard).await?;
    if let Some(manifest) = manifest.filter(|manifest| manifest.owner.as_ref() == Some(&ingest.me)) {
        let free = Manifest {
            owner: None,
            ..manifest
        };
        ingest.manifests.write(shard, free, revision).await?;
        info!(shard, "gave up the shard");
    }
    Ok(())
}

async fn until_overdue(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(RELEASE_WITHIN).await;
}
