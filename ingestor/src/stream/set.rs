//! The sub-command `stream set`: the only code that changes an existing stream or bucket.

use std::io::Write;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::jetstream::{Context, stream::Config};
use schema::names;

use super::{
    create::read,
    wanted::{self, Difference, bucket_stream, differences},
};
use crate::config::{Settings, StreamChange};

/// Prints what would change, and changes it unless it is a dry run. Also corrects what can lose events.
pub async fn set(context: &Context, settings: &Settings, change: &StreamChange, out: &mut impl Write) -> Result<()> {
    let mut changed = Vec::new();
    let mut shown = Vec::new();
    let usage = wanted::usage(&settings.stream, 0);
    for fixed in wanted::buckets_and_dead_letters(settings).into_iter().chain([usage]) {
        let name = fixed.name.clone();
        let existing = read(context, &name)
            .await?
            .with_context(|| format!("NATS has no stream {name}: an ingestor creates it, with its settings"))?;
        let next = changed_by(&existing, fixed, change);
        let found = differences(&existing, &next);
        if !found.is_empty() {
            shown.extend(found);
            changed.push(next);
        }
    }
    if changed.is_empty() {
        writeln!(out, "nothing to change")?;
        return Ok(());
    }
    writeln!(out, "{}", table(&shown))?;
    check_size(context, &changed).await?;
    if change.dry_run {
        return Ok(());
    }
    for config in &changed {
        let update = context.update_stream(config.clone()).await;
        update.with_context(|| format!("changing the stream {}", config.name))?;
    }
    writeln!(
        out,
        "changed {}",
        changed
            .iter()
            .map(|config| config.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    )?;
    Ok(())
}

/// `fixed`: what no setting decides.
fn changed_by(existing: &Config, fixed: Config, change: &StreamChange) -> Config {
    let mut next = Config {
        subjects: fixed.subjects,
        discard: fixed.discard,
        allow_direct: fixed.allow_direct,
        ..existing.clone()
    };
    if let Some(replicas) = change.replicas() {
        next.num_replicas = replicas;
    }
    if fixed.name == names::USAGE_STREAM
        && let Some(bytes) = change.max_bytes
    {
        next.max_bytes = bytes;
    }
    if fixed.name != bucket_stream(names::MEMBER_BUCKET) {
        next.max_age = fixed.max_age;
    } else if let Some(expiry) = change.member_expiry {
        next.max_age = expiry;
    }
    next
}

/// A stream that is smaller than its content refuses all requests.
async fn check_size(context: &Context, changed: &[Config]) -> Result<()> {
    let Some(next) = changed.iter().find(|config| config.name == names::USAGE_STREAM) else {
        return Ok(());
    };
    let stream = context.get_stream(names::USAGE_STREAM).await;
    let bytes = stream
        .context("reading the state of the usage stream")?
        .cached_info()
        .state
        .bytes;
    let limit = u64::try_from(next.max_bytes).unwrap_or(u64::MAX);
    if bytes >= limit {
        bail!("the stream has {bytes} bytes, so with {limit} it would refuse all new events: nothing was changed");
    }
    ensure!(
        bytes.saturating_mul(100) <= limit.saturating_mul(80),
        "the stream has {bytes} bytes, which is more than 80 % of {limit}: nothing was changed"
    );
    Ok(())
}

fn table(differences: &[Difference]) -> String {
    let mut rows = vec![["stream", "property", "now", "new"].map(str::to_owned)];
    rows.extend(differences.iter().cloned().map(|found| {
        let Difference {
            stream,
            property,
            now,
            wanted,
            ..
        } = found;
        [stream, property.to_owned(), now, wanted]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let lines = rows.iter().map(|row| {
        let cells: Vec<_> = (0..4)
            .map(|column| format!("{:1$}", row[column], width(column)))
            .collect();
        cells.join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::stream::DiscardPolicy;

    use super::*;

    #[test]
    fn only_what_is_named_changes_and_defects_are_corrected() {
        let existing = Config {
            name: names::USAGE_STREAM.to_owned(),
            num_replicas: 3,
            max_bytes: 5 << 30,
            discard: DiscardPolicy::Old,
            ..Config::default()
        };
        let fixed = Config {
            discard: DiscardPolicy::New,
            num_replicas: 1,
            max_bytes: 1 << 20,
            ..existing.clone()
        };
        let next = changed_by(&existing, fixed.clone(), &StreamChange::default());
        assert_eq!((next.num_replicas, next.max_bytes), (3, 5 << 30));
        assert_eq!(next.discard, DiscardPolicy::New);
        let change = StreamChange {
            max_bytes: Some(7 << 30),
            ..StreamChange::default()
        };
        let next = changed_by(&existing, fixed, &change);
        assert_eq!((next.num_replicas, next.max_bytes), (3, 7 << 30));
        let shown = table(&differences(&existing, &next));
        assert!(shown.contains("USAGE   max bytes  5368709120"), "{shown}");
    }
}
