//! Settings and sub-commands. Read and checked before any socket is bound.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use service::{
    clickhouse::ClickHouseSettings,
    nats::NatsSettings,
    settings::{ServiceSettings, seconds},
};

use crate::migrate::MigrateSettings;

/// Reads usage events from the stream and stores each in ClickHouse exactly once.
#[derive(Parser, Clone, Debug)]
#[command(name = "ingestor", version, max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    pub settings: Settings,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Store the events of the stream (the default)
    Run,
    /// Create the stream and the buckets if they are missing, create or update the tables, and exit
    Migrate,
    /// Compare all records in the stream with the stored rows, repair differences, and exit; non-zero if there were any
    Audit,
    /// After the stream was restored or reset: find the records that are already stored, and let ingest continue
    RaiseGeneration,
    /// The NATS streams and buckets: change existing ones
    #[command(subcommand)]
    Stream(StreamCommand),
    /// List records whose rows neither ClickHouse nor the stream has
    Losses(LossesArguments),
}

#[derive(Subcommand, Clone, Debug)]
pub enum StreamCommand {
    /// Print what would change, and change it. Also corrects what can lose events, such as a stream that drops old messages
    Set(StreamChange),
}

#[derive(Args, Clone, Debug, Default)]
pub struct StreamChange {
    /// Replicas of the streams and buckets: 1, or 3 or 5 in a NATS cluster
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(["1", "3", "5"]))]
    pub replicas: Option<String>,

    /// Maximum bytes of the stream of events
    #[arg(long, value_parser = clap::value_parser!(i64).range(1 << 20..))]
    pub max_bytes: Option<i64>,

    /// Seconds of silence after which an ingestor is gone. Restart all ingestors afterwards
    #[arg(long, value_parser = member_ttl)]
    pub member_expiry: Option<Duration>,

    /// Only print what would change
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args, Clone, Debug, Default)]
pub struct LossesArguments {
    /// Forget them: the ingestors no longer report them
    #[arg(long)]
    pub accept: bool,
}

impl StreamChange {
    pub fn replicas(&self) -> Option<usize> {
        self.replicas.as_deref().map(replicas)
    }
}

/// The possible values are all numbers.
fn replicas(text: &str) -> usize {
    text.parse().expect("one of the possible values, which are all numbers")
}

#[derive(Args, Clone, Debug)]
pub struct Settings {
    #[command(flatten)]
    pub service: ServiceSettings,
    #[command(flatten)]
    pub nats: NatsSettings,
    #[command(flatten)]
    pub clickhouse: ClickHouseSettings,
    #[command(flatten)]
    pub stream: StreamSettings,
    #[command(flatten)]
    pub batch: BatchSettings,
    #[command(flatten)]
    pub duplicates: DuplicateSettings,

    #[command(flatten)]
    pub tables: MigrateSettings,

    /// Create or update the tables at the start
    #[arg(long, env = "MIGRATE", default_value_t = true, action = clap::ArgAction::Set)]
    pub migrate: bool,

    /// Concurrent inserts of all shards: fewer inserts are larger and cheaper for ClickHouse
    #[arg(long, env = "INSERTS_AT_ONCE", default_value = "4", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub inserts_at_once: u16,

    /// Time limit for an insert; after it, the rows are looked up and sent again if they are missing (seconds)
    #[arg(long, env = "INSERT_TIMEOUT", default_value = "60", value_parser = seconds)]
    pub insert_timeout: Duration,

    /// For a new bucket of members: an ingestor that is silent for this long is gone; others take its shards over after twice this
    /// time (seconds)
    #[arg(long, env = "MEMBER_TTL", default_value = "6", value_parser = member_ttl)]
    pub member_ttl: Duration,

    /// How long stored records stay in the stream, for replays and audits (seconds)
    #[arg(long, env = "REPLAY_WINDOW", default_value = "86400", value_parser = seconds)]
    pub replay_window: Duration,

    /// How often the stream is trimmed (seconds)
    #[arg(long, env = "TRIM_INTERVAL", default_value = "60", value_parser = seconds)]
    pub trim_interval: Duration,

    /// How often stored ranges are compared with their rows (seconds)
    #[arg(long, env = "AUDIT_INTERVAL", default_value = "3600", value_parser = seconds)]
    pub audit_interval: Duration,

    /// How far that comparison looks back; the sub-command `audit` compares everything (seconds)
    #[arg(long, env = "AUDIT_WINDOW", default_value = "7500", value_parser = seconds)]
    pub audit_window: Duration,
}

