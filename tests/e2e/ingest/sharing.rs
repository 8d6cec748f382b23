//! Several ingestors share the shards evenly, and every shard has an owner.

use std::{collections::BTreeMap, time::Duration};

use harness::eventually;

use super::rig::Rig;

async fn shares(rig: &Rig) -> Option<Vec<usize>> {
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for owner in rig.owners().await? {
        *shares.entry(owner).or_default() += 1;
    }
    Some(shares.into_values().collect())
}

async fn until_shared(rig: &Rig, wanted: &[usize]) {
    eventually(&format!("shares of {wanted:?}"), async || {
        shares(rig).await.filter(|shares| shares == wanted)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_shared_evenly_and_taken_over_from_dead_ingestors() {
    let mut rig = Rig::start(1, &[]).await;
    until_shared(&rig, &[4]).await;
    let load = rig.load().await;
    rig.add_ingestor().await;
    until_shared(&rig, &[2, 2]).await;
    rig.ingestors[1].kill().await.unwrap();
    until_shared(&rig, &[4]).await;
    rig.assert_stored(load.stop().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingestor_that_stops_leaves_no_shard_or_range_behind() {
    let mut rig = Rig::start(2, &[("MEMBER_TTL", "60")]).await;
    until_shared(&rig, &[2, 2]).await;
    let load = rig.load().await;
    rig.until_inserting().await;
    let status = rig.ingestors[0].stop(Duration::from_secs(20)).await.unwrap();
    assert!(status.success(), "{status}");
    // Before a silent ingestor would be gone, after a minute.
    tokio::time::timeout(Duration::from_secs(55), until_shared(&rig, &[4]))
        .await
        .unwrap();
    rig.assert_stored(load.stop().await).await;
}
