//! The protocol of one lane: which message to publish next, and whether it is stored.
//!
//! A lane is one subject of the stream. One run writes it, with **one message in flight**. Each publish attempt carries the
//! sequence of the lane's last record. NATS refuses the attempt if that record is not the last of the subject. So of all
//! attempts with the same expected sequence, NATS stores at most one, whenever they arrive. A message can be sent any
//! number of times under the same expected sequence.
//!
//! ```text
//! begin ─> Publish ─ stored ─> Done(Stored)
//!                  ─ refused, every attempt was answered ─> Done(NotStored)
//!                  ─ refused, an attempt is unanswered ─> Publish an empty batch in its place
//!                  ─ wrong last sequence, or no answer ─> Read ─ our message ─> Done(Stored)
//!                                                              ─ the record before it ─> Publish
//!                                                              ─ the empty batch ─> Done(NotStored)
//!                                                              ─ a fence ─> Done, the lane has ended
//!                                                              ─ anything else ─> Done(Unknown), the lane has failed
//! ```
//!
//! # What an answer proves
//! | answer | what it proves |
//! |---|---|
//! | an acknowledgement | the attempt is stored |
//! | wrong last sequence (10071) | *this* attempt is not stored. An earlier one or a fence may be: read the lane's last record |
//! | a refusal (full, too large) | *this* attempt is not stored and never will be: core NATS delivers a publish at most once |
//! | a timeout, a disconnect, anything else | nothing: read the lane's last record |
//! | the last record is our message | it is stored |
//! | the last record is the one before | it is not stored **yet**: an attempt may still be in flight. Send it again |
//! | the last record is a fence | it is stored if the fence names it, else never: attempts in flight expect an old sequence |
//!
//! # Saying "not stored"
//! A refusal is final only when no other attempt of the same message can still be stored, that is, when every attempt was
//! answered. Otherwise an attempt in flight (in the client's buffer, in a socket, in a server that restarts) could be
//! stored after the waiters got "not stored". So after an unanswered attempt the lane **moves on**: it publishes an empty
//! batch, small enough to find room, under the same expected sequence. NATS stores one of the two and never the other. The
//! empty batch means "not stored", the message means "stored".
//!
//! # A message that is kept
//! While NATS is unavailable, a batch is acknowledged from the spool. After that ([`Lane::keep`]) nobody waits for the
//! outcome. The lane sends the batch until it is stored, despite any refusals, and does not move on past it. If the lane had
//! moved on before, the empty batch may be stored. Then the outcome is "not stored", and the batch begins again. A restart reads the
//! lane's last record ([`Lane::resume`]). The batches of the spool up to that record are stored ([`crate::spool_state`]).
//!
//! # The end of a lane
//! A lane ends in one of three ways: another process fences it, its run closes it, or it fails. It fails when it sees
//! something impossible (a sequence that went back, the record of another run). A failed lane answers "unknown" for the
//! message in flight, and never publishes again.
//!
//! # Promises
//! - An outcome is final: a message reported as stored is stored once, and a message reported as not stored never is.
//! - Batches are stored in the order in which they begin.
//!
//! The tests of this module check this against a NATS that delays, repeats and loses messages. The model `lease_lane_fence`
//! steps this code and checks the properties "no event is recorded twice", "what was answered is recorded, or in a spool that
//! cannot be fenced" and "no lane sees anything impossible".

use schema::{BatchId, LaneRecord, RunId, lane_record::Kind};

/// One lane of one run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The lane's last known record.
    last: Last,
    in_flight: Option<InFlight>,
    end: Option<End>,
}

/// A message of the lane, by its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    Open,
    Batch(BatchId),
    Close,
}

/// The next action of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Next {
    /// Publish `message` under `expected`, then call [`Lane::attempted`]. A batch other than the one that began is empty.
    Publish { message: Message, expected: u64 },
    /// Read the lane's last record from the stream's leader, then call [`Lane::read`].
    Read,
    /// Nothing: the outcome of the message is known.
    Done(MessageOutcome),
}

/// What is known after one publish attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    Stored {
        sequence: u64,
    },
    WrongLast,
    /// This attempt is not stored and never will be. Or it was not sent.
    Refused,
    /// Nothing is known: a timeout, a disconnect, or an answer that this version does not understand.
    Unclear,
}

