//! The short form of `cargo run --release -p tests --bin faults`: the same code, for about a minute.

use std::time::Duration;

use harness::faults::{self, Options, plan};

use crate::SERVICES;

#[tokio::test(flavor = "multi_thread")]
async fn guarantees_hold_in_a_short_run_of_the_fault_suite() {
    let seed = u64::from(rand::random::<u32>());
    let mut options = Options::new(SERVICES.into(), seed, Duration::from_secs(40));
    options.calls_per_second = 100.0;
    let report = faults::run(&options).await.unwrap();
    assert!(
        report.violations.is_clean(),
        "--minutes 0.67 --rate 100 --seed {seed}\n{report}"
    );
    assert!(report.figures.accepted > 500, "{report}");
}

#[test]
fn a_seed_determines_the_plan_and_a_long_run_has_every_kind_of_fault() {
    let options = |seed| Options::new(SERVICES.into(), seed, Duration::from_secs(600));
    let steps = options(7).plan();
    assert_eq!(steps, options(7).plan());
    assert_ne!(steps, options(8).plan());
    for kind in plan::KINDS {
        assert!(steps.iter().any(|step| step.fault.kind() == kind), "{kind}");
    }
    let only = ["kill".to_owned()];
    let kills = plan::plan(7, Duration::from_secs(60), &options(7).targets(), &only);
    assert!(kills.iter().all(|step| step.fault.kind() == "kill") && kills.len() > 5);
    assert!(steps.iter().all(|step| step.at + step.hold <= Duration::from_secs(600)));
}

#[tokio::test]
async fn every_mutant_still_applies() {
    let run = concat!(env!("CARGO_MANIFEST_DIR"), "/mutants/run");
    let output = tokio::process::Command::new(run).arg("--check").output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
