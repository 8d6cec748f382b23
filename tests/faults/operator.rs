//! The operator during a run: changes limits, plans and keys, and records the time of each change.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use devstack::admin::Admin;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use schema::{AccountId, KeyId};

use super::{
    cast::{Cast, CastKey, Role, USAGE_TYPES},
    evidence::Revocation,
    limits::{Change, Limits},
    setup::plan_limits,
    stopwatch::Stopwatch,
};

const PATIENCE: Duration = Duration::from_secs(5);
const TRIES_MAX: usize = 4;

pub struct Operator {
    admins: Vec<Admin>,
    cast: Cast,
    stopwatch: Stopwatch,
    changes: Mutex<Changes>,
    /// One change at a time, so the order of the requests is the order of the changes.
    turn: tokio::sync::Mutex<StdRng>,
}

/// The recorded changes.
#[derive(Clone, Default)]
pub struct Changes {
    pub limits: Limits,
    pub revocations: Vec<Revocation>,
}

/// When a change was requested and completed. `None`: it is unknown whether the change happened.
struct Done {
    invoked_ms: i64,
    completed_ms: Option<i64>,
    /// A try had no answer, so the change may also have happened later.
    in_doubt: bool,
}

#[derive(Clone, Copy)]
enum Act {
    Limit(AccountId, &'static str, i64),
    Plan(AccountId, &'static str),
    Revoke(KeyId),
}

impl Act {
    async fn through(self, admin: &Admin) -> Result<()> {
        match self {
            Self::Limit(account, usage_type, limit) => admin.set_limit(account, usage_type, limit).await,
            Self::Plan(account, plan) => admin.assign(account, plan).await,
            Self::Revoke(key) => admin.revoke(key).await,
        }
    }
}

impl Operator {
    pub fn new(admins: Vec<Admin>, cast: Cast, stopwatch: Stopwatch, limits: Limits, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            admins,
            cast,
            stopwatch,
            changes: Mutex::new(Changes {
                limits,
                revocations: Vec::new(),
            }),
            turn: tokio::sync::Mutex::new(StdRng::seed_from_u64(seed ^ 0x6f70_6572)),
        })
    }

    /// Sets a limit of an account that is near its limits: usually higher, sometimes lower.
    pub async fn change_limit(&self) {
        let mut random = self.turn.lock().await;
        let accounts = self.cast.with_role(&[Role::Near, Role::RollsOver]);
        let account = accounts[random.random_range(0..accounts.len())];
        let usage_type = random.random_range(0..USAGE_TYPES.len());
        let now = self.current_limit(account, usage_type);
        let limit = match random.random_bool(0.85) {
            true => now + random.random_range(5..60),
            false => (now - random.random_range(5..80)).max(1),
        };
        let id = self.cast.members[account].id;
        let done = self
            .until_done(&mut random, Act::Limit(id, USAGE_TYPES[usage_type], limit))
            .await;
        self.note(account, &[(usage_type, limit)], &done);
    }

    pub async fn change_plan(&self) {
        let mut random = self.turn.lock().await;
        let accounts = self.cast.with_role(&[Role::Changes]);
        let account = accounts[random.random_range(0..accounts.len())];
        let plan = ["free", "pro", "enterprise"][random.random_range(0..3)];
        let id = self.cast.members[account].id;
        let done = self.until_done(&mut random, Act::Plan(id, plan)).await;
        self.note(account, &plan_limits(plan), &done);
    }

    /// Creates a new key for an account and revokes the previous one.
    pub async fn revoke(&self) -> Result<()> {
        let mut random = self.turn.lock().await;
        let account = random.random_range(0..self.cast.members.len());
        let id = self.cast.members[account].id;
        let Some((number, key)) = self.cast.newest_key(account) else {
            return Ok(());
        };
        let admin = &self.admins[random.random_range(0..self.admins.len())];
        // The admin API is unavailable now. The next revocation tries again.
        let Ok(Ok((key_id, secret))) = tokio::time::timeout(PATIENCE, admin.key(id)).await else {
            return Ok(());
        };
        self.cast.add_key(CastKey {
            id: key_id,
            secret,
            account,
        });
        let done = self.until_done(&mut random, Act::Revoke(key.id)).await;
        if let Some(completed_ms) = done.completed_ms {
            self.lock().revocations.push(Revocation {
                key: number,
                completed_ms,
            });
        }
        Ok(())
    }

    pub fn changes(&self) -> Changes {
        self.lock().clone()
    }

    async fn until_done(&self, random: &mut StdRng, act: Act) -> Done {
        let mut done = Done {
            invoked_ms: self.stopwatch.now_ms(),
            completed_ms: None,
            in_doubt: false,
        };
        for _ in 0..TRIES_MAX {
            let admin = &self.admins[random.random_range(0..self.admins.len())];
            if matches!(tokio::time::timeout(PATIENCE, act.through(admin)).await, Ok(Ok(()))) {
                done.completed_ms = Some(self.stopwatch.now_ms());
                break;
            }
            done.in_doubt = true;
        }
        done
    }

    fn note(&self, account: usize, limits: &[(usize, i64)], done: &Done) {
        let mut changes = self.lock();
        for (usage_type, limit) in limits {
            let mut change = Change {
                account,
                usage_type: *usage_type,
                limit: *limit,
                invoked_ms: done.invoked_ms,
                completed_ms: done.completed_ms,
            };
            changes.limits.change(change);
            if done.in_doubt && done.completed_ms.is_some() {
                change.completed_ms = None;
                changes.limits.change(change);
            }
        }
    }

    fn current_limit(&self, account: usize, usage_type: usize) -> i64 {
        let limits = &self.lock().limits;
        limits.lowest((account, usage_type), i64::MAX, i64::MAX).unwrap_or(1)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
