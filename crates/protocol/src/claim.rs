//! Decides when an ingestor may claim a shard, and where its work begins.
//!
//! Each shard has one entry, its manifest, which is written only by compare-and-set on its revision. An ingestor claims a
//! shard by writing the entry with its own name over the revision that it read. If two ingestors claim one shard at the
//! same time, one of them fails ([`crate::compare_and_set`]). An owner that lost its shard finds out at its next write or read.
//!
//! # Promises
//! - A shard begins after everything that is verified, and never after something that is not.
//! - A pending range is replayed identically, or found complete. Rows after it mean that the manifest is old, so ClickHouse
//!   decides where to begin.
//! - A stream that ends before the stored records is a different stream: nothing is read from it.
//!
//! The model `manifest` checks these through the properties "no position has two rows" and "everything that is done is
//! stored". Its mutants `NoCompareAndSet`, `NoSecondLook` and `TokenFromFetch` deviate and fail.

use schema::Manifest;

/// The stream of lane records, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamState {
    pub generation: u32,
    pub last_seq: u64,
    pub bytes: u64,
    /// 0: no limit.
    pub max_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Take,
    Wait,
}

/// Where the work on a claimed shard begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Where its manifest ends.
    At(Manifest),
    /// Where its rows in ClickHouse end, because the manifest is lost or outdated.
    Moved(Manifest),
    /// Nowhere, for this reason. An operator must look first.
    Alarm(String),
}

/// A shard may be claimed if it has no owner, if its owner is gone, or if we owned it before a failure.
pub fn claim(manifest: Option<&Manifest>, me: &str, is_gone: impl FnOnce(&str) -> bool) -> Claim {
    match manifest.and_then(|manifest| manifest.owner.as_deref()) {
        None => Claim::Take,
        Some(owner) if owner == me || is_gone(owner) => Claim::Take,
        Some(_) => Claim::Wait,
    }
}

/// `stored`: the highest sequence of the shard with rows in the manifest's generation, or in the stream's generation if there is
/// no manifest.
pub fn beginning(manifest: Option<Manifest>, stream: StreamState, stored: Option<u64>) -> Beginning {
    let Some(manifest) = manifest else {
        return without_manifest(stream, stored);
    };
    if manifest.generation != stream.generation {
        return Beginning::Alarm(format!(
            "its manifest has generation {}, the stream has {}: the stream was restored or reset (see `ingestor raise-generation`)",
            manifest.generation, stream.generation
        ));
    }
    let through = manifest
        .pending
        .as_ref()
        .map_or(manifest.done_through, |pending| pending.last);
    if stream.last_seq < through.max(stored.unwrap_or(0)) {
        return behind(stream, through.max(stored.unwrap_or(0)));
    }
    match stored {
        // Rows of the pending range are expected. Rows after it mean that the bucket was restored from a backup.
        Some(stored) if stored > through => Beginning::Moved(Manifest {
            done_through: stored,
            pending: None,
            ..manifest
        }),
        _ => Beginning::At(manifest),
    }
}

/// The entry with which `me` claims a shard whose work begins at `manifest`.
pub fn claimed(manifest: Manifest, me: &str) -> Manifest {
    Manifest {
        owner: Some(me.to_owned()),
        ..manifest
    }
}

fn without_manifest(stream: StreamState, stored: Option<u64>) -> Beginning {
    let fresh = Manifest {
        generation: stream.generation,
        done_through: stored.unwrap_or(0),
        ..Manifest::default()
    };
    match stored {
        Some(stored) if stream.last_seq < stored => behind(stream, stored),
        Some(_) => Beginning::Moved(fresh),
        None if stream.generation == 1 => Beginning::At(fresh),
        // Records of an earlier generation may be stored already. Only a comparison can show that.
        None => Beginning::Alarm(format!(
            "it has no manifest and no rows in generation {} (see `ingestor raise-generation`)",
            stream.generation
        )),
    }
}