/// The lane's last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastRecord {
    None,
    At { sequence: u64, record: Seen },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Ours(Message),
    Fence {
        last_batch: BatchId,
    },
    /// The record of another run.
    Foreign,
    /// It is damaged, or of a newer version.
    Unreadable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageOutcome {
    Stored,
    /// It is not stored and never will be.
    NotStored,
    /// The lane failed, so nobody knows.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    Closed,
    Fenced,
    /// The impossible thing that the lane saw.
    Failed(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Last {
    /// 0: the lane is not open yet.
    sequence: u64,
    /// [`BatchId::NIL`]: the record is no batch.
    batch: BatchId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct InFlight {
    message: Message,
    /// The content of the attempt in flight: the message, or the empty batch.
    sent: Message,
    /// The empty batch that would move the lane on.
    empty: BatchId,
    /// An attempt of `message` has no answer, so it may still be stored.
    unclear: bool,
    /// The empty batch was sent in its place, or may have been.
    moved_on: bool,
    /// It is acknowledged: the empty batch is not sent again.
    kept: bool,
}

impl Lane {
    /// A lane that is not open: its first message is [`Message::Open`].
    pub fn new() -> Self {
        Self {
            last: Last {
                sequence: 0,
                batch: BatchId::NIL,
            },
            in_flight: None,
            end: None,
        }
    }

    /// Resumes the lane of a run whose process died, from the lane's last record on the stream's leader. Fails if nothing
    /// can be written after that record. A fence and a close record are ends.
    pub fn resume(last: LastRecord) -> Result<Self, &'static str> {
        let (sequence, record) = match last {
            LastRecord::At { sequence, record } => (sequence, record),
            LastRecord::None => return Err("the stream has nothing of the lane"),
        };
        let (batch, end) = match record {
            Seen::Ours(Message::Open) => (BatchId::NIL, None),
            Seen::Ours(Message::Batch(batch)) => (batch, None),
            Seen::Ours(Message::Close) => (BatchId::NIL, Some(End::Closed)),
            Seen::Fence { last_batch } => (last_batch, Some(End::Fenced)),
            Seen::Foreign => return Err("another run has written to the lane"),
            Seen::Unreadable => return Err("the lane's last record cannot be read"),
        };
        Ok(Self {
            last: Last { sequence, batch },
            in_flight: None,
            end,
        })
    }

    /// The sequence of the lane's last record, and its batch: the record itself, or the batch that a fence names
    /// ([`BatchId::NIL`]: none).
    pub fn last(&self) -> (u64, BatchId) {
        (self.last.sequence, self.last.batch)
    }

    /// How the lane ended. Nothing is written to it afterwards.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Begins the next message. `empty` is a new batch id, for an empty batch.
    ///
    /// # Panics
    /// If a message is in flight, if the lane has ended, or if it does not begin with [`Message::Open`].
    pub fn begin(&mut self, message: Message, empty: BatchId) -> Next {
        assert!(self.in_flight.is_none() && self.end.is_none(), "one message in flight");
        assert_eq!(
            message == Message::Open,
            self.last.sequence == 0,
            "an open record, and only it, comes first"
        );
        self.in_flight = Some(InFlight {
            message,
            sent: message,
            empty,
            unclear: false,
            moved_on: false,
            kept: false,
        });
        self.send()
    }

    /// Begins a batch that is kept from the start. `empty`: the empty batch with which a dead process may have moved the
    /// lane on; [`BatchId::NIL`]: none.
    ///
    /// # Panics
    /// As [`Self::begin`].
    pub fn begin_kept(&mut self, batch: BatchId, empty: BatchId) -> Next {
        let next = self.begin(Message::Batch(batch), empty);
        let current = self.current();
        current.kept = true;
        current.moved_on = empty != BatchId::NIL;
        next
    }

    /// The message in flight is acknowledged. The lane sends it until it is stored, or until an earlier empty batch is
    /// stored.
    pub fn keep(&mut self) {
        if let Some(current) = &mut self.in_flight {
            current.kept = true;
        }
    }

    /// Handles the outcome of the attempt of [`Next::Publish`].
    pub fn attempted(&mut self, outcome: AttemptOutcome) -> Next {
        let last = self.last.sequence;
        let current = self.current();
        match outcome {
            AttemptOutcome::Stored { sequence } if sequence > last => {
                let stored = current.sent;
                self.stored(stored, sequence)
            }
            AttemptOutcome::Stored { .. } => self.fail("an acknowledged sequence lies before the lane's last"),
            AttemptOutcome::WrongLast => Next::Read,
            AttemptOutcome::Unclear => {
                current.unclear = true;
                Next::Read
            }
            AttemptOutcome::Refused => match current.message {
                Message::Batch(_) if current.kept => self.send(),
                Message::Batch(_) if !current.unclear => self.done(MessageOutcome::NotStored),
                Message::Batch(_) => {
                    current.moved_on = true;
                    self.send()
                }
                // Nobody waits for the outcome of these: send again, until the caller gives up.
                Message::Open | Message::Close => self.send(),
            },
        }
    }

    /// Handles the lane's last record, for [`Next::Read`].
    pub fn read(&mut self, read: LastRecord) -> Next {
        let last = self.last;
        let current = *self.current();
        let (sequence, record) = match read {
            LastRecord::At { sequence, record } => (sequence, record),
            LastRecord::None if last.sequence == 0 => return self.send(),
            LastRecord::None => return self.fail("the lane's records are gone"),
        };
        match record {
            _ if sequence < last.sequence => self.fail("the lane's last sequence went back"),
            _ if sequence == last.sequence => self.send(),
            Seen::Fence { last_batch } => {
                // Only these batches can be the last before the fence.
                let stored = match current.message {
                    Message::Batch(batch) if batch == last_batch => true,
                    _ if last_batch == last.batch => false,
                    _ if current.moved_on && last_batch == current.empty => false,
                    _ => return self.fail("a fence names a batch that cannot be the last before it"),
                };
                self.end = Some(End::Fenced);
                self.done(if stored {
                    MessageOutcome::Stored
                } else {
                    MessageOutcome::NotStored
                })
            }
            Seen::Ours(message) if current.may_be(message) => self.stored(message, sequence),
            Seen::Ours(_) => self.fail("a record of ours that was not in flight is the lane's last"),
            Seen::Foreign => self.fail("another run has written to the lane"),
            Seen::Unreadable => self.fail("the lane's last record cannot be read"),
        }
    }

    fn send(&mut self) -> Next {
        let expected = self.last.sequence;
        let current = self.current();
        current.sent = current.message_now();
        Next::Publish {
            message: current.sent,
            expected,
        }
    }

    /// The lane's last record is now `stored`: the message in flight, or the empty batch in its place.
    fn stored(&mut self, stored: Message, sequence: u64) -> Next {
        let batch = match stored {
            Message::Batch(batch) => batch,
            Message::Open | Message::Close => BatchId::NIL,
        };
        self.last = Last { sequence, batch };
        if stored == Message::Close {
            self.end = Some(End::Closed);
        }
        let outcome = if stored == self.current().message {
            MessageOutcome::Stored
        } else {
            MessageOutcome::NotStored
        };
        self.done(outcome)
    }

    fn fail(&mut self, why: &'static str) -> Next {
        self.end = Some(End::Failed(why));
        self.done(MessageOutcome::Unknown)
    }

    fn done(&mut self, outcome: MessageOutcome) -> Next {
        self.in_flight = None;
        Next::Done(outcome)
    }

    fn current(&mut self) -> &mut InFlight {
        self.in_flight.as_mut().expect("a caller answers what it was asked for")
    }
}

impl Default for Lane {
    fn default() -> Self {
        Self::new()
    }
}

impl InFlight {
    /// The message to send now.
    fn message_now(&self) -> Message {
        if self.moved_on && !self.kept {
            Message::Batch(self.empty)
        } else {
            self.message
        }
    }

    fn may_be(&self, message: Message) -> bool {
        message == self.message || (self.moved_on && message == Message::Batch(self.empty))
    }
}

impl Seen {
    /// Decodes `bytes`, a record in the lane of `run`.
    pub fn decode(bytes: &[u8], run: RunId) -> Self {
        let Ok(record) = LaneRecord::decode(bytes) else {
            return Self::Unreadable;
        };
        match record.kind {
            Kind::Fence { last_batch } => Self::Fence { last_batch },
            _ if record.run_id != run => Self::Foreign,
            Kind::Open => Self::Ours(Message::Open),
            Kind::Batch { batch_id, .. } => Self::Ours(Message::Batch(batch_id)),
            Kind::Close => Self::Ours(Message::Close),
        }
    }
}

#[cfg(test)]
mod tests;
