//! The streams and buckets as the settings want them, and how existing ones differ. Pure.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use schema::names;

use crate::config::{Settings, StreamSettings};

/// A property of an existing stream that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub stream: String,
    pub property: &'static str,
    pub now: String,
    pub wanted: String,
    pub kind: Kind,
}

/// What a difference can harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Another setting than that of the ingestor that created the stream.
    Setting,
    /// No setting has this value: somebody else changed the stream, and events can be lost.
    Defect,
}

/// How an existing stream differs from the wanted one.
pub fn differences(existing: &Config, wanted: &Config) -> Vec<Difference> {
    let is_usage = wanted.name == names::USAGE_STREAM;
    let mut all = Vec::new();
    let mut compare = |property, now: String, wanted_value: String, kind| {
        if now != wanted_value {
            all.push(Difference {
                stream: wanted.name.clone(),
                property,
                now,
                wanted: wanted_value,
                kind,
            });
        }
    };
    let replicas = |config: &Config| config.num_replicas.to_string();
    compare("replicas", replicas(existing), replicas(wanted), Kind::Setting);
    // Dead letters have a fixed size, which an operator may change.
    if is_usage {
        let bytes = |config: &Config| config.max_bytes.to_string();
        compare("max bytes", bytes(existing), bytes(wanted), Kind::Setting);
    }
    let age = |config: &Config| match config.max_age {
        Duration::ZERO => "none".to_owned(),
        age => format!("{} s", age.as_secs_f64()),
    };
    // Entries of members expire. Nothing else does.
    let kind = match wanted.max_age {
        Duration::ZERO => Kind::Defect,
        _ => Kind::Setting,
    };
    compare("expiry", age(existing), age(wanted), kind);
    let subjects = |config: &Config| config.subjects.join(" ");
    compare("subjects", subjects(existing), subjects(wanted), Kind::Defect);
    let discard = |config: &Config| match config.discard {
        DiscardPolicy::Old => "drop old messages".to_owned(),
        DiscardPolicy::New => "refuse new messages".to_owned(),
    };
    compare("when full", discard(existing), discard(wanted), Kind::Defect);
    let direct = |config: &Config| if config.allow_direct { "replicas" } else { "the leader" }.to_owned();
    compare("read from", direct(existing), direct(wanted), Kind::Defect);
    all
}

/// All except the stream of lane records.
pub fn buckets_and_dead_letters(settings: &Settings) -> [Config; 3] {
    let replicas = settings.stream.replicas();
    [
        bucket(names::MANIFEST_BUCKET, Duration::ZERO, replicas),
        bucket(names::MEMBER_BUCKET, settings.member_ttl, replicas),
        dead_letters(replicas),
    ]
}

/// The stream behind a bucket.
pub fn bucket_stream(name: &str) -> String {
    format!("KV_{name}")
}

pub fn usage(settings: &StreamSettings, generation: u32) -> Config {
    let metadata = [
        (names::META_SHARDS, settings.shards.to_string()),
        (names::META_GENERATION, generation.to_string()),
    ];
    Config {
        name: names::USAGE_STREAM.to_owned(),
        description: Some("Usage events, one subject a lane".to_owned()),
        subjects: vec![names::USAGE_SUBJECTS.to_owned()],
        max_bytes: settings.stream_max_bytes,
        metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
        // Expected sequences order the lanes. Message ids and their window are not used.
        duplicate_window: Duration::from_millis(100),
        ..file_stream(settings.replicas())
    }
}

/// Kept for operators. The window prevents a replayed range from adding its dead letters again.
fn dead_letters(replicas: usize) -> Config {
    Config {
        name: names::DEAD_STREAM.to_owned(),
        description: Some("Lane records that nobody can decode, with the reason".to_owned()),
        subjects: vec![names::DEAD_SUBJECTS.to_owned()],
        max_bytes: 256 << 20,
        duplicate_window: Duration::from_secs(3_600),
        ..file_stream(replicas)
    }
}

/// A key-value bucket with one value for each key. It is read from its leader, because a replica that answers a Direct Get may
/// lag.
fn bucket(name: &str, max_age: Duration, replicas: usize) -> Config {
    Config {
        name: bucket_stream(name),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        max_bytes: -1,
        max_age,
        duplicate_window: if max_age.is_zero() {
            Duration::from_millis(100)
        } else {
            // It must not exceed the lifetime of messages.
            max_age.min(Duration::from_millis(100))
        },
        allow_rollup: true,
        deny_delete: true,
        ..file_stream(replicas)
    }
}

fn file_stream(replicas: usize) -> Config {
    Config {
        retention: RetentionPolicy::Limits,
        // A full stream refuses new messages. It never drops old ones.
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: replicas,
        max_messages: -1,
        max_consumers: -1,
        allow_direct: false,
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_of(existing: &Config, wanted: &Config) -> Vec<&'static str> {
        let all = differences(existing, wanted);
        all.iter().map(|difference| difference.property).collect()
    }

    #[test]
    fn settings_and_defects_are_distinguished() {
        let wanted = bucket(names::MEMBER_BUCKET, Duration::from_secs(6), 3);
        assert_eq!(differences(&wanted, &wanted), []);
        let other = Config {
            num_replicas: 1,
            max_age: Duration::from_secs(1),
            discard: DiscardPolicy::Old,
            // Not a property that ingest depends on.
            max_bytes: 7,
            ..wanted.clone()
        };
        let all = differences(&other, &wanted);
        let of_kind = |kind| all.iter().filter(|difference| difference.kind == kind).count();
        assert_eq!((of_kind(Kind::Setting), of_kind(Kind::Defect)), (2, 1), "{all:?}");
        assert_eq!((all[1].now.as_str(), all[1].wanted.as_str()), ("1 s", "6 s"));
    }

    #[test]
    fn manifests_that_expire_are_a_defect() {
        let wanted = bucket(names::MANIFEST_BUCKET, Duration::ZERO, 1);
        let expiring = Config {
            max_age: Duration::from_secs(60),
            ..wanted.clone()
        };
        assert_eq!(names_of(&expiring, &wanted), ["expiry"]);
        assert_eq!(differences(&expiring, &wanted)[0].kind, Kind::Defect);
    }
}