fn behind(stream: StreamState, through: u64) -> Beginning {
    Beginning::Alarm(format!(
        "it is stored through {through}, but the stream ends at {}: the stream was restored or reset (see `ingestor \
         raise-generation`)",
        stream.last_seq
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schema::manifest::Pending;

    use super::*;

    const STREAM: StreamState = StreamState {
        generation: 1,
        last_seq: 100,
        bytes: 0,
        max_bytes: 0,
    };

    fn manifest(done_through: u64, pending: Option<(u64, u64)>) -> Manifest {
        let pending = pending.map(|(first, last)| Pending {
            first,
            last,
            rows: 1,
            checksum: 0,
            dropped: Vec::new(),
            sealed_at_ms: 0,
        });
        Manifest {
            owner: Some("b".to_owned()),
            generation: 1,
            done_through,
            pending,
            ..Manifest::default()
        }
    }

    #[test]
    fn a_shard_is_claimed_from_nobody_from_ourselves_or_from_a_member_that_is_gone() {
        let held = manifest(0, None);
        assert_eq!(claim(None, "a", |_| false), Claim::Take);
        assert_eq!(claim(Some(&Manifest::default()), "a", |_| false), Claim::Take);
        assert_eq!(claim(Some(&held), "a", |_| false), Claim::Wait);
        assert_eq!(claim(Some(&held), "a", |owner| owner == "b"), Claim::Take);
        assert_eq!(claim(Some(&held), "b", |_| false), Claim::Take);
    }

    #[test]
    fn work_begins_at_the_manifest_unless_clickhouse_has_more() {
        let begin = |manifest: &Manifest, stored| beginning(Some(manifest.clone()), STREAM, stored);
        let plain = manifest(50, None);
        for stored in [None, Some(40), Some(50)] {
            assert_eq!(
                begin(&plain, stored),
                Beginning::At(plain.clone()),
                "records without events have no rows, and retention removes rows"
            );
        }
        assert_eq!(begin(&plain, Some(60)), Beginning::Moved(manifest(60, None)));
        let pending = manifest(50, Some((52, 60)));
        for stored in [None, Some(50), Some(60)] {
            assert_eq!(
                begin(&pending, stored),
                Beginning::At(pending.clone()),
                "its range is replayed or found stored"
            );
        }
        assert_eq!(begin(&pending, Some(61)), Beginning::Moved(manifest(61, None)));
    }

    #[test]
    fn a_lost_manifest_is_restored_from_clickhouse() {
        let fresh = |done_through| Manifest {
            owner: None,
            ..manifest(done_through, None)
        };
        assert_eq!(beginning(None, STREAM, None), Beginning::At(fresh(0)));
        assert_eq!(beginning(None, STREAM, Some(70)), Beginning::Moved(fresh(70)));
        let second = StreamState {
            generation: 2,
            ..STREAM
        };
        assert!(matches!(beginning(None, second, None), Beginning::Alarm(_)));
    }

    #[test]
    fn a_stream_other_than_the_stored_one_is_not_read() {
        for (manifest, stored) in [
            (manifest(101, None), None),
            (manifest(50, Some((99, 101))), None),
            (manifest(50, None), Some(101)),
        ] {
            assert!(matches!(beginning(Some(manifest), STREAM, stored), Beginning::Alarm(_)));
        }
        assert!(matches!(beginning(None, STREAM, Some(101)), Beginning::Alarm(_)));
        for generation in [0, 2] {
            let stream = StreamState { generation, ..STREAM };
            assert!(matches!(
                beginning(Some(manifest(50, None)), stream, None),
                Beginning::Alarm(_)
            ));
        }
    }

    /// Few sequences, so that edge cases meet: no manifest, or one with or without a range after the stored records.
    fn any_manifest() -> impl Strategy<Value = Option<Manifest>> {
        let one = (0u64..8, any::<Option<(u64, u64)>>(), 1u32..3).prop_map(|(done, gaps, generation)| {
            let pending = gaps.map(|(gap, more)| (done + 1 + gap % 3, done + 1 + gap % 3 + more % 3));
            Manifest {
                generation,
                ..manifest(done, pending)
            }
        });
        prop::option::of(one)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Skipped records are stored, or the manifest has them as done. Records with rows are not read again, except those of
        /// the range that is replayed. The shard never waits for records that the stream never had.
        #[test]
        fn a_beginning_skips_nothing_and_stores_nothing_twice(
            manifest in any_manifest(),
            stored in prop::option::of(1u64..14),
            last_seq in 0u64..14,
            generation in 1u32..3,
        ) {
            let stream = StreamState { generation, last_seq, ..STREAM };
            let said = manifest.clone().unwrap_or_default();
            let began = match beginning(manifest, stream, stored) {
                Beginning::At(began) | Beginning::Moved(began) => began,
                Beginning::Alarm(_) => return Ok(()),
            };
            let through = began.pending.as_ref().map_or(began.done_through, |pending| pending.last);
            prop_assert_eq!(began.generation, generation);
            prop_assert!(began.done_through == said.done_through || Some(began.done_through) == stored);
            prop_assert!(began.done_through >= said.done_through);
            prop_assert!(stored.is_none_or(|stored| stored <= through));
            prop_assert!(through <= last_seq);
            prop_assert!(began.pending.is_none() || began.pending == said.pending);
        }
    }
}