#[derive(Args, Clone, Debug)]
pub struct StreamSettings {
    /// Shards of a new stream: at most this many ingestors can share the work. An existing stream keeps its number
    #[arg(long, env = "SHARDS", default_value = "8", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub shards: u16,

    /// Maximum bytes of a new stream; when it is full, the gateways write to their spools or answer 503
    #[arg(long, env = "STREAM_MAX_BYTES", default_value = "4294967296", value_parser = clap::value_parser!(i64).range(1 << 20..))]
    pub stream_max_bytes: i64,

    /// Replicas of new streams and buckets: 1, or 3 or 5 in a NATS cluster
    #[arg(long, env = "STREAM_REPLICAS", default_value = "1", value_parser = clap::builder::PossibleValuesParser::new(["1", "3", "5"]))]
    pub stream_replicas: String,
}

#[derive(Args, Clone, Copy, Debug)]
pub struct BatchSettings {
    /// Rows that complete a range
    #[arg(long, env = "BATCH_ROWS_MAX", default_value = "50000", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub batch_rows_max: u64,

    /// Bytes of records that complete a range
    #[arg(long, env = "BATCH_BYTES_MAX", default_value = "16777216", value_parser = clap::value_parser!(u64).range(1 << 10..=64 << 20))]
    pub batch_bytes_max: u64,

    /// Age of the first record that completes a range (seconds)
    #[arg(long, env = "BATCH_AGE_MAX", default_value = "0.4", value_parser = seconds)]
    pub batch_age_max: Duration,

    /// Bytes of records that all shards together may hold; they take about three times as much memory
    #[arg(long, env = "RECORDS_IN_MEMORY_MAX", default_value = "268435456", value_parser = clap::value_parser!(u64).range(64 << 20..=64 << 30))]
    pub records_in_memory_max: u64,
}

#[derive(Args, Clone, Copy, Debug)]
pub struct DuplicateSettings {
    /// Events with the Idempotency-Key of an earlier event are dropped for this long; must exceed the gateways' IDEMPOTENCY_TTL
    /// by the longest duration of requests and outages (seconds)
    #[arg(long, env = "IDEMPOTENCY_WINDOW", default_value = "90000", value_parser = seconds)]
    pub idempotency_window: Duration,

    /// Idempotency keys that all shards together remember, 75 bytes each; other keys are looked up in ClickHouse
    #[arg(long, env = "IDEMPOTENCY_KEYS_MAX", default_value = "1000000")]
    pub idempotency_keys_max: usize,
}

impl StreamSettings {
    pub fn replicas(&self) -> usize {
        replicas(&self.stream_replicas)
    }
}

/// NATS does not expire entries before 100 ms. Below a second, a busy machine would lose its own entry.
fn member_ttl(text: &str) -> Result<Duration, String> {
    seconds(text).and_then(|ttl| match ttl {
        ttl if ttl < Duration::from_secs(1) => Err(format!("must be at least 1 second, got `{text}`")),
        ttl => Ok(ttl),
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use service::boot::{self, Refusal};

    use super::*;
    use crate::app::Ingestor;

    fn parse(args: &[&str]) -> Result<Cli, Refusal> {
        let args = std::iter::once("ingestor").chain(args.iter().copied());
        boot::arguments::<Ingestor>(args.map(OsString::from)).map(|(cli, _)| cli)
    }

    #[test]
    fn settings_may_come_before_or_after_the_sub_command() {
        for args in [["--shards", "3", "audit"], ["audit", "--shards", "3"]] {
            let cli = parse(&args).unwrap();
            assert_eq!(cli.settings.stream.shards, 3);
            assert!(matches!(cli.command, Some(Command::Audit)));
        }
        assert!(parse(&[]).unwrap().command.is_none());
    }

    #[test]
    fn a_change_of_the_stream_takes_nothing_from_the_settings() {
        let cli = parse(&["stream", "set", "--replicas", "3", "--stream-max-bytes", "2000000"]).unwrap();
        let Some(Command::Stream(StreamCommand::Set(change))) = cli.command else {
            panic!("another command")
        };
        assert_eq!(
            (change.replicas(), change.max_bytes, change.dry_run),
            (Some(3), None, false)
        );
        assert!(parse(&["stream", "set", "--replicas", "2"]).is_err());
    }

    #[test]
    fn invalid_settings_are_refused() {
        for args in [
            ["--shards", "0"],
            ["--batch-rows-max", "100001"],
            ["--batch-age-max", "0"],
            ["--member-ttl", "0.2"],
            ["--stream-replicas", "2"],
            ["--migrate", "perhaps"],
            ["--audit-interval", "1e30"],
        ] {
            assert!(parse(&args).is_err(), "{args:?}");
        }
    }
}
