//! The effect of each action.

mod writes;

use super::{
    ManifestModel,
    action::{Action, Response},
    bounds::Mutant,
    state::{Goal, Insert, Manifest, Pending, Phase, Stage, State},
};
use protocol::{
    claim::{self, Beginning},
    range::progress,
    storing::{Absent, StoredRows, Storing, Tried},
};

impl ManifestModel {
    pub(super) fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Take { ingestor, response } => self.take(state, ingestor, response),
            Action::Seal {
                ingestor,
                last,
                response,
            } => self.seal(state, ingestor, last, response),
            Action::StoreDuplicates { ingestor } => self.store_duplicates(state, ingestor),
            Action::Send { ingestor } => self.send(state, ingestor),
            Action::Lands(insert) => {
                state.air.remove(&insert);
                if state.tokens.insert(insert.token) {
                    insert.rows.iter().for_each(|position| state.add_row(position));
                }
                self.confirm(state, insert);
            }
            Action::Swallowed(insert) => {
                state.faults.swallowed += 1;
                state.air.remove(&insert);
                state.tokens.insert(insert.token);
            }
            Action::Look { ingestor } => self.look(state, ingestor),
            Action::WriteDone { ingestor, response } => {
                let Phase::Ready { done, .. } = state.ingestors[usize::from(ingestor)].phase else {
                    return;
                };
                let next = Manifest::decode(&progress(&held(ingestor), done.into(), None));
                self.write(state, ingestor, next, Goal::Continue { done }, response);
            }
            Action::EntryLands(write) => state.write(write.entry, None),
            Action::ReadEntry { ingestor } => self.read_entry(state, ingestor),
            Action::Forget(token) => {
                state.faults.forgotten += 1;
                state.tokens.remove(&token);
            }
            Action::Expire => state.expired = true,
            Action::Crash { ingestor } => {
                state.faults.crashes += 1;
                set(state, ingestor, Phase::Away);
                state.ingestors[usize::from(ingestor)].current = false;
                stop_waiting(state, ingestor);
            }
            Action::Trim => state.trimmed = self.trim_through(state),
            Action::LoseManifest => {
                state.faults.manifests += 1;
                state.write(Manifest::default(), None);
            }
            Action::Audit => state.rows = self.audit(state),
        }
    }

    fn take(&self, state: &mut State, ingestor: u8, response: Response) {
        if self.owner_works(state) {
            state.faults.suspicions += 1;
        }
        let stored = Some(state.stored_through()).filter(|stored| *stored > 0);
        let entry = state.manifest.encode(self.bounds.events);
        let ours = match claim::beginning(entry, self.stream(), stored.map(u64::from)) {
            Beginning::At(manifest) | Beginning::Moved(manifest) => {
                Manifest::decode(&claim::claimed(manifest, &ingestor.to_string()))
            }
            Beginning::Alarm(_) => {
                state.alarmed = true;
                return;
            }
        };
        // The ingestor has read the entry in this step.
        state.ingestors[usize::from(ingestor)].current = true;
        self.write(state, ingestor, ours, Goal::Begin, response);
    }

    /// The work on a claimed shard begins where its entry says.
    fn begin_at(&self, state: &State, entry: Manifest) -> Phase {
        let Some(pending) = entry.pending else {
            return Phase::Ready {
                done: entry.done_through,
                recorded: true,
            };
        };
        let has_row = |event| (1..=self.last()).any(|other| self.event(other) == event && state.rows_at(other) > 0);
        let dropped = if self.is(Mutant::DuplicatesNotInManifest) {
            let positions = pending.positions();
            positions.filter(|position| has_row(self.event(*position))).collect()
        } else {
            pending.dropped
        };
        self.storing(Pending { dropped, ..pending }, Tried::Perhaps)
    }

    fn seal(&self, state: &mut State, ingestor: u8, last: u8, response: Response) {
        let Phase::Ready { done, .. } = state.ingestors[usize::from(ingestor)].phase else {
            return;
        };
        let Some(sealed) = self.sealed(state, done + 1, last) else {
            return;
        };
        let pending = Pending::decode(&sealed);
        let (done, in_manifest) = match self.mutant {
            Some(Mutant::DoneBeforeInsert) => (last, None),
            Some(Mutant::TokenFromFetch) => (done, None),
            _ => (done, Some(sealed)),
        };
        let next = Manifest::decode(&progress(&held(ingestor), done.into(), in_manifest));
        self.write(state, ingestor, next, Goal::Store(pending), response);
    }

    fn storing(&self, pending: Pending, tried: Tried) -> Phase {
        let late = self.is(Mutant::DuplicatesAfterRows);
        let stage = if pending.dropped.is_empty() || late {
            Stage::of(Storing::new(tried))
        } else {
            Stage::Duplicates { tried }
        };
        Phase::Storing { pending, stage }
    }

    fn store_duplicates(&self, state: &mut State, ingestor: u8) {
        let Phase::Storing { pending, stage } = state.ingestors[usize::from(ingestor)].phase else {
            return;
        };
        if !state.is_held_by(ingestor) && !self.is(Mutant::NoSecondLook) {
            return give_up(state, ingestor);
        }
        state.duplicates.add(pending.dropped);
        let done = Phase::Ready {
            done: pending.last,
            recorded: false,
        };
        let phase = match stage {
            Stage::Duplicates { tried } if !pending.rows().is_empty() => Phase::Storing {
                pending,
                stage: Stage::of(Storing::new(tried)),
            },
            _ => done,
        };
        set(state, ingestor, phase);
    }

    fn send(&self, state: &mut State, ingestor: u8) {
        let Phase::Storing {
            pending,
            stage: Stage::Send(storing),
        } = state.ingestors[usize::from(ingestor)].phase
        else {
            return;
        };
        if !state.is_held_by(ingestor) && !self.is(Mutant::NoSecondLook) {
            return give_up(state, ingestor);
        }
        state.air.insert(Insert {
            token: pending.token(storing.token() as u8),
            rows: pending.rows(),
            waits: Some(ingestor),
        });
        let stage = Stage::Sent {
            storing,
            confirmed: false,
        };
        set(state, ingestor, Phase::Storing { pending, stage });
    }

    /// The response reaches the ingestor that waits for it.
    fn confirm(&self, state: &mut State, insert: Insert) {
        let Some(waits) = insert.waits else { return };
        if let Phase::Storing {
            stage: Stage::Sent { confirmed, .. },
            ..
        } = &mut state.ingestors[usize::from(waits)].phase
        {
            *confirmed = true;
        }
    }

    fn look(&self, state: &mut State, ingestor: u8) {
        let Phase::Storing { pending, stage } = state.ingestors[usize::from(ingestor)].phase else {
            return;
        };
        let (mut storing, confirmed) = match stage {
            Stage::Look(storing) => (storing, false),
            Stage::Sent { mut storing, confirmed } => {
                storing.inserted(confirmed || self.is(Mutant::NextTokenWhileUnclear));
                (storing, confirmed)
            }
            _ => return,
        };
        // From here on, nobody waits for the response to the insert.
        stop_waiting(state, ingestor);
        let rows = |position: u8| u64::from(state.rows_at(position));
        let all: u64 = pending.positions().map(rows).sum();
        let positions = pending.positions().filter(|position| rows(*position) > 0).count() as u64;
        let phase = match StoredRows::of(pending.rows().len().into(), all, positions) {
            _ if confirmed && self.is(Mutant::DoneUnseen) => self.seen(pending),
            // Only the mutant looks for the rows of a range that has none.
            _ if pending.rows().is_empty() => self.seen(pending),
            StoredRows::Whole | StoredRows::Doubled { .. } => self.seen(pending),
            StoredRows::Absent => match storing.absent() {
                Absent::TryAgain | Absent::NextToken => Phase::Storing {
                    pending,
                    stage: Stage::of(storing),
                },
                Absent::GiveUp => Phase::Away,
            },
            StoredRows::Partial { .. } if state.ingestors[usize::from(ingestor)].current => {
                state.alarmed = true;
                return;
            }
            // A false alarm: the ingestor starts over and finds that another one owns the shard.
            StoredRows::Partial { .. } => Phase::Away,
        };
        set(state, ingestor, phase);
    }

    fn seen(&self, pending: Pending) -> Phase {
        if self.is(Mutant::DuplicatesAfterRows) && !pending.dropped.is_empty() {
            let stage = Stage::DuplicatesLate;
            return Phase::Storing { pending, stage };
        }
        Phase::Ready {
            done: pending.last,
            recorded: false,
        }
    }
}

/// The entry that an ingestor holds, as far as its next entry depends on it.
fn held(ingestor: u8) -> schema::Manifest {
    schema::Manifest {
        owner: Some(ingestor.to_string()),
        generation: 1,
        ..schema::Manifest::default()
    }
}

fn set(state: &mut State, ingestor: u8, phase: Phase) {
    state.ingestors[usize::from(ingestor)].phase = phase;
}

fn give_up(state: &mut State, ingestor: u8) {
    set(state, ingestor, Phase::Away);
    stop_waiting(state, ingestor);
}

fn stop_waiting(state: &mut State, ingestor: u8) {
    state.air = std::mem::take(&mut state.air)
        .into_iter()
        .map(|insert| Insert {
            waits: insert.waits.filter(|waits| *waits != ingestor),
            ..insert
        })
        .collect();
}
