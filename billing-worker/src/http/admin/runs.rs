//! `/admin/runs`: unsettled runs, and giving up a run whose spool is lost.

use axum::Json;
use protocol::run::RunState;
use serde::Deserialize;
use uuid::Uuid;

use super::extract::RunPath;
use crate::{
    administration::{
        Administration,
        page::{Listed, Page, PageLimit},
    },
    error::Error,
    http::{body::Body, query::Parameters},
    runs::operator::{self, GiveUp, RunView},
};

/// `?state=&limit=&after=`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunsQuery {
    state: Option<RunState>,
    limit: Option<PageLimit>,
    after: Option<Uuid>,
}

pub(super) async fn list(
    admin: Administration,
    Parameters(query): Parameters<RunsQuery>,
) -> Result<Json<Listed<RunView>>, Error> {
    let page = Page {
        limit: query.limit,
        after: query.after,
    };
    Ok(Json(operator::list(&admin.db, query.state, page).await?))
}

pub(super) async fn give_up(
    admin: Administration,
    RunPath(run): RunPath,
    Body(asked): Body<GiveUp>,
) -> Result<Json<RunView>, Error> {
    Ok(Json(operator::give_up(&admin, run, asked).await?))
}
