//! The plan catalogue: which usage types exist, and what each plan costs and allows. Read from `plans.toml`.

mod amount;
mod offer;

use std::{collections::BTreeMap, fmt, num::NonZeroU32, ops::Range, str::FromStr};

use serde::{Deserialize, Serialize};
use toml::Spanned;

use self::{
    amount::Amount,
    offer::{Entries, Offer},
};
use crate::prices::{ByCurrency, Currency, Interval, UsageBilling};

/// The catalogue that is built into the binaries.
const BUILT_IN: &str = include_str!("../plans.toml");

/// The name of the burst limit, beside the usage types, in `RateLimit-Policy`.
pub const BURST: &str = "burst";

/// The highest limit.
const BURST_MAX: u32 = 1_000_000;

/// A type of metered usage, such as `api_call`. Small and `Copy`: counters are arrays indexed by [`UsageType::index`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UsageType {
    index: u8,
    name: &'static str,
}

/// What happens at a plan's limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Requests beyond the limit are refused.
    #[default]
    Limited,
    /// Requests beyond the limit are admitted and billed.
    Overage,
    /// Every unit is billed. There is no limit.
    Metered,
}

/// The allowance of a plan for one usage type in one period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// Units for each period. 0 for [`Mode::Metered`], which includes no units.
    pub limit: i64,
    pub mode: Mode,
    /// Price of a billed unit, in millionths of a US dollar. 0: no units are billed.
    pub unit_price_micros: i64,
}

impl Allowance {
    pub const NOTHING: Self = Self {
        limit: 0,
        mode: Mode::Limited,
        unit_price_micros: 0,
    };
}

/// Whether a trial may use more than its plan includes (`TRIAL_OVERAGE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrialOverage {
    #[default]
    Refuse,
    /// Without a bill.
    Free,
}

/// How fast one key may send requests: `size` requests at once, then `per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Burst {
    pub per_second: NonZeroU32,
    pub size: NonZeroU32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub id: String,
    pub name: String,
    /// Per month, in US cents.
    pub price_cents: i64,
    /// The other prices: per month in other currencies, and per year.
    pub prices: BTreeMap<Interval, ByCurrency>,
    pub usage_billing: UsageBilling,
    /// Trial days for a new subscriber. 0: no trial.
    pub trial_days: u32,
    /// How many days events are kept. `None`: without limit.
    pub retention_days: Option<u32>,
    /// For each key, at each gateway. `None`: no burst limit.
    pub burst: Option<Burst>,
    pub features: Vec<String>,
    /// Whether it is in the price list. Only an operator gives a plan that is not.
    pub listed: bool,
    /// Indexed by [`UsageType::index`].
    allowances: Vec<Allowance>,
    /// Prices of a billed unit in other currencies than US dollars, by usage type. Empty: there are none.
    pub unit_prices: BTreeMap<String, ByCurrency>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogue {
    usage_types: Vec<UsageType>,
    plans: Vec<Plan>,
    /// A setting beside the file.
    pub(crate) trial_overage: TrialOverage,
}

/// The error in a catalogue, with its line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct CatalogueError {
    pub line: usize,
    pub problem: String,
}

impl UsageType {
    pub fn index(self) -> usize {
        usize::from(self.index)
    }

    pub fn name(self) -> &'static str {
        self.name
    }
}

impl fmt::Debug for UsageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for UsageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Limited => "limited",
            Self::Overage => "overage",
            Self::Metered => "metered",
        }
    }

    pub fn from_stored(text: &str) -> Option<Self> {
        [Self::Limited, Self::Overage, Self::Metered]
            .into_iter()
            .find(|mode| mode.as_str() == text)
    }
}

impl Plan {
    pub fn allowance(&self, usage_type: UsageType) -> Allowance {
        self.allowances[usage_type.index()]
    }
}

