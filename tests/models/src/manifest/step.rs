//! The effect of each action.

use super::{
    ManifestModel,
    action::Action,
    bounds::Mutant,
    state::{Insert, Manifest, Pending, Phase, Stage, State},
};
use protocol::{
    claim::{self, Beginning},
    storing::{Absent, StoredRows, Storing, Tried},
};

impl ManifestModel {
    pub(super) fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Take { ingestor } => self.take(state, ingestor),
            Action::Seal { ingestor, last } => self.seal(state, ingestor, last),
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
            Action::WriteDone { ingestor } => {
                let Phase::Ready { done, .. } = state.ingestors[usize::from(ingestor)].phase else {
                    return;
                };
                let manifest = Manifest {
                    exists: true,
                    owner: Some(ingestor),
                    done_through: done,
                    pending: None,
                };
                if self.write(state, ingestor, manifest) {
                    set(state, ingestor, Phase::Ready { done, recorded: true });
                }
            }
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
                state.manifest = Manifest::default();
                state.ingestors.iter_mut().for_each(|ingestor| ingestor.current = false);
            }
            Action::Audit => state.rows = self.audit(state),
        }
    }

    /// Compare-and-set: returns false and gives the shard up if another ingestor wrote meanwhile.
    fn write(&self, state: &mut State, ingestor: u8, manifest: Manifest) -> bool {
        if !state.ingestors[usize::from(ingestor)].current && !self.is(Mutant::NoCompareAndSet) {
            give_up(state, ingestor);
            return false;
        }
        state.write(ingestor, manifest);
        true
    }

    fn take(&self, state: &mut State, ingestor: u8) {
        if self.owner_works(state) {
            state.faults.suspicions += 1;
        }
        let stored = Some(state.stored_through()).filter(|stored| *stored > 0);
        let ours = match claim::beginning(state.manifest.encode(), self.stream(), stored.map(u64::from)) {
            Beginning::At(manifest) | Beginning::Moved(manifest) => Manifest::decode(&manifest, ingestor),
            Beginning::Alarm(_) => {
                state.alarmed = true;
                return;
            }
        };
        state.write(ingestor, ours);
        let phase = match ours.pending {
            Some(pending) => {
                let has_row =
                    |event| (1..=self.last()).any(|other| self.event(other) == event && state.rows_at(other) > 0);
                let dropped = if self.is(Mutant::DuplicatesNotInManifest) {
                    let positions = pending.positions();
                    positions.filter(|position| has_row(self.event(*position))).collect()
                } else {
                    pending.dropped
                };
                self.storing(Pending { dropped, ..pending }, Tried::Perhaps)
            }
            None => Phase::Ready {
                done: ours.done_through,
                recorded: true,
            },
        };
        set(state, ingestor, phase);
    }

    fn seal(&self, state: &mut State, ingestor: u8, last: u8) {
        let Phase::Ready { done, .. } = state.ingestors[usize::from(ingestor)].phase else {
            return;
        };
        let pending = Pending {
            first: done + 1,
            last,
            dropped: self.duplicates_in(state, done + 1, last),
        };
        let manifest = Manifest {
            exists: true,
            owner: Some(ingestor),
            done_through: if self.is(Mutant::DoneBeforeInsert) { last } else { done },
            pending: (!self.is(Mutant::TokenFromFetch) && !self.is(Mutant::DoneBeforeInsert)).then_some(pending),
        };
        if self.write(state, ingestor, manifest) {
            let phase = self.storing(pending, Tried::Never);
            set(state, ingestor, phase);
        }
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
        if !state.ingestors[usize::from(ingestor)].current && !self.is(Mutant::NoSecondLook) {
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
        let of_ingestor = state.ingestors[usize::from(ingestor)];
        let Phase::Storing {
            pending,
            stage: Stage::Send(storing),
        } = of_ingestor.phase
        else {
            return;
        };
        if !of_ingestor.current && !self.is(Mutant::NoSecondLook) {
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
