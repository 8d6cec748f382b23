//! `/admin/reports`: usage reports to Stripe.

use axum::{
    Json,
    extract::{FromRequestParts, Path, Query},
    http::request::Parts,
};
use schema::clock::now_s;
use serde::Deserialize;
use uuid::Uuid;

use super::AdminApi;
use crate::{
    administration::{
        Administration,
        page::{Listed, Page},
    },
    error::Error,
    http::query::malformed,
    reports::{
        attention::{self, Attention},
        list::{self, ReportState, ReportView},
    },
};

/// `?state=&limit=&after=`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportsQuery {
    state: Option<ReportState>,
    limit: Option<u16>,
    after: Option<Uuid>,
}

impl FromRequestParts<AdminApi> for ReportsQuery {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &AdminApi) -> Result<Self, Error> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(query),
            Err(rejection) => Err(malformed(rejection)),
        }
    }
}

pub async fn list(admin: Administration, query: ReportsQuery) -> Result<Json<Listed<ReportView>>, Error> {
    let page = Page {
        limit: query.limit,
        after: query.after,
    };
    Ok(Json(list::list(&admin.db, query.state, page).await?))
}

pub async fn attention(admin: Administration) -> Result<Json<Attention>, Error> {
    Ok(Json(attention::find(&admin.db, &admin.catalogue).await?))
}

pub async fn retry(admin: Administration, Path(identifier): Path<String>) -> Result<Json<ReportView>, Error> {
    Ok(Json(list::retry(&admin, &identifier, now_s()).await?))
}
