//! The statements of `quota-store` do to the rows of PostgreSQL what the functions of `protocol` do in memory. Each test sets up
//! every small state, runs the statement and the function, and compares.

use protocol::{
    give_back::{LeaseRow, LeaseState, Total},
    grant::Pool,
    run::{RunState, Transition},
};
use quota_store::{
    leases::{self, Grant, Return},
    pools::{self, PoolKey},
    spooling, writers,
};
use schema::{AccountId, LeaseId, RunId, period::instant};
use sqlx::{Connection, PgConnection};

use super::rig::Database;

const PERIOD_START: i64 = 1_795_000_000;
/// Units of each lease.
const UNITS: i64 = 3;

/// A run and its leases, in a transaction that is rolled back.
struct Rows {
    run: RunId,
    state: RunState,
    leases: Vec<Lease>,
    /// The granted units of each pool.
    granted: i64,
}

struct Lease {
    id: LeaseId,
    row: LeaseRow,
    pool: PoolKey,
}

#[tokio::test]
async fn giving_back_changes_rows_as_the_protocol_says() {
    let database = Database::open().await;
    let mut connection = connect(&database).await;
    for state in RunState::ALL {
        for (units, last) in (0..=UNITS + 1)
            .chain([i64::MAX])
            .flat_map(|units| [(units, false), (units, true)])
        {
            for granted in [100, 1] {
                let mut tx = connection.begin().await.unwrap();
                let rows = Rows::insert(&mut tx, state, granted).await;
                // As the gateway's transaction does it.
                let run = writers::lock_for_grants(&mut tx, rows.run).await.unwrap().unwrap();
                assert_eq!(run.state, state);
                let mut returned = 0;
                if run.state.is_active() {
                    let one = |lease: &Lease| Return {
                        lease: lease.id,
                        total_units: units,
                        is_last: last,
                    };
                    let returns: Vec<_> = rows.leases.iter().map(one).collect();
                    let pools = leases::give_back(&mut tx, rows.run, &returns).await.unwrap();
                    returned = pools.iter().map(|pool| pool.units).sum();
                }
                let total = Total { units, last };
                let expected = rows.assert_changed(&mut tx, |row| row.give_back(state, total)).await;
                assert_eq!(returned, expected, "{state:?} {total:?}");
                tx.rollback().await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn settling_changes_rows_as_the_protocol_says() {
    let database = Database::open().await;
    let mut connection = connect(&database).await;
    for state in RunState::ALL {
        for counted in 0..=UNITS + 1 {
            for granted in [100, 1] {
                let mut tx = connection.begin().await.unwrap();
                let rows = Rows::insert(&mut tx, state, granted).await;
                let spent: Vec<_> = rows.leases.iter().map(|lease| (lease.id, counted)).collect();
                let settled = leases::settle(&mut tx, rows.run, &spent).await.unwrap();
                let expected = rows.assert_changed(&mut tx, |row| row.settle(state, counted)).await;
                assert_eq!(settled.units, expected, "{state:?} {counted}");
                tx.rollback().await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn granting_changes_rows_as_the_protocol_says() {
    let database = Database::open().await;
    let mut connection = connect(&database).await;
    for limit in 0..=3 {
        // More than the limit: the limit was lowered.
        for granted in 0..=4 {
            for units in 1..=4 {
                let mut tx = connection.begin().await.unwrap();
                let account = insert_account(&mut tx).await;
                let pool = insert_pool(&mut tx, account, "api_call", limit, granted).await;
                let run = insert_run(&mut tx, RunState::Live).await;
                let grant = Grant {
                    lease: LeaseId::new(),
                    pool: pool.clone(),
                    units,
                };
                let made = leases::grant(&mut tx, run, std::slice::from_ref(&grant)).await.unwrap();

                let mut expected = Pool { limit, granted };
                let is_granted = expected.grant(units);
                assert_eq!(made, u64::from(is_granted), "{expected:?} {units}");
                assert_eq!(find_pool(&mut tx, &pool).await, expected);
                let leases: Vec<_> = read_leases(&mut tx, run).await;
                let lease = is_granted.then_some((grant.lease, LeaseRow::granted(units)));
                assert_eq!(leases, Vec::from_iter(lease));
                tx.rollback().await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn runs_change_their_state_as_the_protocol_says() {
    let database = Database::open().await;
    let mut connection = connect(&database).await;
    for state in RunState::ALL {
        for holds_leases in [false, true] {
            for transition in [
                Transition::Suspect,
                Transition::StartSpooling,
                Transition::EndSpooling,
                Transition::Close { holds_leases },
                Transition::HandOver,
                Transition::Settle { holds_leases },
            ] {
                let mut tx = connection.begin().await.unwrap();
                let run = insert_run(&mut tx, state).await;
                if holds_leases {
                    let account = insert_account(&mut tx).await;
                    let pool = insert_pool(&mut tx, account, "api_call", 10, 3).await;
                    insert_lease(&mut tx, run, &pool, LeaseRow::granted(UNITS)).await;
                }
                let changed = apply(&mut tx, run, state, transition).await;
                let after = writers::find(&mut *tx, run).await.unwrap().unwrap().state;
                let expected = state.after(transition);
                assert_eq!(after, expected.unwrap_or(state), "{state:?} {transition:?}");
                if let Some(changed) = changed {
                    assert_eq!(changed, expected.is_some(), "{state:?} {transition:?}");
                }
                tx.rollback().await.unwrap();
            }
        }
    }
}

/// Runs the statement of a transition. Returns whether it says that it changed the row. (An operator's `GiveUp` has no condition
/// in its statement: the worker checks the locked row with the protocol.)
async fn apply(db: &mut PgConnection, run: RunId, state: RunState, transition: Transition) -> Option<bool> {
    // How often a run of this state has started to spool: see `insert_run`.
    let spooled = i64::from(state == RunState::Spooling);
    let changed = match transition {
        Transition::Suspect => writers::fence_silent(db, run, 0).await.unwrap(),
        Transition::StartSpooling => spooling::start(db, run, 1).await.unwrap(),
        Transition::EndSpooling => spooling::stop(db, run, spooled).await.unwrap(),
        Transition::Close { .. } => writers::close(db, run).await.unwrap(),
        Transition::Settle { .. } => writers::settle(db, run).await.unwrap(),
        Transition::HandOver => {
            spooling::hand_over(db, run).await.unwrap();
            return None;
        }
        Transition::GiveUp => panic!("no statement has this condition"),
    };
    Some(changed)
}

impl Rows {
    /// A run with a lease in every state: each state of a lease, with each number of returned units, in two pools.
    async fn insert(db: &mut PgConnection, state: RunState, granted: i64) -> Self {
        let (run, account) = (insert_run(db, state).await, insert_account(db).await);
        let mut pools = Vec::new();
        for usage_type in ["api_call", "export"] {
            pools.push(insert_pool(db, account, usage_type, 1_000, granted).await);
        }
        let mut leases = Vec::new();
        for state in [LeaseState::Live, LeaseState::Returned, LeaseState::Settled] {
            for returned in 0..=UNITS {
                let row = LeaseRow {
                    units: UNITS,
                    returned,
                    state,
                };
                let pool = pools[leases.len() % pools.len()].clone();
                let id = insert_lease(db, run, &pool, row).await;
                leases.push(Lease { id, row, pool });
            }
        }
        leases.sort_unstable_by_key(|lease| lease.id);
        Self {
            run,
            state,
            leases,
            granted,
        }
    }

    /// Compares the rows with what `change` makes of each lease. Returns the units that go back to the pools. Granted units never
    /// fall below 0, also if someone changed a pool by hand.
    async fn assert_changed(&self, db: &mut PgConnection, change: impl Fn(&mut LeaseRow) -> i64) -> i64 {
        let found = read_leases(db, self.run).await;
        let mut back = std::collections::BTreeMap::new();
        for (lease, (id, row)) in self.leases.iter().zip(&found) {
            let mut expected = lease.row;
            *back.entry(&lease.pool).or_insert(0) += change(&mut expected);
            assert_eq!((*id, *row), (lease.id, expected), "{:?} {:?}", self.state, lease.row);
        }
        assert_eq!(found.len(), self.leases.len());
        for (pool, units) in &back {
            let granted = (self.granted - units).max(0);
            assert_eq!(find_pool(db, pool).await.granted, granted, "{:?}", self.state);
        }
        back.values().sum()
    }
}

async fn connect(database: &Database) -> PgConnection {
    PgConnection::connect(&database.url).await.unwrap()
}

async fn insert_account(db: &mut PgConnection) -> AccountId {
    let id = AccountId::new();
    sqlx::query("insert into accounts (id, name, email) values ($1, 'agreement', $1 || '@example.com')")
        .bind(id.0)
        .execute(db)
        .await
        .unwrap();
    id
}

async fn insert_run(db: &mut PgConnection, state: RunState) -> RunId {
    let id = RunId::new();
    sqlx::query(
        "insert into gateway_runs (id, gateway, generation, shards, state, spooled) values ($1, 'a', 1, 1, $2, $3)",
    )
    .bind(id.0)
    .bind(state.as_str())
    .bind(i64::from(state == RunState::Spooling))
    .execute(db)
    .await
    .unwrap();
    id
}

async fn insert_pool(db: &mut PgConnection, account: AccountId, usage_type: &str, limit: i64, granted: i64) -> PoolKey {
    sqlx::query(
        "insert into quota_pool (account_id, usage_type, period_start, period_end, limit_units, granted_units)
         values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(account.0)
    .bind(usage_type)
    .bind(instant(PERIOD_START))
    .bind(instant(PERIOD_START + 1_000))
    .bind(limit)
    .bind(granted)
    .execute(db)
    .await
    .unwrap();
    PoolKey {
        account,
        usage_type: usage_type.to_owned(),
        period_start: PERIOD_START,
    }
}

async fn insert_lease(db: &mut PgConnection, run: RunId, pool: &PoolKey, row: LeaseRow) -> LeaseId {
    let id = LeaseId::new();
    sqlx::query(
        "insert into quota_leases (id, run_id, account_id, usage_type, period_start, units, returned_units, state)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(id.0)
    .bind(run.0)
    .bind(pool.account.0)
    .bind(&pool.usage_type)
    .bind(instant(pool.period_start))
    .bind(row.units)
    .bind(row.returned)
    .bind(name(row.state))
    .execute(db)
    .await
    .unwrap();
    id
}

/// The run's leases, by id.
async fn read_leases(db: &mut PgConnection, run: RunId) -> Vec<(LeaseId, LeaseRow)> {
    let rows: Vec<(uuid::Uuid, i64, i64, String)> =
        sqlx::query_as("select id, units, returned_units, state from quota_leases where run_id = $1 order by id")
            .bind(run.0)
            .fetch_all(db)
            .await
            .unwrap();
    let lease = |(id, units, returned, state): (uuid::Uuid, i64, i64, String)| {
        let states = [LeaseState::Live, LeaseState::Returned, LeaseState::Settled];
        let state = states.into_iter().find(|of| name(*of) == state).unwrap();
        let row = LeaseRow { units, returned, state };
        (LeaseId(id), row)
    };
    rows.into_iter().map(lease).collect()
}

async fn find_pool(db: &mut PgConnection, pool: &PoolKey) -> Pool {
    let found = pools::find(db, pool.account, &pool.usage_type, pool.period_start).await;
    found.unwrap().unwrap()
}

/// The value of `quota_leases.state`.
fn name(state: LeaseState) -> &'static str {
    match state {
        LeaseState::Live => "live",
        LeaseState::Returned => "returned",
        LeaseState::Settled => "settled",
    }
}
