//! The test population: accounts of every kind that the guarantees cover, and their API keys.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::{RngExt, rngs::StdRng};
use schema::{AccountId, KeyId};

/// The purpose of an account in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Near its limits almost all the time; the limits are raised a little from time to time.
    Near,
    /// Never refused by a limit.
    Far,
    /// Subscribed in Stripe, to a plan that bills usage past its limit.
    Paying,
    /// Its billing period ends in the middle of the run.
    RollsOver,
    /// Its plan changes.
    Changes,
}

#[derive(Clone, Debug)]
pub struct Member {
    pub id: AccountId,
    pub role: Role,
    /// The customer id in Stripe, if the account pays.
    pub customer: Option<String>,
}

/// One API key. Its index in the list is its number.
#[derive(Clone, Debug)]
pub struct CastKey {
    pub id: KeyId,
    pub secret: String,
    pub account: usize,
}

#[derive(Clone)]
pub struct Cast {
    pub members: Arc<Vec<Member>>,
    keys: Arc<Mutex<Vec<CastKey>>>,
}

pub const ROLES: [(Role, usize); 5] = [
    (Role::Near, 4),
    (Role::Far, 4),
    (Role::Paying, 3),
    (Role::RollsOver, 3),
    (Role::Changes, 3),
];

pub const USAGE_TYPES: [&str; 3] = ["api_call", "export", "sentiment_analysis"];

/// The built-in catalogue, plus a plan that bills usage past its limit.
pub const PLANS: &str = r#"
usage_types = ["api_call", "export", "sentiment_analysis"]

[[plan]]
id = "free"
name = "Free"
usage.api_call = { limit = 100 }
usage.export = { limit = 5 }
usage.sentiment_analysis = { limit = 50 }

[[plan]]
id = "flex"
name = "Flex"
prices = { month = 1000 }
usage.api_call = { limit = 100, mode = "overage", unit_price_micros = 1000 }
usage.export = { mode = "metered", unit_price_micros = 2000 }
usage.sentiment_analysis = { limit = 5_000 }

[[plan]]
id = "pro"
name = "Pro"
prices = { month = 2900 }
usage.api_call = { limit = 10_000 }
usage.export = { limit = 100 }
usage.sentiment_analysis = { limit = 2_000 }

[[plan]]
id = "enterprise"
name = "Enterprise"
prices = { month = 29900 }
usage.api_call = { limit = 100_000 }
usage.export = { limit = 1_000 }
usage.sentiment_analysis = { limit = 20_000 }
"#;

impl Cast {
    /// `keys` has one key for each member, in the order of the members.
    pub fn new(members: Vec<Member>, keys: Vec<CastKey>) -> Self {
        Self {
            members: Arc::new(members),
            keys: Arc::new(Mutex::new(keys)),
        }
    }

    /// Picks a key that a client of this account uses: the newest, or sometimes an older one that the client still uses.
    pub fn pick_key(&self, random: &mut StdRng, account: usize) -> (usize, CastKey) {
        let keys = self.lock();
        let own: Vec<usize> = (0..keys.len()).filter(|n| keys[*n].account == account).collect();
        let pick = match random.random_bool(0.2) {
            true => own[random.random_range(0..own.len())],
            false => *own.last().expect("every member has a key"),
        };
        (pick, keys[pick].clone())
    }

    /// The newest key of an account.
    pub fn newest_key(&self, account: usize) -> Option<(usize, CastKey)> {
        let keys = self.lock();
        let newest = keys.iter().rposition(|key| key.account == account)?;
        Some((newest, keys[newest].clone()))
    }

    pub fn add_key(&self, key: CastKey) {
        self.lock().push(key);
    }

    pub fn key_ids(&self) -> Vec<KeyId> {
        self.lock().iter().map(|key| key.id).collect()
    }

    pub fn with_role(&self, roles: &[Role]) -> Vec<usize> {
        let has = |n: &usize| roles.contains(&self.members[*n].role);
        (0..self.members.len()).filter(has).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<CastKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
