//! Repairs differences that an audit found: removes doubled rows and stores missing rows.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result, anyhow, ensure};
use clickhouse::Row;
use protocol::{duplicates::Remembered, range::EventPosition};
use schema::clock;
use serde::Deserialize;
use tracing::warn;
use uuid::Uuid;

use crate::{
    config::DuplicateSettings,
    manifests::Manifests,
    pipeline::{
        content::Content,
        range::Range,
        record::{Record, keyed},
        sink::{Part, Sink},
        stored_before,
        verify::{Span, Verifier, bind, within},
    },
    upkeep::reread::Reread,
};

/// Positions in one statement.
const POSITIONS: usize = 2_000;
/// Attempts to insert. The next audit tries again.
const TRIES: u32 = 3;

pub struct Repair<'a> {
    pub verifier: &'a Verifier,
    pub sink: &'a Sink,
    pub manifests: &'a Manifests,
    pub stream: &'a str,
    pub span: Span,
    pub duplicates: &'a DuplicateSettings,
}

/// A row and the insert that created it. Insert ids sort by time (UUID version 7).
#[derive(Row, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Inserted {
    stream_seq: u64,
    idx: u32,
    #[serde(with = "clickhouse::serde::uuid")]
    insert_id: Uuid,
}

/// Rows of one insert that must be removed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Surplus {
    /// All its rows of these records.
    records: Vec<u64>,
    /// These of its rows.
    positions: Vec<EventPosition>,
}

