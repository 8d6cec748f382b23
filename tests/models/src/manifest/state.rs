//! The state of one shard: its stream, its manifest, its rows, the inserts and writes on their way, and the ingestors.

use std::collections::BTreeSet;

use protocol::{
    compare_and_set::{Write, is_held},
    range::{self, EventPosition},
    storing::{Next, Storing, Tried},
};
use schema::EventId;
use uuid::Uuid;

/// The revision of the entry. It is not counted: after each write, all other ingestors hold [`OUTDATED`].
pub const CURRENT: u64 = 2;
pub const OUTDATED: u64 = 1;

/// Positions of the stream, from 1, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Positions(u16);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub manifest: Manifest,
    /// Number of rows in `usage_events`, by position.
    pub rows: Vec<u8>,
    /// Positions in `usage_duplicates`. Readers count distinct positions.
    pub duplicates: Positions,
    /// The deduplication tokens that ClickHouse remembers.
    pub tokens: BTreeSet<Token>,
    /// Inserts on their way: sent, and neither done nor lost.
    pub air: BTreeSet<Insert>,
    /// Writes of the entry on their way, all over its current revision.
    pub entry_writes: BTreeSet<EntryWrite>,
    pub ingestors: Vec<Ingestor>,
    /// The stream is trimmed through this position.
    pub trimmed: u8,
    /// An ingestor found rows that no insert can have left.
    pub alarmed: bool,
    /// The time for which Idempotency-Keys are remembered has passed.
    pub expired: bool,
    pub faults: Faults,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    pub crashes: u8,
    /// Shards taken from a living owner.
    pub suspicions: u8,
    /// Tokens that were logged without their rows.
    pub swallowed: u8,
    /// Tokens that fell out of the window.
    pub forgotten: u8,
    /// Writes of the entry whose response was lost.
    pub unclear: u8,
    /// Lost entries in the bucket.
    pub manifests: u8,
}

