//! One run of the suite, from its start to its report.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{task::JoinSet, time::Instant};

use super::{
    cast,
    checker::{self, Violation, Violations},
    evidence::Evidence,
    history::History,
    load::Load,
    operator::Operator,
    plan::{self, Step, Targets},
    report::Report,
    rest, setup,
    stopwatch::Stopwatch,
    stores,
    strike::{self, Striker},
    system::{DEAD_AFTER, System},
    timeline::Timeline,
};

#[derive(Clone, Debug)]
pub struct Options {
    /// Services run as `<exe> service <name>`.
    pub exe: PathBuf,
    pub seed: u64,
    /// How long faults are injected.
    pub length: Duration,
    /// How long the load and the operator's changes continue after the last fault. Some claims hold only without trouble: a
    /// change takes effect within a second, and no refusal is false. If this time is longer than a minute, the last part of it
    /// checks these claims.
    pub calm: Duration,
    pub calls_per_second: f64,
    pub clients: usize,
    /// Kinds of faults; empty: all.
    pub only: Vec<String>,
    /// Print progress to standard error.
    pub talk: bool,
}

impl Options {
    pub fn new(exe: PathBuf, seed: u64, length: Duration) -> Self {
        Self {
            exe,
            seed,
            length,
            calm: (length / 6).clamp(Duration::from_secs(4), Duration::from_secs(90)),
            calls_per_second: 200.0,
            clients: 32,
            only: Vec::new(),
            talk: false,
        }
    }

    pub fn targets(&self) -> Targets {
        Targets {
            gateways: 3,
            ingestors: 2,
            billing_workers: 2,
            dead_after: DEAD_AFTER,
        }
    }

    pub fn plan(&self) -> Vec<Step> {
        plan::plan(self.seed, self.length, &self.targets(), &self.only)
    }
}

/// Runs the suite. An error is a failure of the suite itself; failures of the system are in the report.
pub async fn run(options: &Options) -> Result<Report> {
    let say = |line: String| {
        if options.talk {
            eprintln!("faults: {line}");
        }
    };
    say("starting NATS, PostgreSQL, ClickHouse, a fake Stripe, 3 gateways, 2 ingestors, 2 billing workers".to_owned());
    let mut system = System::start(options.exe.clone(), &options.targets()).await?;
    let judged = judge(options, &mut system, &say).await;
    // Keep the data of a failed run, too: the logs show the reason.
    let is_clean = judged.as_ref().is_ok_and(|report| report.violations.is_clean());
    if !is_clean {
        system.data.keep()?;
        say(format!(
            "logs, history and data are kept in {}",
            system.data.path().display()
        ));
    }
    judged.map(|report| Report {
        kept: (!is_clean).then(|| system.data.path().to_owned()),
        ..report
    })
}

async fn judge(options: &Options, system: &mut System, say: &impl Fn(String)) -> Result<Report> {
    let (cast, limits) = setup::make(system, options.length)
        .await
        .context("creating the accounts")?;
    let history = History::create(&system.data.path().join("history.jsonl"))?;
    let (stopwatch, timeline) = (Stopwatch::start(), Arc::<Mutex<Timeline>>::default());
    let load = Load {
        cast: cast.clone(),
        history: history.clone(),
        stopwatch,
        gateways: Arc::new(system.gateways.clone()),
        calls_per_second: options.calls_per_second,
        clients: options.clients,
        seed: options.seed,
        calls: Arc::default(),
    };
    let operator = Operator::new(system.admins.clone(), cast.clone(), stopwatch, limits, options.seed);
    let striker = Arc::new(Striker {
        operator: operator.clone(),
        load: load.clone(),
        stopwatch,
        timeline: timeline.clone(),
        struck: Arc::default(),
        gave_up: Arc::default(),
        reach: system.reach.clone(),
    });
    let over = Arc::new(AtomicBool::new(false));
    let mut keeper = JoinSet::new();
    keeper.spawn(strike::keep(
        system.reach.clone(),
        striker.gave_up.clone(),
        over.clone(),
    ));

    say(format!("clients send; faults for {:?}", options.length));
    let loading = load.start();
    strike_all(options, &striker, stopwatch, say).await?;
    say("healing".to_owned());
    let mut violations = Violations::default();
    let well = rest::heal(system).await;
    record_unsettled(&mut violations, well);
    say(format!("no more faults; clients continue for {:?}", options.calm));
    keep_operating(&operator, options.calm).await?;
    loading.stop().await.context("stopping the clients")?;
    over.store(true, Ordering::Release);
    while let Some(kept) = keeper.join_next().await {
        kept??;
    }

    say("stopping the gateways, and waiting until the system has settled".to_owned());
    record_unsettled(&mut violations, rest::stop_gateways(system).await);
    record_unsettled(&mut violations, rest::drained(system).await);
    let reconciled = rest::reported(system).await;
    record_unsettled(&mut violations, reconciled);

    say("checking".to_owned());
    let operated = operator.changes();
    let troubles = timeline.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let rows = stores::rows(system).await?;
    let evidence = Evidence {
        accounts: cast.members.iter().map(|member| member.id).collect(),
        keys: cast.key_ids(),
        usage_types: cast::USAGE_TYPES.map(str::to_owned).to_vec(),
        history: history.take()?,
        limits: operated.limits,
        revocations: operated.revocations,
        timeline: troubles,
        steady: cast.with_role(&[cast::Role::Near]).into_iter().collect(),
        pools: stores::pools(system).await?,
        leases: stores::leases(system).await?,
        stream: stores::stream(system).await?,
        reported: stores::reported(system, &cast, &rows).await?,
        settled_ms: i64::try_from(rest::SETTLED_WITHIN.as_millis())?,
        rows,
    };
    let (found, figures) = checker::check(&evidence);
    violations.merge(found);
    let struck = striker.struck.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let gave_up = striker.gave_up.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Report {
        seed: options.seed,
        seconds: options.length.as_secs(),
        figures,
        faults: struck,
        rows: evidence.rows.len(),
        revocations: evidence.revocations.len(),
        gave_up,
        violations,
        kept: None,
    })
}

/// Starts each step at its time, in parallel. Returns when the last fault is over.
async fn strike_all(options: &Options, striker: &Arc<Striker>, since: Stopwatch, say: &impl Fn(String)) -> Result<()> {
    let mut striking = JoinSet::new();
    for step in options.plan() {
        let at_ms = i64::try_from(step.at.as_millis())?;
        let wait_ms = u64::try_from(at_ms - since.now_ms()).unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        if step.fault.kind() != "business" {
            say(step.to_string());
        }
        let striker = striker.clone();
        striking.spawn(async move { striker.strike(step).await });
    }
    while let Some(struck) = striking.join_next().await {
        struck??;
    }
    Ok(())
}

/// Changes continue while no fault is active. Now each change must take effect within a second.
async fn keep_operating(operator: &Operator, length: Duration) -> Result<()> {
    let end = Instant::now() + length;
    let mut turns = tokio::time::interval(Duration::from_millis(500));
    for turn in 0u32.. {
        turns.tick().await;
        if Instant::now() >= end {
            break;
        }
        match turn % 6 {
            0 | 3 => operator.revoke().await?,
            1 => operator.change_plan().await,
            _ => operator.change_limit().await,
        }
    }
    Ok(())
}

fn record_unsettled(violations: &mut Violations, outcome: Result<()>) {
    if let Err(why) = outcome {
        violations.record(Violation::Restless, || format!("{why:#}"));
    }
}
