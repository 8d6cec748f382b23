//! What a quota pool counts: the units of a usage type under its limit, or, for an account with a spend cap, those that it pays for.

use crate::UsageType;

/// Before the name of the usage type. No name of the catalogue has a colon.
const BILLED: &str = "billed:";

/// The two pools that a usage type can have. They are separate, because a larger plan may limit in the same period what a smaller
/// one billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolType {
    /// A limit, for the whole period.
    Limited(UsageType),
    /// Units that are billed, of one segment, up to the account's spend cap.
    Billed(UsageType),
}

impl PoolType {
    pub fn usage_type(self) -> UsageType {
        match self {
            Self::Limited(usage_type) | Self::Billed(usage_type) => usage_type,
        }
    }

    pub fn is_billed(self) -> bool {
        matches!(self, Self::Billed(_))
    }

    /// The value of `quota_pool.usage_type`, and the name in messages between gateways.
    pub fn name(self) -> String {
        match self {
            Self::Limited(usage_type) => usage_type.name().to_owned(),
            Self::Billed(usage_type) => billed_name(usage_type.name()),
        }
    }

    /// The pool type with this name. `known` finds a usage type by its name.
    pub fn parse(name: &str, known: impl Fn(&str) -> Option<UsageType>) -> Option<Self> {
        match name.strip_prefix(BILLED) {
            Some(usage_type) => known(usage_type).map(Self::Billed),
            None => known(name).map(Self::Limited),
        }
    }
}

/// The name of the billed pool of a usage type.
pub fn billed_name(usage_type: &str) -> String {
    format!("{BILLED}{usage_type}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalogue;

    #[test]
    fn names_are_read_as_they_are_written() {
        let catalogue = Catalogue::built_in();
        let known = |name: &str| catalogue.usage_type(name);
        for usage_type in catalogue.usage_types() {
            for pool_type in [PoolType::Limited(*usage_type), PoolType::Billed(*usage_type)] {
                assert_eq!(PoolType::parse(&pool_type.name(), known), Some(pool_type));
            }
        }
        assert_eq!(PoolType::parse("billed:gold", known), None);
        assert_eq!(PoolType::Billed(catalogue.usage_types()[0]).name(), "billed:api_call");
    }
}
