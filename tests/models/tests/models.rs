//! The models at small bounds, and every mutant. At large bounds: `cargo run --release -p models -- --large`.

use models::{
    check::{self, Exploration},
    lease_lane_fence::{self, LeaseLaneFence},
    manifest::{self, ManifestModel},
};

fn holds(name: &str, found: &Exploration) {
    assert!(found.violated.is_none(), "{name}: {:#?}", found.violated);
    assert!(found.never.is_empty(), "{name}: never happened: {:?}", found.never);
}

#[test]
fn leases_lanes_fences_and_settling_are_exact_over_every_interleaving() {
    for (name, bounds) in lease_lane_fence::bounds::Bounds::SMALL {
        let model = LeaseLaneFence { bounds, mutant: None };
        holds(name, &check::rest(&model));
        holds(name, &check::states(model, None, 2));
    }
}

#[test]
fn manifests_store_every_event_once_over_every_interleaving() {
    for (name, bounds) in manifest::bounds::Bounds::SMALL {
        let model = ManifestModel { bounds, mutant: None };
        holds(name, &check::rest(&model));
        holds(name, &check::states(model, None, 2));
    }
}

#[test]
fn every_mutant_fails() {
    for mutant in lease_lane_fence::bounds::Mutant::ALL {
        let found = lease_lane_fence::try_mutant(mutant);
        assert!(found.violated.is_some(), "{mutant:?} passes: {found:?}");
    }
    for mutant in manifest::bounds::Mutant::ALL {
        let found = manifest::try_mutant(mutant);
        assert!(found.violated.is_some(), "{mutant:?} passes: {found:?}");
    }
}
