//! The claims that hold in every state, and the situations that must be possible for the claims to mean anything.

use stateright::Property;

use super::{
    ManifestModel,
    bounds::{Bounds, Mutant},
    state::{Phase, Stage, State},
};

const ONCE: &str = "no position has two rows";
const KEPT_ONCE: &str = "at most one event of each id is kept";
const KEPT_OR_DROPPED: &str = "no position is both kept and dropped";
const DONE: &str = "everything that is done is stored";
const TRIMMED: &str = "everything that is trimmed is stored";
const WHOLE: &str = "a range is stored whole or not at all";

impl Mutant {
    /// The claim that the mutant violates. `None`: the claim that everything comes to rest with one row for each event.
    pub fn breaks(self) -> Option<&'static str> {
        match self {
            Self::TokenFromFetch | Self::NoSecondLook | Self::NextTokenWhileUnclear => Some(ONCE),
            Self::NoCompareAndSet | Self::UnclearIsWritten => Some(ONCE),
            Self::DuplicatesNotInManifest => Some(KEPT_OR_DROPPED),
            Self::AuditStoresDuplicates => Some(KEPT_ONCE),
            Self::DoneBeforeInsert | Self::DoneUnseen => Some(DONE),
            Self::TrimPending => Some(TRIMMED),
            Self::DuplicatesAfterRows | Self::NoAudit => None,
        }
    }
}

pub(super) fn all(bounds: &Bounds) -> Vec<Property<ManifestModel>> {
    let mut properties = vec![
        Property::always(KEPT_OR_DROPPED, |model: &ManifestModel, state: &State| {
            (1..=model.last()).all(|position| state.rows_at(position) == 0 || !state.duplicates.has(position))
        }),
        Property::always(TRIMMED, |_: &ManifestModel, state: &State| {
            (1..=state.trimmed).all(|position| state.is_stored(position))
        }),
        Property::sometimes(
            "everything is done and trimmed",
            |model: &ManifestModel, state: &State| state.trimmed == model.last(),
        ),
        Property::sometimes(
            "an ingestor replays a range that another one sealed",
            |_: &ManifestModel, state: &State| {
                state.ingestors.iter().any(|ingestor| {
                    matches!(
                        ingestor.phase,
                        Phase::Storing {
                            stage: Stage::Look(_),
                            ..
                        }
                    )
                })
            },
        ),
        Property::sometimes(
            "an insert is on its way although its sender has lost the shard",
            |_: &ManifestModel, state: &State| {
                state.air.iter().any(|insert| insert.waits.is_none()) && state.manifest.pending.is_none()
            },
        ),
    ];
    if bounds.audited {
        properties.push(Property::sometimes(
            "an audit has something to repair",
            |_: &ManifestModel, state: &State| state.rows.iter().any(|rows| *rows > 1),
        ));
    } else {
        properties.push(Property::always(ONCE, |_: &ManifestModel, state: &State| {
            state.rows.iter().all(|rows| *rows <= 1)
        }));
        properties.push(Property::always(WHOLE, |_: &ManifestModel, state: &State| {
            !state.alarmed
        }));
    }
    properties.push(Property::always(DONE, |_: &ManifestModel, state: &State| {
        (1..=state.manifest.done_through).all(|position| state.is_stored(position))
    }));
    properties.push(Property::always(KEPT_ONCE, |model: &ManifestModel, state: &State| {
        let kept = |position: &u8| state.rows_at(*position) > 0;
        let twice = |position: u8| {
            (1..position)
                .filter(kept)
                .any(|other| model.event(other) == model.event(position))
        };
        state.expired || !(1..=model.last()).filter(kept).any(twice)
    }));
    if bounds.unclear > 0 {
        properties.push(Property::sometimes(
            "an entry is stored although its writer got no response",
            |_: &ManifestModel, state: &State| state.unclear_writes().any(|(entry, _)| entry == state.manifest),
        ));
        properties.push(Property::sometimes(
            "another ingestor writes before an entry arrives",
            |_: &ManifestModel, state: &State| {
                let mut writes = state.unclear_writes();
                writes.any(|(entry, current)| !current && entry != state.manifest)
            },
        ));
    }
    if bounds.swallowed > 0 {
        properties.push(Property::sometimes(
            "a token without rows is followed by another token",
            |_: &ManifestModel, state: &State| state.tokens.iter().any(|token| token.number > 1),
        ));
    }
    properties
}
