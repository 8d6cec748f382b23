//! `/billing/upgrade`, `/billing/cancel`, `/billing/resume`: changes of the running subscription.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use schema::Interval;
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{PublicApi, authenticate::Caller, subscription, tier::TierQuery};
use crate::{
    error::Error,
    http::body::Body,
    subscriptions::{
        change::{self, CancelWhen, ChangeWhen},
        preview,
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPlan {
    /// It can also be in the query string.
    tier: Option<String>,
    /// How often it is paid for. Absent: as before.
    interval: Option<Interval>,
    /// When the plan begins. By default a larger plan begins at once, and a smaller one with the next period.
    when: Option<PlanWhen>,
    /// Of a preview: the change costs what it said.
    proration_date: Option<String>,
    /// Only return what the change would cost.
    #[serde(default)]
    preview: bool,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PlanWhen {
    PeriodEnd,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cancellation {
    #[serde(default)]
    when: When,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum When {
    #[default]
    PeriodEnd,
    Now,
}

/// An upgrade takes effect now or with the next period, a downgrade with the next period.
pub(super) async fn change(
    State(api): State<PublicApi>,
    Caller(account): Caller,
    query: TierQuery,
    Body(new): Body<NewPlan>,
) -> Result<Response, Error> {
    let tier = query.or(new.tier)?;
    let previewed = new.proration_date.as_deref().map(previewed).transpose()?;
    let when = match (previewed, new.when) {
        (None, None) => ChangeWhen::BySize,
        (None, Some(PlanWhen::PeriodEnd)) => ChangeWhen::PeriodEnd,
        (Some(at), None) if !new.preview => ChangeWhen::Previewed(at),
        _ => {
            return Err(Error::BadValue {
                field: "proration_date",
                rule: "cannot be sent with `when` or `preview`".to_owned(),
            });
        }
    };
    if new.preview {
        return Ok(Json(preview::preview(&api.billing, account, &tier, new.interval, when).await?).into_response());
    }
    let billing = api.billing.clone();
    api.complete(async move { change::change_plan(&billing, account, &tier, new.interval, when).await })
        .await?;
    Ok(Json(subscription::view(&api.billing, account).await?).into_response())
}

/// The second that a preview named.
fn previewed(text: &str) -> Result<i64, Error> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok();
    let at = at.filter(|at| at.nanosecond() == 0).map(OffsetDateTime::unix_timestamp);
    at.ok_or_else(|| Error::BadValue {
        field: "proration_date",
        rule: format!(
            "must be the `proration_date` of a preview, such as 2026-11-30T06:48:54Z, got \"{}\"",
            problem::shown(text)
        ),
    })
}

pub(super) async fn cancel(
    State(api): State<PublicApi>,
    Caller(account): Caller,
    Body(cancellation): Body<Cancellation>,
) -> Result<Json<subscription::View>, Error> {
    let when = match cancellation.when {
        When::PeriodEnd => CancelWhen::PeriodEnd,
        When::Now => CancelWhen::Now,
    };
    let billing = api.billing.clone();
    api.complete(async move { change::cancel(&billing, account, when).await })
        .await?;
    Ok(Json(subscription::view(&api.billing, account).await?))
}

pub(super) async fn resume(
    State(api): State<PublicApi>,
    Caller(account): Caller,
) -> Result<Json<subscription::View>, Error> {
    let billing = api.billing.clone();
    api.complete(async move { change::resume(&billing, account).await })
        .await?;
    Ok(Json(subscription::view(&api.billing, account).await?))
}
