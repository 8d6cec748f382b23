//! Writes of the entry, each by compare-and-set ([`protocol::compare_and_set`]).

use protocol::{
    compare_and_set::{Next, UpdateOutcome, Write, WriteOutcome},
    storing::Tried,
};

use super::{
    super::{
        ManifestModel,
        action::Response,
        bounds::Mutant,
        state::{CURRENT, EntryWrite, Goal, Manifest, Phase, State},
    },
    give_up, set,
};

impl ManifestModel {
    /// Writes over the revision that the ingestor holds. Gives the shard up if another ingestor wrote meanwhile.
    pub(super) fn write(&self, state: &mut State, ingestor: u8, entry: Manifest, goal: Goal, response: Response) {
        let mut write = Write::over(state.revision_of(ingestor));
        let outcome = match response {
            Response::Received => self.update(state, ingestor, entry),
            Response::Lost => self.send_entry(state, ingestor, entry),
        };
        let next = write.updated(outcome);
        self.go_on(state, ingestor, entry, goal, write, next);
    }

    /// Learns the outcome of a write.
    pub(super) fn read_entry(&self, state: &mut State, ingestor: u8) {
        let of_ingestor = state.ingestors[usize::from(ingestor)];
        let Phase::Writing { entry, goal, write } = of_ingestor.phase else {
            return;
        };
        // Revisions are not counted: after any other write, the entry has a revision that this ingestor has not seen.
        let revision = if of_ingestor.current { CURRENT } else { CURRENT + 1 };
        let found = Some(&state.manifest).filter(|manifest| manifest.exists);
        let next = write.read(&entry, found, revision);
        self.go_on(state, ingestor, entry, goal, write, next);
    }

    fn go_on(&self, state: &mut State, ingestor: u8, entry: Manifest, goal: Goal, mut write: Write, next: Next) {
        match next {
            // In the same step: if another ingestor wrote between the read and this attempt, the next read finds that.
            Next::Update => {
                let next = write.updated(self.update(state, ingestor, entry));
                self.go_on(state, ingestor, entry, goal, write, next);
            }
            Next::Read => set(state, ingestor, Phase::Writing { entry, goal, write }),
            Next::Done(WriteOutcome::Written { .. }) => {
                state.ingestors[usize::from(ingestor)].current = true;
                let phase = match goal {
                    Goal::Begin => self.begin_at(state, entry),
                    Goal::Store(pending) => self.storing(pending, Tried::Never),
                    Goal::Continue { done } => Phase::Ready { done, recorded: true },
                };
                set(state, ingestor, phase);
            }
            Next::Done(WriteOutcome::Lost) => give_up(state, ingestor),
        }
    }

    /// The bucket stores the entry if it still has the revision that the writer holds, and the writer gets the response.
    fn update(&self, state: &mut State, writer: u8, entry: Manifest) -> UpdateOutcome {
        if !state.is_held_by(writer) && !self.is(Mutant::NoCompareAndSet) {
            return UpdateOutcome::WrongRevision;
        }
        state.write(entry, Some(writer));
        UpdateOutcome::Written { revision: CURRENT }
    }

    /// The entry is on its way to the bucket, and the writer stops waiting.
    fn send_entry(&self, state: &mut State, writer: u8, entry: Manifest) -> UpdateOutcome {
        state.faults.unclear += 1;
        if state.is_held_by(writer) {
            state.entry_writes.insert(EntryWrite { writer, entry });
        }
        if self.is(Mutant::UnclearIsWritten) {
            return UpdateOutcome::Written { revision: CURRENT };
        }
        UpdateOutcome::Unclear
    }
}
