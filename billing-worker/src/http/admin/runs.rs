//! `/admin/runs`: unsettled runs, and giving up a run whose spool is lost.

use axum::{
    Json,
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use protocol::run::RunState;
use serde::Deserialize;
use uuid::Uuid;

use super::{AdminApi, extract::RunPath};
use crate::{
    administration::{
        Administration,
        page::{Listed, Page},
    },
    error::Error,
    http::body::Body,
    http::query::malformed,
    runs::operator::{self, GiveUp, RunView},
};

/// `?state=&limit=&after=`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunsQuery {
    state: Option<RunState>,
    limit: Option<u16>,
    after: Option<Uuid>,
}

impl FromRequestParts<AdminApi> for RunsQuery {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AdminApi) -> Result<Self, Error> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(query),
            Err(rejection) => Err(malformed(rejection)),
        }
    }
}

pub(super) async fn list(admin: Administration, query: RunsQuery) -> Result<Json<Listed<RunView>>, Error> {
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
