//! Which ingestors are alive, and so which shards each should own. Each ingestor keeps an entry in a bucket whose entries
//! expire. No clocks are compared: an ingestor counts how long it misses the entry of another one.
//!
//! # Promises
//! - A member that renews its entry in time is never gone, also after NATS was away.
//! - Ingestors that see the same members agree on the owner of each shard.
//!
//! [`crate::claim`] must be safe even if this is wrong, because a member that is gone may still be alive (it was paused, or
//! cut off). So the model `manifest` lets any owner seem gone at any time.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

/// The members seen so far.
#[derive(Debug)]
pub struct MemberView {
    ttl: Duration,
    present: BTreeSet<String>,
    /// Since when each absent member is missing, in an unbroken series of looks.
    absent: HashMap<String, Instant>,
    looked_at: Option<Instant>,
}

impl MemberView {
    /// No member was seen yet. `ttl`: the lifetime of an entry.
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            present: BTreeSet::new(),
            absent: HashMap::new(),
            looked_at: None,
        }
    }

    /// The members that have an entry now.
    pub fn look(&mut self, present: BTreeSet<String>, now: Instant) {
        // After a gap (NATS was unavailable) all entries may have expired although their owners are alive: start counting again.
        if self.looked_at.is_none_or(|before| now - before > self.ttl) {
            self.absent.clear();
        }
        for gone in self.present.difference(&present) {
            self.absent.insert(gone.clone(), now);
        }
        self.absent.retain(|id, _| !present.contains(id));
        self.present = present;
        self.looked_at = Some(now);
    }

    /// The shards that the member `me` should own.
    pub fn shards_of(&self, me: &str, shards: u16) -> BTreeSet<u16> {
        assigned(&self.present, me, shards)
    }

    /// Whether the member is gone: its entry expired, and it was missing for at least another lifetime of an entry.
    pub fn is_gone(&mut self, id: &str) -> bool {
        let Some(looked_at) = self.looked_at else { return false };
        if self.present.contains(id) {
            return false;
        }
        looked_at - *self.absent.entry(id.to_owned()).or_insert(looked_at) >= self.ttl
    }
}

/// Shard i belongs to member i modulo the number of members, in the order of their ids. All ingestors that see the same members
/// agree, and the numbers of their shards differ by at most one.
fn assigned(members: &BTreeSet<String>, me: &str, shards: u16) -> BTreeSet<u16> {
    let Some(mine) = members.iter().position(|id| id == me) else {
        return BTreeSet::new();
    };
    (0..shards)
        .filter(|shard| usize::from(*shard) % members.len() == mine)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn shards_are_shared_evenly_and_each_has_one_owner() {
        for members in [set(&["a"]), set(&["a", "b"]), set(&["a", "b", "c", "d", "e"])] {
            let shares: Vec<_> = members.iter().map(|id| assigned(&members, id, 8)).collect();
            assert_eq!(shares.iter().map(BTreeSet::len).sum::<usize>(), 8);
            assert_eq!(shares.iter().flatten().collect::<BTreeSet<_>>().len(), 8);
            let sizes: Vec<_> = shares.iter().map(BTreeSet::len).collect();
            assert!(
                sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1,
                "{sizes:?}"
            );
        }
        assert!(assigned(&set(&["a"]), "not seen yet", 8).is_empty());
    }

    #[test]
    fn a_member_is_gone_after_missing_for_the_lifetime_of_an_entry() {
        let (ttl, start) = (Duration::from_secs(6), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut view = MemberView::new(ttl);
        assert!(!view.is_gone("b"), "there was no look yet");
        view.look(set(&["a", "b"]), at(0));
        assert!(!view.is_gone("b"));
        for seconds in [2, 4, 6] {
            view.look(set(&["a"]), at(seconds));
            assert!(!view.is_gone("b"), "{seconds} s");
        }
        view.look(set(&["a"]), at(8));
        assert!(view.is_gone("b"));
        view.look(set(&["a", "b"]), at(10));
        assert!(!view.is_gone("b"), "back");
        // The owner of a manifest that was never a member while we looked.
        assert!(!view.is_gone("stranger"));
        view.look(set(&["a", "b"]), at(16));
        assert!(view.is_gone("stranger"));
    }

    #[test]
    fn a_break_between_looks_is_no_absence() {
        let (ttl, start) = (Duration::from_secs(6), Instant::now());
        let mut view = MemberView::new(ttl);
        view.look(set(&["a", "b"]), start);
        view.look(set(&["a"]), start + Duration::from_secs(2));
        view.look(set(&["a"]), start + Duration::from_secs(60));
        assert!(!view.is_gone("b"), "NATS was away: b's entry expired while b was alive");
    }
}
