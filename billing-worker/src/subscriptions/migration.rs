//! Which accounts get which version of a plan, when, and why some do not. Pure but for the look-up of the versions.

use schema::{AccountId, Catalogue, PlanVersion};
use serde::{Deserialize, Serialize};
use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use super::planned::Planned;
use crate::{accounts::versions, error::Error};

/// A version of a plan, and the one that its accounts get instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    pub from: PlanVersion,
    pub to: PlanVersion,
    pub when: MigrateWhen,
    /// A change that begins now counts from this time on, in seconds since the Unix epoch, or from the start of the period.
    pub counts_from: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MigrateWhen {
    Now,
    /// With the next period.
    PeriodEnd,
}

/// What is to be done for one account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Make,
    /// The account has the version, or gets it with the next period.
    Done(&'static str),
    /// Why it keeps its version.
    Skip(String),
}

impl Migration {
    /// Finds versions by their names, such as `pro@1`. Accounts can only get the current version of a plan.
    pub async fn find(db: &PgPool, from: &str, to: &str, when: MigrateWhen, counts_from: i64) -> Result<Self, Error> {
        let (from, to) = (version("from", from, db).await?, version("to", to, db).await?);
        if from.id == to.id {
            return Err(Error::Conflict(format!("the accounts have {} already", to.name())));
        }
        let free = [&from, &to].into_iter().find(|version| version.plan == Catalogue::FREE);
        if let Some(free) = free {
            return Err(Error::Conflict(format!(
                "nobody pays for {}: its accounts follow the catalogue",
                free.name()
            )));
        }
        let is_current = sqlx::query_scalar!("select is_current from plan_versions where id = $1", to.id)
            .fetch_one(db)
            .await?;
        if !is_current {
            return Err(Error::VersionGone {
                version: to.name(),
                why: "is not the current one of its plan, and accounts can only get that one",
            });
        }
        Ok(Self {
            from,
            to,
            when,
            counts_from,
        })
    }

    /// `version`: of the running subscription. `planned`: with its next period. `next`: the version of that.
    pub(super) fn step(&self, version: Option<Uuid>, planned: &Planned, next: Option<Uuid>) -> Step {
        if version == Some(self.to.id) {
            return Step::Done("it has this version");
        }
        if version != Some(self.from.id) {
            return Step::Skip(format!("it does not have {}", self.from.name()));
        }
        match planned {
            Planned::Plan(_) if next == Some(self.to.id) => Step::Done("it gets this version with the next period"),
            Planned::Plan(_) => Step::Skip("another plan is planned for it".to_owned()),
            Planned::End { .. } => Step::Skip("it is cancelled".to_owned()),
            Planned::Nothing => Step::Make,
        }
    }
}

/// The accounts that pay for this version, by id, after the account `after`.
pub async fn accounts(
    db: impl PgExecutor<'_>,
    version: Uuid,
    after: AccountId,
    page: i64,
) -> Result<Vec<AccountId>, Error> {
    let accounts = sqlx::query_scalar!(
        "select account_id from subscriptions
         where is_current and version_id = $1 and stripe_subscription_id is not null and account_id > $2
         order by account_id limit $3",
        version,
        after.0,
        page
    )
    .fetch_all(db)
    .await?;
    Ok(accounts.into_iter().map(AccountId).collect())
}

async fn version(field: &'static str, name: &str, db: &PgPool) -> Result<PlanVersion, Error> {
    let parts = name.split_once('@');
    let Some((plan, number)) = parts.and_then(|(plan, number)| Some((plan, number.parse::<i32>().ok()?))) else {
        return Err(Error::BadValue {
            field,
            rule: format!(
                "must be a plan and its version, such as pro@1, got \"{}\"",
                problem::shown(name)
            ),
        });
    };
    let mut versions = versions::of_plan(db, plan).await?.into_iter();
    versions
        .find(|version| version.number == number)
        .ok_or_else(|| Error::VersionGone {
            version: name.to_owned(),
            why: "does not exist: `plans list` shows all; changed terms become a version with `billing-worker catalogue sync`, or when a \
                  billing worker starts with the new catalogue",
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscriptions::versions::tests::pro;

    fn migration(when: MigrateWhen, from: &str, to: &str) -> Migration {
        Migration {
            from: pro(1, from),
            to: pro(2, to),
            when,
            counts_from: 0,
        }
    }

    #[test]
    fn an_account_is_migrated_once_and_only_if_nothing_else_is_planned() {
        use MigrateWhen::{Now, PeriodEnd};
        let built_in = include_str!("../../../schema/plans.toml");
        let dearer = built_in.replace("month = 2900 }", "month = 3900 }");
        let id = |number: u128| Some(Uuid::from_u128(number));
        let (plan, end) = (
            Planned::plan(vec![("price_1".to_owned(), Some(1))]),
            Planned::End {
                at: 1,
                with_period: true,
            },
        );
        let made = |step: &Step| match step {
            Step::Make => "make",
            Step::Done(_) => "done",
            Step::Skip(_) => "skip",
        };
        for (when, to, version, planned, next, expected) in [
            (Now, &dearer, id(1), &Planned::Nothing, None, "make"),
            (PeriodEnd, &dearer, id(1), &Planned::Nothing, None, "make"),
            (Now, &dearer, id(2), &Planned::Nothing, None, "done"),
            (Now, &dearer, id(3), &Planned::Nothing, None, "skip"),
            (Now, &dearer, None, &Planned::Nothing, None, "skip"),
            (PeriodEnd, &dearer, id(1), &plan, id(2), "done"),
            (PeriodEnd, &dearer, id(1), &plan, id(3), "skip"),
            (PeriodEnd, &dearer, id(1), &end, None, "skip"),
        ] {
            let step = migration(when, built_in, to).step(version, planned, next);
            assert_eq!(
                made(&step),
                expected,
                "{when:?} {version:?} {planned:?} {next:?}: {step:?}"
            );
        }
    }
}
