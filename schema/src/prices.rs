//! What a plan can be paid for: by the month or by the year, and in which currencies.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A currency whose smallest unit is a hundredth, as Stripe writes it: `usd`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

/// Amounts by currency.
pub type ByCurrency = BTreeMap<Currency, i64>;

/// How often a plan is paid for. Limits are for a month, whatever the interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interval {
    #[default]
    Month,
    Year,
}

/// When the usage of a plan that is paid by the year is charged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageBilling {
    /// After each month.
    #[default]
    Monthly,
    /// After the year.
    YearEnd,
}

/// Stripe's currencies that have no hundredths, and those that it takes only in whole units.
const WITHOUT_HUNDREDTHS: [&str; 22] = [
    "bhd", "bif", "clp", "djf", "gnf", "isk", "jod", "jpy", "kmf", "krw", "kwd", "mga", "omr", "pyg", "rwf", "tnd",
    "ugx", "vnd", "vuv", "xaf", "xof", "xpf",
];

impl Currency {
    pub const USD: Self = Self(*b"usd");

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("three letters of a-z")
    }
}

impl FromStr for Currency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let letters = <[u8; 3]>::try_from(text.as_bytes()).ok();
        let Some(letters) = letters.filter(|letters| letters.iter().all(u8::is_ascii_lowercase)) else {
            return Err(format!(
                "currency `{text}`: write three lower-case letters, such as `eur`"
            ));
        };
        if WITHOUT_HUNDREDTHS.contains(&text) {
            return Err(format!(
                "currency `{text}` is not supported: it is not divided into hundredths, and all amounts here are hundredths"
            ));
        }
        Ok(Self(letters))
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Interval {
    pub const ALL: [Self; 2] = [Self::Month, Self::Year];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    pub fn months(self) -> i32 {
        match self {
            Self::Month => 1,
            Self::Year => 12,
        }
    }

    /// `None`: no plan has such an interval.
    pub fn from_months(months: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|interval| interval.months() == months)
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl UsageBilling {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Monthly => "monthly",
            Self::YearEnd => "year_end",
        }
    }

    pub fn is_monthly(&self) -> bool {
        *self == Self::Monthly
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_currencies_with_hundredths_are_known() {
        for text in ["usd", "eur", "gbp"] {
            assert_eq!(text.parse::<Currency>().unwrap().as_str(), text);
        }
        for text in ["USD", "us", "dollar", "€", "", "u1d"] {
            assert!(text.parse::<Currency>().unwrap_err().contains("three"), "{text}");
        }
        for text in ["jpy", "kwd"] {
            assert!(text.parse::<Currency>().unwrap_err().contains("hundredths"), "{text}");
        }
    }

    #[test]
    fn intervals_survive_storage() {
        for interval in Interval::ALL {
            assert_eq!(Interval::from_months(interval.months()), Some(interval));
        }
        assert_eq!(Interval::from_months(3), None);
    }
}
