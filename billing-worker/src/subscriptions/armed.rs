//! Changes that undo something first. Before its first call to Stripe, such a change stores a task with what it undoes. If the
//! worker dies during the change, the task completes the change or plans again what the change undid.

use tracing::warn;
use uuid::Uuid;

use super::{
    billing::Billing,
    lease::Lease,
    planned::Planned,
    restore::{Goal, Outcome, Restore},
    running::Running,
};
use crate::{
    error::Error,
    tasks::repository::{self, TaskKind},
};

/// A subscription that is about to change.
pub(super) struct Armed<'a> {
    billing: &'a Billing,
    lease: &'a Lease,
    pub(super) running: &'a Running,
    /// The unfinished task of an earlier change.
    task: Option<Uuid>,
    /// What was planned before the change. If an earlier change did not end: what was planned before that one.
    before: Planned,
    /// Of the period in which that was planned.
    period_end: i64,
}

impl<'a> Armed<'a> {
    /// Looks for an earlier change that stopped in between: what it undid must not be lost by this one.
    pub(super) async fn find(billing: &'a Billing, lease: &'a Lease, running: &'a Running) -> Result<Self, Error> {
        let open = repository::open(&billing.admin.db, lease.account(), TaskKind::RestorePlan).await?;
        let earlier = open.as_ref().and_then(|task| Restore::from_args(&task.args).ok());
        let earlier = earlier.filter(|earlier| {
            earlier.subscription == running.subscription.id && earlier.plan.as_deref() == running.plan()
        });
        let (before, period_end) = match (running.planned(), earlier) {
            (Planned::Nothing, Some(earlier)) => (earlier.before, earlier.period_end),
            (planned, _) => (planned, running.period_end()),
        };
        Ok(Self {
            billing,
            lease,
            running,
            task: open.map(|task| task.id),
            before,
            period_end,
        })
    }

    pub(super) fn has_planned_change(&self) -> bool {
        self.running.has_planned_change() || self.before != Planned::Nothing
    }

    /// Whether the change undoes a plan that is scheduled.
    pub(super) fn undoes_a_plan(&self) -> bool {
        self.running.schedule.is_some() || matches!(self.before, Planned::Plan(_))
    }

    /// Undoes what is planned, for good.
    pub(super) async fn take_back(&self) -> Result<(), Error> {
        self.running.take_back(self.billing).await?;
        match self.task {
            Some(task) => self.close(task).await,
            None => Ok(()),
        }
    }

    /// Makes the change. If it fails, what was planned before is restored at once, or later by the task. A change that Stripe
    /// made although its response was lost has succeeded.
    pub(super) async fn make(&self, goal: Goal, change: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
        let restore = Restore {
            customer: self.running.customer.clone(),
            subscription: self.running.subscription.id.clone(),
            plan: self.running.plan().map(str::to_owned),
            period_end: self.period_end,
            before: self.before.clone(),
            goal,
        };
        let task = match restore.has_something_to_lose() {
            true => Some(self.arm(&restore).await?),
            false => None,
        };
        let Err(failure) = change.await else {
            self.try_to_close(task).await;
            return Ok(());
        };
        match self.settle(&restore, task.is_some()).await {
            Ok(outcome) => {
                self.try_to_close(task).await;
                match outcome {
                    Outcome::Made => Ok(()),
                    Outcome::Undone => Err(failure),
                }
            }
            Err(why) => {
                if let Some(task) = task {
                    self.postpone(task, &why).await;
                }
                // The change's own failure says more.
                Err(failure)
            }
        }
    }

    async fn arm(&self, restore: &Restore) -> Result<Uuid, Error> {
        let mut tx = self.lease.begin().await?;
        let task = repository::arm(&mut *tx, self.lease.account(), TaskKind::RestorePlan, &restore.args()).await?;
        tx.commit().await?;
        Ok(task)
    }

    async fn settle(&self, restore: &Restore, writes: bool) -> Result<Outcome, Error> {
        if writes {
            // Another worker may have taken over, and changes the subscription.
            self.lease.renew().await?;
        }
        restore.settle(self.billing, self.lease.account()).await
    }

    async fn close(&self, task: Uuid) -> Result<(), Error> {
        let mut tx = self.lease.begin().await?;
        repository::done(&mut *tx, task).await?;
        tx.commit().await?;
        Ok(())
    }

    /// If this fails, the task finds later that nothing is left to do.
    async fn try_to_close(&self, task: Option<Uuid>) {
        let Some(task) = task else { return };
        if let Err(why) = self.close(task).await {
            warn!(account.id = %self.lease.account(), task.id = %task, "could not close a task, it is tried again: {why}");
        }
    }

    async fn postpone(&self, task: Uuid, why: &Error) {
        let account = self.lease.account();
        warn!(
            account.id = %account,
            stripe_subscription.id = self.running.subscription.id,
            "a change failed, and what was planned before is not restored yet: {why}"
        );
        // The task is due now, even if another worker has the lease.
        if let Err(failure) = repository::failed(&self.billing.admin.db, task, &why.to_string(), 0).await {
            warn!(account.id = %account, task.id = %task, "could not store why a task failed, it is tried again: {failure}");
        }
    }
}
