//! `cargo run --release -p models -- [--large]`: explores the protocols, then each mutant. The exit code is 1 if a claim does
//! not hold, if something that should be possible never happened, or if a mutant passes.

use std::process::ExitCode;

use clap::Parser;
use models::{
    check::{self, Exploration},
    lease_lane_fence::{self, LeaseLaneFence},
    manifest::{self, ManifestModel},
};
use stateright::{Expectation, Model};

/// Explores the models of the protocols, and shows that each mutant fails.
#[derive(Parser)]
struct Options {
    /// Use larger bounds: takes some minutes and some gigabytes of memory
    #[arg(long)]
    large: bool,
    /// Run only one scenario, without mutants: fence, parts, return, spool; takeover, loss, window, writes
    #[arg(long)]
    only: Option<String>,
    #[arg(long, default_value_t = default_threads())]
    threads: usize,
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn main() -> ExitCode {
    let Options { large, only, threads } = Options::parse();
    let is_wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let mut failed = 0;

    let scenarios: &[_] = match large {
        true => &lease_lane_fence::bounds::Bounds::LARGE,
        false => &lease_lane_fence::bounds::Bounds::SMALL,
    };
    for (name, bounds) in scenarios.iter().filter(|(name, _)| is_wanted(name)) {
        println!("\nlease, lane, fence, settle: {name}: {bounds:?}");
        let model = LeaseLaneFence {
            bounds: *bounds,
            mutant: None,
        };
        print_claims(&model);
        failed += u32::from(!print_found(&check::states(model.clone(), None, threads)));
        // This check keeps every state and step in memory.
        if !large {
            failed += u32::from(!print_found(&check::rest(&model)));
        }
    }
    let scenarios: &[_] = match large {
        true => &manifest::bounds::Bounds::LARGE,
        false => &manifest::bounds::Bounds::SMALL,
    };
    for (name, bounds) in scenarios.iter().filter(|(name, _)| is_wanted(name)) {
        println!("\nmanifest: {name}: {bounds:?}");
        let model = ManifestModel {
            bounds: *bounds,
            mutant: None,
        };
        print_claims(&model);
        failed += u32::from(!print_found(&check::states(model.clone(), None, threads)));
        if !large {
            failed += u32::from(!print_found(&check::rest(&model)));
        }
    }

    if only.is_none() {
        failed += mutants();
    }
    match failed {
        0 => ExitCode::SUCCESS,
        n => {
            println!("\n{n} of these checks failed");
            ExitCode::FAILURE
        }
    }
}

/// Returns the number of mutants that pass although they should fail.
fn mutants() -> u32 {
    let mut failed = 0;
    println!("\nmutants: each must fail");
    for mutant in lease_lane_fence::bounds::Mutant::ALL {
        failed += u32::from(!print_mutant(
            &format!("{mutant:?}"),
            &lease_lane_fence::try_mutant(mutant),
        ));
    }
    for mutant in manifest::bounds::Mutant::ALL {
        failed += u32::from(!print_mutant(&format!("{mutant:?}"), &manifest::try_mutant(mutant)));
    }
    failed
}

fn print_claims<M: Model>(model: &M) {
    for property in model.properties() {
        let word = match property.expectation {
            Expectation::Sometimes => "possible",
            Expectation::Always | Expectation::Eventually => "always",
        };
        println!("  {word}: {}", property.name);
    }
}

/// Returns true if the result is as it should be.
fn print_found(found: &Exploration) -> bool {
    let Exploration {
        states,
        depth,
        took,
        violated,
        never,
    } = found;
    match violated {
        None if *depth == 0 => println!(
            "  ok: {}, from each of {states} states ({took:.1?})",
            check::COMES_TO_REST
        ),
        None => println!("  ok: {states} states, {depth} steps deep ({took:.1?})"),
        Some(violation) => {
            println!("  DOES NOT HOLD: {} ({states} states, {took:.1?})", violation.claim);
            print_steps(&violation.steps);
        }
    }
    for never in never {
        println!("  NEVER HAPPENED: {never}");
    }
    violated.is_none() && never.is_empty()
}

fn print_mutant(name: &str, found: &Exploration) -> bool {
    match &found.violated {
        Some(violation) => {
            println!(
                "\n  {name}: breaks \"{}\" ({} states, {:.1?})",
                violation.claim, found.states, found.took
            );
            print_steps(&violation.steps);
        }
        None => println!("\n  {name}: PASSES ({} states, {:.1?})", found.states, found.took),
    }
    found.violated.is_some()
}

fn print_steps(steps: &[String]) {
    for (number, step) in (1..).zip(steps) {
        println!("    {number:>3} {step}");
    }
}
