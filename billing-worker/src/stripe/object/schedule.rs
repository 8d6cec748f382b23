use serde::Deserialize;

use super::subscription::Price;

/// A subscription schedule: a change of plan that is due at the end of a period.
#[derive(Clone, Debug, Deserialize)]
pub struct Schedule {
    pub id: String,
    /// `not_started`, `active`, `completed`, `released` or `canceled`.
    pub status: String,
    pub phases: Vec<Phase>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Phase {
    pub start_date: i64,
    pub end_date: i64,
    pub items: Vec<PhaseItem>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct PhaseItem {
    pub price: PriceOrId,
    /// `None`: the price is metered.
    pub quantity: Option<u64>,
}

/// A phase names its prices by id, unless they are expanded.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum PriceOrId {
    Id(String),
    Price(Box<Price>),
}

impl PriceOrId {
    pub fn id(&self) -> &str {
        match self {
            Self::Id(id) => id,
            Self::Price(price) => &price.id,
        }
    }

    pub fn price(&self) -> Option<&Price> {
        match self {
            Self::Id(_) => None,
            Self::Price(price) => Some(price),
        }
    }
}

impl Schedule {
    pub fn is_active(&self) -> bool {
        self.status == "active" || self.status == "not_started"
    }

    /// The first phase that begins then or later.
    pub fn phase_from(&self, from: i64) -> Option<&Phase> {
        self.phases
            .iter()
            .filter(|phase| phase.start_date >= from)
            .min_by_key(|phase| phase.start_date)
    }
}

impl Phase {
    pub fn prices(&self) -> impl Iterator<Item = &PriceOrId> + Clone {
        self.items.iter().map(|item| &item.price)
    }
}
