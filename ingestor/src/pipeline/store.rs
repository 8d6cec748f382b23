//! Stores a range: inserts its duplicates, then its events, until ClickHouse is seen to hold all of both, the events once.
//!
//! A confirmed insert is no proof: ClickHouse writes its log of deduplication tokens shortly before it moves the part into
//! place, so a kill between the two leaves a token without rows, which silently swallows every retry. Hence each insert is
//! looked for by position, and if a confirmed one is not there and nothing is under way, the next carries another token.

use std::time::{Duration, Instant};

use schema::manifest::Pending;
use service::{Backoff, Health};
use tracing::{error, warn};

use crate::{
    manifests::Manifests,
    metrics::{Metrics, Shard},
    pipeline::{
        range::Range,
        sink::{Part, Sink, SinkError},
        verify::{Span, Verdict, Verifier},
    },
    stop::Stop,
};

/// A manifest that was written or seen this long ago is looked at again before rows are sent: whoever was paused longer
/// than that may have a successor.
const TRUSTED_FOR: Duration = Duration::from_secs(3);
/// Tokens of one range that may be swallowed before somebody has to look.
const TOKENS_MAX: u32 = 5;

#[derive(Clone)]
pub struct Store {
    pub sink: Sink,
    pub verifier: Verifier,
    pub metrics: Metrics,
    pub health: Health,
}

/// How a range came to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    Once,
    /// All of it is there, some of it twice: an audit has to remove that.
    Doubled,
}

/// Whether rows may already be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// Sealed just now.
    Never,
    /// By somebody, at some time.
    Perhaps,
}

/// Our right to insert: the manifest at the revision we wrote.
pub struct Fence<'a> {
    manifests: &'a Manifests,
    shard: u16,
    revision: u64,
    seen_at: Instant,
}

/// What a look at ClickHouse said.
enum Look {
    There(Stored),
    Absent,
    UnderWay,
}

impl<'a> Fence<'a> {
    /// The manifest was written, or read, at `seen_at`.
    pub fn new(manifests: &'a Manifests, shard: u16, revision: u64, seen_at: Instant) -> Self {
        Self {
            manifests,
            shard,
            revision,
            seen_at,
        }
    }

    async fn check(&mut self) -> Result<(), Stop> {
        if self.seen_at.elapsed() < TRUSTED_FOR {
            return Ok(());
        }
        let asked_at = Instant::now();
        if !self.manifests.is_at(self.shard, self.revision).await? {
            return Err(Stop::Lost);
        }
        self.seen_at = asked_at;
        Ok(())
    }
}

impl Store {
    /// Returns when the range is there. Waits while ClickHouse is away; the stream absorbs.
    pub async fn store(
        &self,
        range: &Range,
        span: Span,
        token: &str,
        tried: Tried,
        mut fence: Fence<'_>,
    ) -> Result<Stored, Stop> {
        if !range.pending.dropped.is_empty() {
            // First, so that whoever finds the events of a range finds its duplicates too.
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

    /// Whether all of a range is there already.
    pub async fn is_there(&self, pending: &Pending, span: Span) -> anyhow::Result<bool> {
        if !pending.dropped.is_empty() && self.duplicates_verdict(pending, span).await? != Verdict::Whole {
            return Ok(false);
        }
        Ok(pending.rows == 0 || self.verifier.verdict(span, pending.rows).await? == Verdict::Whole)
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
        let (mut tokens, mut confirmed, mut look_first) = (1, false, tried == Tried::Perhaps);
        let mut looked_at = None;
        loop {
            if look_first {
                let look = self.look(&range.pending, part, span, token).await;
                looked_at = Some(Instant::now());
                match look {
                    Ok(Look::There(stored)) => {
                        self.health.up("clickhouse");
                        return Ok(stored);
                    }
                    Ok(Look::Absent) if confirmed => {
                        warn!(
                            shard = span.shard,
                            token, tokens, "ClickHouse swallowed a range with its token"
                        );
                        self.metrics.swallowed_tokens.get_or_create(&shard).inc();
                        tokens += 1;
                        confirmed = false;
                        if tokens > TOKENS_MAX {
                            return Err(Stop::Alarm(format!(
                                "ClickHouse confirmed {token} {TOKENS_MAX} times, and its rows are not there"
                            )));
                        }
                    }
                    Ok(Look::Absent) => {}
                    Ok(Look::UnderWay) => {
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
            // What was absent then may have come since, from an earlier try, and its token be forgotten: whoever was paused
            // between looks again.
            if looked_at.is_some_and(|at| at.elapsed() >= TRUSTED_FOR) {
                continue;
            }
            let of_this_try = match tokens {
                1 => token.to_owned(),
                n => format!("{token}#{n}"),
            };
            let sent = self
                .sink
                .insert::<Failure>(range, part, span.generation, span.shard, &of_this_try, async || {
                    Ok(fence.check().await?)
                })
                .await;
            look_first = true;
            confirmed = sent.is_ok();
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

    async fn look(&self, pending: &Pending, part: Part, span: Span, token: &str) -> Result<Look, Stop> {
        let rows = pending.rows;
        // Twice, with a look at what is under way between: an insert that ended before that look has shown its rows by now.
        for under_way_checked in [false, true] {
            let verdict = match part {
                Part::Events => self.verifier.verdict(span, rows).await?,
                Part::Duplicates => self.duplicates_verdict(pending, span).await?,
            };
            match verdict {
                Verdict::Whole => return Ok(Look::There(Stored::Once)),
                Verdict::Doubled { rows: all } => {
                    error!(
                        shard = span.shard,
                        token, rows, all, "a range is stored twice in part: an audit removes that"
                    );
                    return Ok(Look::There(Stored::Doubled));
                }
                Verdict::Partial { rows: some, positions } => {
                    return Err(Stop::Alarm(format!(
                        "of the {rows} rows of {token}, ClickHouse holds {some} at {positions} positions, which no insert \
                         can have left"
                    )));
                }
                Verdict::Absent if under_way_checked => {}
                Verdict::Absent => {
                    if self.verifier.is_under_way(token).await? {
                        return Ok(Look::UnderWay);
                    }
                }
            }
        }
        Ok(Look::Absent)
    }

    /// Whether every dropped position has its row. How many it has does not matter: whoever reads duplicates goes by their
    /// positions. Some may have come with an earlier cut of the same records, of which nobody knows any more.
    async fn duplicates_verdict(&self, pending: &Pending, span: Span) -> anyhow::Result<Verdict> {
        let there = self.verifier.dropped(span).await?;
        let is_there = |at: &(u64, u32)| {
            let found = there.binary_search_by_key(at, |row| (row.stream_seq, row.idx));
            found.is_ok()
        };
        Ok(match pending.dropped.iter().all(is_there) {
            true => Verdict::Whole,
            false => Verdict::Absent,
        })
    }

    async fn wait(&self, shard: u16, backoff: &mut Backoff, why: &str) {
        self.health.down("clickhouse", why);
        let delay = backoff.next_delay();
        warn!(shard, "ClickHouse: {why}: trying again in {delay:.1?}");
        tokio::time::sleep(delay).await;
    }
}

enum Failure {
    Sink(SinkError),
    Stop(Stop),
}

impl From<SinkError> for Failure {
    fn from(error: SinkError) -> Self {
        Self::Sink(error)
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}