impl Repair<'_> {
    /// For each position with several rows, removes the rows of the later inserts.
    pub async fn remove_doubled(&self, records: &[u64]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let sql = "select stream_seq, idx, insert_id from usage_events \
                   where generation = ? and shard = ? and stream_seq between ? and ? and stream_seq in ?";
        let rows = bind(self.verifier.client().query(sql), self.span)
            .bind(records)
            .fetch_all::<Inserted>();
        for (insert_id, surplus) in surplus(within("reading doubled rows", rows).await?) {
            warn!(shard = self.span.shard, %insert_id, records = surplus.records.len(), rows = surplus.positions.len(), "removing rows that a second insert added");
            if !surplus.records.is_empty() {
                self.delete(insert_id, "stream_seq in ?", &surplus.records).await?;
            }
            for positions in surplus.positions.chunks(POSITIONS) {
                self.delete(insert_id, "(stream_seq, idx) in ?", positions).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, insert_id: Uuid, which: &str, values: impl clickhouse::sql::Bind) -> Result<()> {
        let Span { generation, shard, .. } = self.span;
        let sql = format!(
            "alter table usage_events delete where generation = ? and shard = ? and insert_id = toUUID(?) and {which} \
             settings mutations_sync = 2"
        );
        let delete = self
            .verifier
            .client()
            .query(&sql)
            .bind(generation)
            .bind(shard)
            .bind(insert_id.to_string())
            .bind(values);
        delete.execute().await.context("removing doubled rows")
    }

    /// Stores the events of these records that have no row, except at the positions that earlier generations hold. If another
    /// position has the same event, it is stored as a duplicate.
    pub async fn store_missing(&self, records: Vec<Reread>, earlier: &[EventPosition]) -> Result<()> {
        let Some(range) = self.missing(records, earlier).await? else {
            return Ok(());
        };
        // Two audits at the same time use the same token, so the repair is stored once.
        let minute = clock::now_ms() / 60_000;
        let pending = &range.pending;
        let Span { generation, shard, .. } = self.span;
        let token = format!(
            "{}/{generation}/{shard}/audit/{}-{}/{:08x}/{minute}",
            self.stream, pending.first, pending.last, pending.checksum
        );
        if !range.pending.dropped.is_empty() {
            self.insert(&range, Part::Duplicates, &format!("{token}/duplicates"))
                .await?;
        }
        match range.pending.rows {
            0 => Ok(()),
            _ => self.insert(&range, Part::Events, &token).await,
        }
    }

    async fn insert(&self, range: &Range, part: Part, token: &str) -> Result<()> {
        let Span { generation, shard, .. } = self.span;
        let mut last_error = None;
        for _ in 0..TRIES {
            let inserted = self
                .sink
                .insert::<anyhow::Error>(range, part, generation, shard, token, async || {
                    self.check_generation().await
                });
            match inserted.await {
                Ok(()) => return Ok(()),
                Err(error) => last_error = Some(error),
            }
        }
        Err(last_error.unwrap_or_else(|| anyhow!("no try"))).context("storing missing rows")
    }

    /// Another generation may store the same records, and raising it has compared the rows before this repair.
    async fn check_generation(&self) -> Result<()> {
        let (manifest, _) = self.manifests.read(self.span.shard).await?;
        ensure!(
            manifest.is_some_and(|manifest| manifest.generation == self.span.generation),
            "the generation was raised meanwhile: the next audit stores the missing rows"
        );
        Ok(())
    }

    async fn missing(&self, records: Vec<Reread>, earlier: &[EventPosition]) -> Result<Option<Range>> {
        let stored_here = self.verifier.events(self.span).await?;
        let dropped_here = self.verifier.dropped(self.span).await?;
        let records: Vec<_> = records
            .into_iter()
            .filter_map(|record| match record.content {
                Content::Events(run_id, events) => Some(Record {
                    seq: record.seq,
                    run_id,
                    events,
                    bytes: 0,
                    stored_ms: record.stored_ms,
                    permit: None,
                }),
                Content::Dead(_) | Content::Newer(_) => None,
            })
            .collect();
        let mut dropped = Vec::new();
        let decide = Remembered::nothing(self.duplicates.idempotency_window);
        // Anywhere in the stream: an event without a row cannot find itself.
        let anywhere = u64::MAX;
        if let Some(question) = decide.question(anywhere, keyed(&records)) {
            let Span { generation, shard, .. } = self.span;
            let stored_before = stored_before::ask(self.verifier, generation, shard, &question).await?;
            dropped = decide.dropped(keyed(&records), &stored_before);
        }
        let stored = stored_here
            .iter()
            .chain(&dropped_here)
            .map(|row| (row.stream_seq, row.idx));
        let mut stored: Vec<_> = stored.chain(earlier.iter().copied()).collect();
        stored.sort_unstable();
        Ok(Range::without(records, stored, dropped, clock::now_ms()).filter(|range| !range.is_empty()))
    }
}

/// The rows to remove, by insert. Rows of one insert at one position cannot be distinguished, so they stay.
fn surplus(mut rows: Vec<Inserted>) -> BTreeMap<Uuid, Surplus> {
    rows.sort_unstable();
    rows.dedup();
    let mut first_of = None;
    let (later, first): (Vec<Inserted>, Vec<Inserted>) = rows.into_iter().partition(|row| {
        let at = Some((row.stream_seq, row.idx));
        let is_later = first_of == at;
        first_of = at;
        is_later
    });
    let needed: HashSet<(u64, Uuid)> = first.iter().map(|row| (row.stream_seq, row.insert_id)).collect();
    let mut surplus: BTreeMap<Uuid, Surplus> = BTreeMap::new();
    for row in later {
        let of_insertion = surplus.entry(row.insert_id).or_default();
        if needed.contains(&(row.stream_seq, row.insert_id)) {
            of_insertion.positions.push((row.stream_seq, row.idx));
        } else if of_insertion.records.last() != Some(&row.stream_seq) {
            of_insertion.records.push(row.stream_seq);
        }
    }
    surplus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_first_insert_stay_and_later_ones_are_removed() {
        let row = |stream_seq, idx, insertion| Inserted {
            stream_seq,
            idx,
            insert_id: Uuid::from_u128(insertion),
        };
        // Record 1: inserted by 1, and all of it again by 2. Record 2: inserted by 1 except its last row, which 3 repaired;
        // then 2 inserted it late.
        let rows = vec![
            row(1, 0, 2),
            row(1, 0, 1),
            row(1, 1, 1),
            row(1, 1, 2),
            row(2, 0, 1),
            row(2, 1, 3),
            row(2, 0, 2),
            row(2, 1, 2),
        ];
        let gone = surplus(rows);
        let of = |insertion| gone.get(&Uuid::from_u128(insertion));
        assert_eq!(of(1), None);
        // (2, 1) has rows of 2 and of 3: the earlier id stays.
        assert_eq!(
            of(2),
            Some(&Surplus {
                records: vec![1],
                positions: vec![(2, 0)]
            })
        );
        assert_eq!(
            of(3),
            Some(&Surplus {
                records: vec![2],
                positions: vec![]
            })
        );
        assert!(
            surplus(vec![row(1, 0, 1), row(1, 0, 1)]).is_empty(),
            "rows of one insert cannot be distinguished"
        );
    }
}
