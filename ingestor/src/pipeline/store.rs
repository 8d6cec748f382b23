//! Stores a range: inserts its duplicates, then its events, until ClickHouse verifiably holds all duplicates, and all events
//! once.
//!
//! A confirmed insert is no proof. ClickHouse writes its log of deduplication tokens shortly before it moves the part into
//! place. A kill between the two leaves a token without rows: then ClickHouse silently ignores every retry with this token. So
//! each insert is verified by position. If a confirmed insert has no rows and no insert is running, the next one uses another token.

use std::time::{Duration, Instant};

use protocol::storing::{Absent, Next, StoredRows, Storing, TOKENS_MAX, Tried};
use schema::manifest::{Pending, StoredRange};
use service::{Backoff, Health};
use tracing::{error, warn};

use super::{
    fence::{Fence, TRUSTED_FOR},
    range::Range,
    sink::{Failure, Part, Sink, SinkError},
    verify::{Span, Verifier},
};
use crate::{
    metrics::{Metrics, Shard},
    stop::Stop,
    upkeep::behind,
};

#[derive(Clone)]
pub struct Store {
    pub sink: Sink,
    pub verifier: Verifier,
    pub metrics: Metrics,
    pub health: Health,
}

/// How a range is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    Once,
    /// All events have rows, some of them twice: an audit must remove those.
    Doubled,
}

/// Whether ClickHouse has one part of a range.
enum Presence {
    Stored(Stored),
    Absent,
    /// It has no rows yet, but an insert is running.
    Inserting,
}

impl Store {
    /// Returns when the range is stored. Waits while ClickHouse is unavailable. Meanwhile the records stay in the stream.
    pub async fn store(
        &self,
        range: &Range,
        span: Span,
        token: &str,
        tried: Tried,
        mut fence: Fence<'_>,
    ) -> Result<Stored, Stop> {
        if !range.pending.dropped.is_empty() {
            // Duplicates first, so that every reader that finds the events of a range also finds its duplicates.
            let token = format!("{token}/duplicates");
            self.store_part(range, Part::Duplicates, span, &token, tried, &mut fence)
                .await?;
        }
        if range.pending.rows == 0 {
            return Ok(Stored::Once);
        }
        self.store_part(range, Part::Events, span, token, tried, &mut fence)
            .await
    }