/// The entry of the shard. Its revision is always [`CURRENT`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Manifest {
    /// False: there is no entry.
    pub exists: bool,
    pub owner: Option<u8>,
    pub done_through: u8,
    pub pending: Option<Pending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pending {
    pub first: u8,
    pub last: u8,
    pub dropped: Positions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    pub first: u8,
    pub last: u8,
    /// `<token>`, `<token>#2`, …
    pub number: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Insert {
    pub token: Token,
    pub rows: Positions,
    /// The ingestor that waits for the response.
    pub waits: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryWrite {
    pub writer: u8,
    pub entry: Manifest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ingestor {
    /// The ingestor's revision of the entry is the current one. (It finds out when it writes or reads the entry.)
    pub current: bool,
    pub phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The ingestor does not own the shard, or has just started.
    Away,
    /// Verified through `done`. `recorded`: the manifest records this, and has no pending range.
    Ready {
        done: u8,
        recorded: bool,
    },
    /// The outcome of a write is unknown.
    Writing {
        entry: Manifest,
        goal: Goal,
        write: Write,
    },
    Storing {
        pending: Pending,
        stage: Stage,
    },
}

/// What an ingestor does once its entry is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Goal {
    /// It owns the shard, and begins where the entry says.
    Begin,
    Store(Pending),
    /// It seals the next range. The shard is verified through `done`.
    Continue {
        done: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Duplicates are stored first.
    Duplicates { tried: Tried },
    /// Rows are looked up before anything is sent.
    Look(Storing),
    /// The manifest is checked again, then the rows are sent.
    Send(Storing),
    /// Sent. `confirmed`: ClickHouse has confirmed the insert.
    Sent { storing: Storing, confirmed: bool },
    /// Only in a mutant: duplicates are stored after the rows.
    DuplicatesLate,
}

impl State {
    pub fn new(events: u8, ingestors: u8) -> Self {
        let ingestor = Ingestor {
            current: false,
            phase: Phase::Away,
        };
        Self {
            manifest: Manifest {
                exists: true,
                ..Manifest::default()
            },
            rows: vec![0; usize::from(events)],
            duplicates: Positions::default(),
            tokens: BTreeSet::new(),
            air: BTreeSet::new(),
            entry_writes: BTreeSet::new(),
            ingestors: vec![ingestor; usize::from(ingestors)],
            trimmed: 0,
            alarmed: false,
            expired: false,
            faults: Faults::default(),
        }
    }

    pub fn rows_at(&self, position: u8) -> u8 {
        self.rows[usize::from(position) - 1]
    }

    pub fn add_row(&mut self, position: u8) {
        self.rows[usize::from(position) - 1] += 1;
    }

    /// The revision of the entry that the ingestor wrote last.
    pub fn revision_of(&self, ingestor: u8) -> u64 {
        if self.ingestors[usize::from(ingestor)].current {
            CURRENT
        } else {
            OUTDATED
        }
    }

    /// The ingestor still holds the shard, as it finds out when it reads the entry.
    pub fn is_held_by(&self, ingestor: u8) -> bool {
        is_held(self.revision_of(ingestor), CURRENT)
    }

    /// The event is stored in ClickHouse, kept or dropped.
    pub fn is_stored(&self, position: u8) -> bool {
        self.rows_at(position) > 0 || self.duplicates.has(position)
    }

    /// The highest position with a row; 0: none.
    pub fn stored_through(&self) -> u8 {
        (1..=self.rows.len() as u8)
            .rev()
            .find(|position| self.rows_at(*position) > 0)
            .unwrap_or(0)
    }

    /// The bucket stores the entry. All ingestors now hold an outdated revision, except `informed`. No write over the old revision
    /// can be stored any more.
    pub fn write(&mut self, manifest: Manifest, informed: Option<u8>) {
        self.manifest = manifest;
        self.entry_writes.clear();
        for (number, ingestor) in (0..).zip(&mut self.ingestors) {
            ingestor.current = Some(number) == informed;
        }
    }

    /// The writes with an unknown outcome: the entry, and whether no other entry was written since.
    pub fn unclear_writes(&self) -> impl Iterator<Item = (Manifest, bool)> {
        self.ingestors.iter().filter_map(|ingestor| match ingestor.phase {
            Phase::Writing { entry, .. } => Some((entry, ingestor.current)),
            _ => None,
        })
    }
}

impl Stage {
    /// The next step of the code for the range's rows.
    pub fn of(storing: Storing) -> Self {
        match storing.next() {
            Next::Look => Self::Look(storing),
            Next::Insert => Self::Send(storing),
        }
    }
}

impl Manifest {
    /// The entry in the product's type, for a stream with these events. `None`: there is no entry.
    pub fn encode(&self, events: &[u8]) -> Option<schema::Manifest> {
        let entry = || schema::Manifest {
            owner: self.owner.map(|owner| owner.to_string()),
            generation: 1,
            done_through: self.done_through.into(),
            pending: self.pending.map(|pending| pending.encode(events)),
            ..schema::Manifest::default()
        };
        self.exists.then(entry)
    }

    /// From an entry in the product's type.
    pub fn decode(entry: &schema::Manifest) -> Self {
        Self {
            exists: true,
            owner: entry.owner.as_ref().and_then(|owner| owner.parse().ok()),
            done_through: entry.done_through as u8,
            pending: entry.pending.as_ref().map(Pending::decode),
        }
    }
}

impl Pending {
    fn encode(&self, events: &[u8]) -> schema::manifest::Pending {
        let ids = self.positions().map(|position| {
            let event = events[usize::from(position) - 1];
            ((position.into(), 0), event_id(event))
        });
        range::pending(self.first.into(), self.last.into(), ids, self.dropped.encode(), 0)
    }

    pub fn decode(pending: &schema::manifest::Pending) -> Self {
        Self {
            first: pending.first as u8,
            last: pending.last as u8,
            dropped: pending.dropped.iter().map(|(position, _)| *position as u8).collect(),
        }
    }

    pub fn positions(&self) -> std::ops::RangeInclusive<u8> {
        self.first..=self.last
    }

    /// The positions that must have a row.
    pub fn rows(&self) -> Positions {
        let dropped = self.dropped.encode();
        self.positions()
            .filter(|position| range::has_row(&dropped, (u64::from(*position), 0)))
            .collect()
    }

    pub fn token(&self, number: u8) -> Token {
        Token {
            first: self.first,
            last: self.last,
            number,
        }
    }
}

impl Positions {
    pub fn has(&self, position: u8) -> bool {
        self.0 & (1 << position) != 0
    }

    pub fn add(&mut self, others: Self) {
        self.0 |= others.0;
    }

    pub fn len(&self) -> u32 {
        self.0.count_ones()
    }

    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// In the product's type. Each record has one event.
    fn encode(self) -> Vec<EventPosition> {
        self.iter().map(|position| (position.into(), 0)).collect()
    }

    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..16).filter(move |position| self.has(*position))
    }
}

impl FromIterator<u8> for Positions {
    fn from_iter<I: IntoIterator<Item = u8>>(positions: I) -> Self {
        Self(positions.into_iter().fold(0, |all, position| all | 1 << position))
    }
}

/// The id of an event. Events with one Idempotency-Key have one id.
pub fn event_id(event: u8) -> EventId {
    EventId(Uuid::from_u128(event.into()))
}
