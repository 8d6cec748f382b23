//! The protocol of one lane, as a state machine without I/O: which message goes out, and what became of it.
//!
//! A lane is one subject of the stream, written by one run, **one message in flight**. Every attempt to publish carries
//! the sequence of the lane's last record that we know, and NATS refuses it when that is not the subject's last. So of all
//! attempts that carry one expected sequence at most one is ever stored, whenever they arrive: a message may be sent
//! again as often as need be, as long as the expected sequence stays.
//!
//! # What an answer proves
//! | seen | proves |
//! |---|---|
//! | an acknowledgement | the attempt is stored |
//! | wrong last sequence (10071) | *this* attempt is not; an earlier one may be, or a fence: read the lane's last record |
//! | a refusal (full, too large) | *this* attempt is not, and never will be: core NATS delivers a publish once or not at all |
//! | time-out, disconnect, anything else | nothing: read the lane's last record |
//! | last record is our message | it is stored |
//! | last record is the one before | it is not stored **yet**: an attempt may still be under way. Send it again |
//! | last record is a fence | stored if the fence names it, else never: what is under way expects a sequence that is gone |
//!
//! # Saying "not stored"
//! A refusal is the last word only when no other attempt of the same message can still land, that is, when every attempt
//! was answered. Otherwise the message that is under way (in the client's buffer, in a socket, in a server that is being
//! restarted) could land after its waiters were told that it never will. So after an unclear attempt a refusal is not
//! believed: the lane is **moved on** with an empty batch, small enough to find room, under the same expected sequence.
//! One of the two is stored, for ever instead of the other: the empty one → not stored; the message → stored.
//!
//! # A message that is kept
//! While NATS is away, a batch is acknowledged from the spool. From then on ([`Lane::keep`]) nobody waits for a verdict on
//! it: it is sent until it is stored, whatever it is refused for, and the lane is not moved on past it. A lane that was moved
//! on before that may hold the empty batch; then the verdict is "not stored", and the batch is begun again.
//! A restart finds out where a lane stands from its last record ([`Lane::resume`]): of what is in the spool, what was
//! stored is the beginning, up to that record.
//!
//! # The end of a lane
//! Fenced by another, closed by ourselves, or failed: something was seen that cannot be (a sequence that went back, a
//! stranger's record). A failed lane says "unknown" of what was in flight, never more, and writes nothing again.

use schema::{BatchId, LaneRecord, RunId, lane_record::Kind};

/// One lane of one run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The lane's last record, as far as is known.
    last: Last,
    in_flight: Option<InFlight>,
    end: Option<End>,
}

/// A message of the lane, by what tells it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    Open,
    Batch(BatchId),
    Close,
}

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Next {
    /// Publish `message` under `expected`, then [`Lane::answered`]. A batch that is not the one begun is to be empty.
    Publish { message: Message, expected: u64 },
    /// Read the lane's last record from the stream's leader, then [`Lane::read`].
    Read,
    /// Nothing: the message has its verdict.
    Done(Verdict),
}

/// How an attempt to publish ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Stored {
        sequence: u64,
    },
    WrongLast,
    /// This attempt is not stored and never will be; or it was not sent at all.
    Refused,
    /// Nothing is known: time-out, disconnect, an answer that is not understood.
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
    /// Of another run.
    Foreign,
    /// Damaged, or of a newer version.
    Unreadable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Stored,
    /// Neither stored nor ever to be.
    NotStored,
    /// The lane failed: nobody can say.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    Closed,
    Fenced,
    /// What was seen that cannot be.
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
    /// What the attempt under way carries: the message, or the empty batch.
    sent: Message,
    /// The batch that moves the lane on, should it come to that.
    empty: BatchId,
    /// An attempt of `message` was not answered: it may still land.
    unclear: bool,
    /// The empty batch was sent in its place, or may have been.
    moved_on: bool,
    /// It is acknowledged: the empty batch is not sent any more.
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

    /// The lane of a run whose process died, from the last record that the stream's leader has of it. Fails where nothing
    /// can be written behind it; a fence and a close are ends.
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

    /// Sequence of the lane's last record, and the batch that it is or, of a fence, names ([`BatchId::NIL`]: none).
    pub fn last(&self) -> (u64, BatchId) {
        (self.last.sequence, self.last.batch)
    }

    /// Nothing is written to the lane from here on.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Takes the next message. `empty` is a batch id of its own, for an empty batch.
    ///
    /// # Panics
    /// When one is in flight already, the lane has ended, or it does not begin with [`Message::Open`].
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

    /// Takes a batch that is kept from the start. `empty`: that the lane may have been moved on with, by a process that
    /// died; [`BatchId::NIL`]: none.
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

    /// The message in flight is acknowledged: it is sent until it is stored, or the empty batch that was sent before is.
    pub fn keep(&mut self) {
        if let Some(current) = &mut self.in_flight {
            current.kept = true;
        }
    }

    /// The attempt that [`Next::Publish`] asked for ended so.
    pub fn answered(&mut self, answer: Answer) -> Next {
        let last = self.last.sequence;
        let current = self.current();
        match answer {
            Answer::Stored { sequence } if sequence > last => {
                let stored = current.sent;
                self.stored(stored, sequence)
            }
            Answer::Stored { .. } => self.fail("an acknowledged sequence lies before the lane's last"),
            Answer::WrongLast => Next::Read,
            Answer::Unclear => {
                current.unclear = true;
                Next::Read
            }
            Answer::Refused => match current.message {
                Message::Batch(_) if current.kept => self.send(),
                Message::Batch(_) if !current.unclear => self.done(Verdict::NotStored),
                Message::Batch(_) => {
                    current.moved_on = true;
                    self.send()
                }
                // Nobody waits for a verdict on these: try on, until the caller gives up.
                Message::Open | Message::Close => self.send(),
            },
        }
    }

    /// The last record that [`Next::Read`] asked for.
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
                // Of batches only these can stand before it.
                let stored = match current.message {
                    Message::Batch(batch) if batch == last_batch => true,
                    _ if last_batch == last.batch => false,
                    _ if current.moved_on && last_batch == current.empty => false,
                    _ => return self.fail("a fence names a batch that cannot be the last before it"),
                };
                self.end = Some(End::Fenced);
                self.done(if stored { Verdict::Stored } else { Verdict::NotStored })
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

    /// `stored`, which is the message in flight or the empty batch in its place, is the lane's last record.
    fn stored(&mut self, stored: Message, sequence: u64) -> Next {
        let batch = match stored {
            Message::Batch(batch) => batch,
            Message::Open | Message::Close => BatchId::NIL,
        };
        self.last = Last { sequence, batch };
        if stored == Message::Close {
            self.end = Some(End::Closed);
        }
        let verdict = if stored == self.current().message {
            Verdict::Stored
        } else {
            Verdict::NotStored
        };
        self.done(verdict)
    }

    fn fail(&mut self, why: &'static str) -> Next {
        self.end = Some(End::Failed(why));
        self.done(Verdict::Unknown)
    }

    fn done(&mut self, verdict: Verdict) -> Next {
        self.in_flight = None;
        Next::Done(verdict)
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
    /// What goes out now.
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
    /// What `bytes`, a record of the lane of `run`, are to that lane.
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