impl Catalogue {
    /// The plan of accounts without a subscription.
    pub const FREE: &str = "free";

    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("the built-in catalogue is tested")
    }

    /// Parses a catalogue. Names of usage types are never freed: call it once, at the start.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let fail = |at: Range<usize>, problem: String| CatalogueError {
            line: line_of(text, at.start),
            problem,
        };
        let file: File =
            toml::from_str(text).map_err(|error| fail(error.span().unwrap_or(0..0), error.message().to_owned()))?;

        let mut usage_types: Vec<UsageType> = Vec::new();
        for name in file.usage_types {
            let (at, name) = (name.span(), name.into_inner());
            if name == BURST {
                let problem = format!("usage type `{BURST}`: that is what the burst limit is called");
                return Err(fail(at, problem));
            }
            if !is_name(&name) || usage_types.iter().any(|known| known.name == name) || usage_types.len() == 64 {
                return Err(fail(
                    at,
                    format!("usage type `{name}`: at most 64 different names of a-z, 0-9 and _"),
                ));
            }
            usage_types.push(UsageType {
                index: u8::try_from(usage_types.len()).expect("at most 64"),
                name: name.leak(),
            });
        }

        let mut plans: Vec<Plan> = Vec::new();
        for entry in file.plan {
            let (at, id) = (entry.id.span(), entry.id.into_inner());
            if !is_name(&id) || plans.iter().any(|plan| plan.id == id) {
                return Err(fail(
                    at,
                    format!("plan `{id}`: ids are different and of a-z, 0-9 and _"),
                ));
            }
            let entries = Entries {
                price_cents: entry.price_cents,
                prices: entry.prices,
                usage_billing: entry.usage_billing,
            };
            let offer = Offer::of(&id, at.clone(), entries).map_err(|(at, problem)| fail(at, problem))?;
            if entry.trial_days > 730 || (id == Self::FREE && entry.trial_days > 0) {
                return Err(fail(
                    at,
                    format!("plan `{id}`: trial_days is up to 730, and none for `{}`", Self::FREE),
                ));
            }
            if id == Self::FREE && !entry.listed {
                return Err(fail(at, format!("plan `{id}`: `listed = false` is not for this plan")));
            }
            let burst = match entry.burst {
                None => None,
                Some(burst) => {
                    let (at, BurstEntry { per_second, size }) = (burst.span(), burst.into_inner());
                    let bounded = |n: u32| NonZeroU32::new(n).filter(|n| n.get() <= BURST_MAX);
                    let (Some(per_second), Some(size)) = (bounded(per_second), bounded(size)) else {
                        let problem = format!("plan `{id}`: a burst's per_second and size are 1 to {BURST_MAX}");
                        return Err(fail(at, problem));
                    };
                    Some(Burst { per_second, size })
                }
            };
            let mut allowances = vec![None; usage_types.len()];
            let mut unit_prices = BTreeMap::new();
            for (name, usage) in entry.usage {
                let Some(usage_type) = usage_types.iter().find(|known| known.name == *name.get_ref()) else {
                    let known: Vec<_> = usage_types.iter().map(|known| known.name).collect();
                    let problem = format!(
                        "plan `{id}`: unknown usage type `{}`; known: {}",
                        name.get_ref(),
                        known.join(", ")
                    );
                    return Err(fail(name.span(), problem));
                };
                let limit = match (usage.mode, usage.limit) {
                    (Mode::Metered, None) => 0,
                    (Mode::Limited | Mode::Overage, Some(limit)) if limit >= 0 => limit,
                    _ => {
                        let problem =
                            format!("plan `{id}`, {usage_type}: `limit` is 0 or more, and absent when metered");
                        return Err(fail(name.span(), problem));
                    }
                };
                let mut unit_price = match (usage.mode, usage.unit_price_micros) {
                    (Mode::Limited, None) => ByCurrency::new(),
                    (Mode::Overage | Mode::Metered, Some(Amount(price))) if id != Self::FREE => price,
                    _ => {
                        let problem = format!(
                            "plan `{id}`, {usage_type}: `unit_price_micros` is more than 0 where units are billed (overage, \
                             metered; never in `{}`), and absent where none are",
                            Self::FREE
                        );
                        return Err(fail(name.span(), problem));
                    }
                };
                if usage.mode != Mode::Limited {
                    let checked = offer.check_unit(&unit_price);
                    checked.map_err(|problem| fail(name.span(), format!("plan `{id}`, {usage_type}: {problem}")))?;
                }
                allowances[usage_type.index()] = Some(Allowance {
                    limit,
                    mode: usage.mode,
                    unit_price_micros: unit_price.remove(&Currency::USD).unwrap_or(0),
                });
                if !unit_price.is_empty() {
                    unit_prices.insert(usage_type.name().to_owned(), unit_price);
                }
            }
            if let Some(missing) = usage_types.iter().find(|known| allowances[known.index()].is_none()) {
                return Err(fail(at, format!("plan `{id}`: usage.{missing} is missing")));
            }
            plans.push(Plan {
                id,
                name: entry.name,
                price_cents: offer.price_cents,
                prices: offer.prices,
                usage_billing: offer.usage_billing,
                trial_days: entry.trial_days,
                retention_days: entry.retention_days,
                burst,
                features: entry.features,
                listed: entry.listed,
                allowances: allowances.into_iter().flatten().collect(),
                unit_prices,
            });
        }
        if !plans.iter().any(|plan| plan.id == Self::FREE) {
            return Err(fail(
                0..0,
                format!(
                    "there is no plan `{}`, which accounts without a subscription have",
                    Self::FREE
                ),
            ));
        }
        Ok(Self {
            usage_types,
            plans,
            trial_overage: TrialOverage::default(),
        })
    }

    /// The same catalogue with another setting for trials.
    pub fn with_trial_overage(mut self, trial_overage: TrialOverage) -> Self {
        self.trial_overage = trial_overage;
        self
    }

    pub fn usage_types(&self) -> &[UsageType] {
        &self.usage_types
    }

    pub fn usage_type(&self, name: &str) -> Option<UsageType> {
        self.usage_types.iter().copied().find(|known| known.name == name)
    }

    /// From the smallest plan to the largest.
    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    /// The position of a plan. A later one is an upgrade.
    pub fn position(&self, plan: &str) -> Option<usize> {
        self.plans.iter().position(|known| known.id == plan)
    }

    /// The usage types that a plan bills by the unit.
    pub fn billed<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = UsageType> + 'a {
        let usage_types = self.usage_types.iter().copied();
        usage_types.filter(|usage_type| plan.allowance(*usage_type).mode != Mode::Limited)
    }

    pub fn plan(&self, id: &str) -> Option<&Plan> {
        self.plans.iter().find(|plan| plan.id == id)
    }
}

impl FromStr for TrialOverage {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "refuse" => Ok(Self::Refuse),
            "free" => Ok(Self::Free),
            _ => Err("must be `refuse` or `free`"),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    usage_types: Vec<Spanned<String>>,
    plan: Vec<PlanEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanEntry {
    id: Spanned<String>,
    name: String,
    price_cents: Option<Spanned<i64>>,
    prices: Option<Spanned<BTreeMap<Interval, Amount>>>,
    usage_billing: Option<Spanned<UsageBilling>>,
    #[serde(default)]
    trial_days: u32,
    retention_days: Option<u32>,
    burst: Option<Spanned<BurstEntry>>,
    #[serde(default)]
    features: Vec<String>,
    #[serde(default = "listed")]
    listed: bool,
    usage: BTreeMap<Spanned<String>, UsageEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BurstEntry {
    per_second: u32,
    size: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageEntry {
    limit: Option<i64>,
    #[serde(default)]
    mode: Mode,
    unit_price_micros: Option<Amount>,
}

fn listed() -> bool {
    true
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

#[cfg(test)]
mod tests;