    /// Checks that ClickHouse still has the range that was stored before `span`. Waits while ClickHouse is unavailable.
    pub async fn still_has(&self, span: Span, before: &StoredRange) -> Result<(), Stop> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            match behind::is_lacking(&self.verifier, span.generation, span.shard, before).await {
                Ok(false) => return Ok(()),
                Ok(true) => return Err(Stop::Behind(1)),
                Err(trouble) => self.wait(span.shard, &mut backoff, &format!("{trouble:#}")).await,
            }
        }
    }

    /// Whether all of a range is stored already.
    pub async fn is_stored(&self, pending: &Pending, span: Span) -> anyhow::Result<bool> {
        if !pending.dropped.is_empty() && self.stored_duplicates(pending, span).await? != StoredRows::Whole {
            return Ok(false);
        }
        Ok(pending.rows == 0 || self.verifier.stored_rows(span, pending.rows).await? == StoredRows::Whole)
    }

    async fn store_part(
        &self,
        range: &Range,
        part: Part,
        span: Span,
        token: &str,
        tried: Tried,
        fence: &mut Fence<'_>,
    ) -> Result<Stored, Stop> {
        let shard = Shard { shard: span.shard };
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut storing = Storing::new(tried);
        let mut verified_at = None;
        loop {
            if storing.next() == Next::Look {
                let presence = self.presence(&range.pending, part, span, token).await;
                verified_at = Some(Instant::now());
                match presence {
                    Ok(Presence::Stored(stored)) => {
                        self.health.up("inserts");
                        return Ok(stored);
                    }
                    Ok(Presence::Absent) => {
                        let tokens = storing.token();
                        let absent = storing.absent();
                        if absent != Absent::TryAgain {
                            warn!(
                                shard = span.shard,
                                token, tokens, "ClickHouse has the token of an insert but not its rows"
                            );
                            self.metrics.swallowed_tokens.get_or_create(&shard).inc();
                        }
                        if absent == Absent::GiveUp {
                            return Err(Stop::Alarm(format!(
                                "ClickHouse confirmed the insert {token} {TOKENS_MAX} times, but it has no rows"
                            )));
                        }
                    }
                    Ok(Presence::Inserting) => {
                        tokio::time::sleep(backoff.next_delay()).await;
                        continue;
                    }
                    Err(Stop::Trouble(trouble)) => {
                        self.wait(span.shard, &mut backoff, &format!("{trouble:#}")).await;
                        continue;
                    }
                    Err(stop) => return Err(stop),
                }
            }
            fence.check().await?;
            // Rows that were absent may have come since from an earlier attempt, whose token may be forgotten. After a pause,
            // verify again.
            if verified_at.is_some_and(|at| at.elapsed() >= TRUSTED_FOR) {
                storing.look_again();
                continue;
            }
            let token_now = storing.name_token(token);
            let sent = self
                .sink
                .insert(range, part, span.generation, span.shard, &token_now, async || {
                    fence.check().await
                })
                .await;
            storing.inserted(sent.is_ok());
            match sent {
                Ok(()) => {}
                Err(Failure::Sink(SinkError::Retry(why))) => {
                    self.metrics.insert_retries.get_or_create(&shard).inc();
                    self.wait(span.shard, &mut backoff, &why).await;
                }
                Err(Failure::Sink(reject @ SinkError::Reject(_))) => return Err(Stop::Alarm(reject.to_string())),
                Err(Failure::Stop(stop)) => return Err(stop),
            }
        }
    }

    async fn presence(&self, pending: &Pending, part: Part, span: Span, token: &str) -> Result<Presence, Stop> {
        let rows = pending.rows;
        // Look twice, with a check for running inserts in between: the second look sees the rows of an insert that ended before
        // that check.
        for running_checked in [false, true] {
            let rows_there = match part {
                Part::Events => self.verifier.stored_rows(span, rows).await?,
                Part::Duplicates => self.stored_duplicates(pending, span).await?,
            };
            match rows_there {
                StoredRows::Whole => return Ok(Presence::Stored(Stored::Once)),
                StoredRows::Doubled { rows: all } => {
                    error!(
                        shard = span.shard,
                        token, rows, all, "part of a range is stored twice: an audit removes the second rows"
                    );
                    return Ok(Presence::Stored(Stored::Doubled));
                }
                StoredRows::Partial { rows: some, positions } => {
                    return Err(Stop::Alarm(format!(
                        "ClickHouse holds {some} rows at {positions} positions of {token}, which has {rows}: no insert can have \
                         left that"
                    )));
                }
                StoredRows::Absent if running_checked => {}
                StoredRows::Absent => {
                    if self.verifier.is_running(token).await? {
                        return Ok(Presence::Inserting);
                    }
                }
            }
        }
        Ok(Presence::Absent)
    }

    /// Whether every dropped position has a row. Several rows are allowed, because readers of duplicates count positions. Some
    /// may be from an earlier range of the same records whose manifest no longer exists.
    async fn stored_duplicates(&self, pending: &Pending, span: Span) -> anyhow::Result<StoredRows> {
        let stored = self.verifier.dropped(span).await?;
        let is_stored = |at: &(u64, u32)| {
            let found = stored.binary_search_by_key(at, |row| (row.stream_seq, row.idx));
            found.is_ok()
        };
        Ok(match pending.dropped.iter().all(is_stored) {
            true => StoredRows::Whole,
            false => StoredRows::Absent,
        })
    }

    async fn wait(&self, shard: u16, backoff: &mut Backoff, why: &str) {
        self.health.down("inserts", why);
        let delay = backoff.next_delay();
        warn!(shard, "ClickHouse: {why}: retrying in {delay:.1?}");
        tokio::time::sleep(delay).await;
    }
}
