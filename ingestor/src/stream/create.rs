//! Opens one stream. Creates it if it is missing and the caller may create it. Never changes an existing one.

use anyhow::{Context as _, Result};
use async_nats::jetstream::{
    Context, ErrorCode,
    context::{CreateStreamErrorKind, GetStreamErrorKind},
    stream::Config,
};
use schema::names;
use tracing::{error, info, warn};

use super::wanted::{Kind, bucket_stream, differences};

/// Generation of a stream that was created although manifests of an earlier stream exist: an operator must raise it.
pub const NOT_RAISED: u32 = 0;

/// What to do if a stream is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Create,
    /// The caller's settings may be those of any shell.
    Leave,
}

/// The configuration that the stream has. Logs how it differs from the wanted one. `None`: it is missing. Safe when several
/// ingestors start at the same time.
pub async fn open(context: &Context, wanted: Config, missing: Missing) -> Result<Option<Config>> {
    let name = wanted.name.clone();
    let existing = match read(context, &name).await? {
        Some(existing) => existing,
        None if missing == Missing::Leave => return Ok(None),
        None => match context.create_stream(wanted.clone()).await {
            Ok(stream) => {
                info!(stream = %name, "created the stream");
                return Ok(Some(stream.cached_info().config.clone()));
            }
            // Another ingestor created it first, with other settings.
            Err(error) if exists(&error.kind()) => read(context, &name).await?.context("the stream is gone")?,
            Err(error) => return Err(error).with_context(|| format!("creating the stream {name}")),
        },
    };
    for found in differences(&existing, &wanted) {
        let (property, now, wanted) = (found.property, found.now, found.wanted);
        match found.kind {
            Kind::Setting => {
                warn!(
                    stream = %name, property, now, setting = wanted,
                    "the stream differs from the settings and stays as it is (see `ingestor stream set`)"
                );
            }
            Kind::Defect => {
                error!(
                    stream = %name, property, now, wanted,
                    "the stream was changed in a way that can lose events: run `ingestor stream set`"
                );
            }
        }
    }
    Ok(Some(existing))
}

/// The configuration of a stream; `None`: it is missing.
pub async fn read(context: &Context, name: &str) -> Result<Option<Config>> {
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            _ => Err(error).with_context(|| format!("reading the state of the stream {name}")),
        },
    }
}

/// 1, unless manifests exist: then a stream created now lacks records that they cover.
pub async fn first_generation(context: &Context) -> Result<u32> {
    match has_manifests(context).await? {
        false => Ok(1),
        true => Ok(NOT_RAISED),
    }
}

pub async fn has_manifests(context: &Context) -> Result<bool> {
    let manifests = context
        .get_stream(bucket_stream(names::MANIFEST_BUCKET))
        .await
        .context("reading the state of the manifests")?;
    Ok(manifests.cached_info().state.messages > 0)
}

fn exists(kind: &CreateStreamErrorKind) -> bool {
    matches!(kind, CreateStreamErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NAME_EXIST)
}
