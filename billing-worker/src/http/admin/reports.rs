//! `/admin/reports`: usage reports to Stripe.

use axum::Json;
use schema::clock::now_s;
use serde::Deserialize;
use uuid::Uuid;

use super::extract::ReportPath;
use crate::{
    administration::{
        Administration,
        page::{Listed, Page, PageLimit},
    },
    error::Error,
    http::query::Parameters,
    reports::{
        attention::{self, Attention},
        list::{self, ReportState, ReportView},
    },
};

/// `?state=&limit=&after=`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportsQuery {
    state: Option<ReportState>,
    limit: Option<PageLimit>,
    after: Option<Uuid>,
}

pub(super) async fn list(
    admin: Administration,
    Parameters(query): Parameters<ReportsQuery>,
) -> Result<Json<Listed<ReportView>>, Error> {
    let page = Page {
        limit: query.limit,
        after: query.after,
    };
    Ok(Json(list::list(&admin.db, query.state, page).await?))
}

pub(super) async fn attention(admin: Administration) -> Result<Json<Attention>, Error> {
    Ok(Json(attention::find(&admin.db, &admin.catalogue).await?))
}

pub(super) async fn retry(
    admin: Administration,
    ReportPath(identifier): ReportPath,
) -> Result<Json<ReportView>, Error> {
    Ok(Json(list::retry(&admin, &identifier, now_s()).await?))
}
