//! Runs the functions of the fuzz targets for a short time, on random bytes and on almost valid input.

#[path = "../fuzz/entries.rs"]
mod entries;

use proptest::{prelude::*, test_runner::TestRunner};
use schema::{BatchId, LaneRecord, Manifest, RunId, api_key::ApiKey};

/// Valid examples of input for the parsers. The tests change some of their bytes.
fn examples() -> Vec<Vec<u8>> {
    let run = RunId::new();
    vec![
        ApiKey::generate().reveal().as_bytes().to_vec(),
        LaneRecord::open(run).encode(),
        LaneRecord::fence(run, BatchId::new()).encode(),
        include_bytes!("../../schema/fixtures/batch_v1.bin").to_vec(),
        Manifest::default().encode(),
        br#"{"texts": ["a", "b, c", ["d"]], "x": 1}"#.to_vec(),
        b"\x00/api/x\nhost: a.example\nx-forwarded-for: 203.0.113.9, 10.0.0.2\nconnection: close, x-hop\nx_trendit_account: 1\n\
          idempotency-key: k\ntransfer-encoding: chunked"
            .to_vec(),
        b"t=1795395600,v1=00,v1=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n\
          {\"id\":\"evt_1\",\"type\":\"x\",\"created\":1,\"data\":{\"object\":{\"id\":\"sub_1\",\"object\":\"subscription\"}}}"
            .to_vec(),
    ]
}

#[test]
fn parsers_never_panic_on_random_or_changed_input() {
    let mut runner = TestRunner::new(ProptestConfig::with_cases(500));
    let examples = examples();
    let changed = (
        prop::sample::select(examples),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    )
        .prop_map(|(mut bytes, changes)| {
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        });
    let input = prop_oneof![prop::collection::vec(any::<u8>(), 0..300), changed];
    runner
        .run(&input, |bytes| {
            for (name, parse) in entries::ALL {
                let parsed = std::panic::catch_unwind(|| parse(&bytes));
                prop_assert!(parsed.is_ok(), "{name}: {bytes:?}");
            }
            Ok(())
        })
        .unwrap();
}
