//! Repairs differences that an audit found: removes doubled rows and stores missing rows.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use anyhow::{Context, Result};
use clickhouse::Row;
use protocol::{
    duplicates::Remembered,
    range::EventPosition,
    storing::{Absent, Next, Storing, TOKENS_MAX, Tried},
};
use schema::clock;
use serde::Deserialize;
use service::Backoff;
use tracing::warn;
use uuid::Uuid;

use crate::{
    config::DuplicateSettings,
    pipeline::{
        content::Content,
        fence::Fence,
        range::Range,
        record::{Record, keyed},
        sink::{Failure, Part, Sink, SinkError},
        stored_before,
        verify::{Span, Verifier, bind, within},
    },
    stop::Stop,
    upkeep::reread::Reread,
};

/// Positions in one statement.
const POSITIONS: usize = 2_000;
/// Attempts to insert while ClickHouse fails. Then the shard starts again from its manifest.
const TRIES: u32 = 5;

pub struct Repair<'a> {
    pub verifier: &'a Verifier,
    pub sink: &'a Sink,
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

    /// Stores the events of these records that have no row, except at the positions that need none. If another position has the
    /// same event, it is stored as a duplicate. Only for the owner of the shard, when none of its inserts is running.
    pub async fn store_missing(
        &self,
        records: Vec<Reread>,
        elsewhere: &[EventPosition],
        fence: &mut Fence<'_>,
    ) -> Result<(), Stop> {
        let Some(range) = self.missing(records, elsewhere).await? else {
            return Ok(());
        };
        let pending = &range.pending;
        let Span { generation, shard, .. } = self.span;
        let token = format!(
            "{}/{generation}/{shard}/again/{}-{}/{:08x}",
            self.stream, pending.first, pending.last, pending.checksum
        );
        if !pending.dropped.is_empty() {
            let token = format!("{token}/duplicates");
            self.store(&range, Part::Duplicates, &token, fence).await?;
        }
        match pending.rows {
            0 => Ok(()),
            _ => self.store(&range, Part::Events, &token, fence).await,
        }
    }

    /// Inserts until the rows are there. ClickHouse may remember the token of an earlier repair whose rows are lost again.
    async fn store(&self, range: &Range, part: Part, token: &str, fence: &mut Fence<'_>) -> Result<(), Stop> {
        let Span { generation, shard, .. } = self.span;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut storing = Storing::new(Tried::Never);
        loop {
            if storing.next() == Next::Look {
                while self.verifier.is_running(token).await? {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                if self.is_there(range, part).await? {
                    return Ok(());
                }
                if storing.absent() == Absent::GiveUp {
                    return Err(Stop::Alarm(format!(
                        "ClickHouse confirmed the insert {token} {TOKENS_MAX} times, but it has no rows"
                    )));
                }
            }
            fence.check().await?;
            let token_now = storing.name_token(token);
            let check = async || fence.check().await;
            let sent = self
                .sink
                .insert(range, part, generation, shard, &token_now, check)
                .await;
            storing.inserted(sent.is_ok());
            match sent {
                Ok(()) => {}
                Err(Failure::Stop(stop)) => return Err(stop),
                Err(Failure::Sink(reject @ SinkError::Reject(_))) => return Err(Stop::Alarm(reject.to_string())),
                Err(Failure::Sink(SinkError::Retry(why))) if backoff.tries() >= TRIES => {
                    return Err(anyhow::anyhow!(why).context("storing missing rows").into());
                }
                Err(Failure::Sink(SinkError::Retry(why))) => {
                    let delay = backoff.next_delay();
                    warn!(shard, "ClickHouse: {why}: retrying in {delay:.1?}");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// Whether ClickHouse has the rows of one part of the range. One insert stores all of them, or none.
    async fn is_there(&self, range: &Range, part: Part) -> Result<bool> {
        let (stored, first) = match part {
            Part::Events => (self.verifier.events(self.span).await?, range.events().next()),
            Part::Duplicates => (self.verifier.dropped(self.span).await?, range.duplicates().next()),
        };
        let at = first.map(|(record, idx, _)| (record.seq, idx));
        Ok(at.is_none_or(|at| {
            stored
                .binary_search_by_key(&at, |row| (row.stream_seq, row.idx))
                .is_ok()
        }))
    }

    async fn missing(&self, records: Vec<Reread>, elsewhere: &[EventPosition]) -> Result<Option<Range>> {
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
        let mut stored: Vec<_> = stored.chain(elsewhere.iter().copied()).collect();
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
