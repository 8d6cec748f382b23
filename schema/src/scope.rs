//! What an API key allows. A key that servers use for calls cannot change what its account pays.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Calls through a gateway.
    Usage,
    /// Changes of the subscription and of payment methods.
    Billing,
}

/// The scopes of one key, each at most once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    usage: bool,
    billing: bool,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown scope; the scopes are: usage, billing")]
pub struct UnknownScope;

impl Scope {
    pub const ALL: [Self; 2] = [Self::Usage, Self::Billing];

    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Billing => "billing",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        let named = |scope: &Self| scope.name() == text;
        Self::ALL.into_iter().find(named).ok_or(UnknownScope)
    }
}

impl Scopes {
    /// From the names in PostgreSQL. An unknown name allows nothing.
    pub fn from_stored(names: &[String]) -> Self {
        names.iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// The names for PostgreSQL.
    pub fn to_stored(self) -> Vec<String> {
        self.iter().map(|scope| scope.name().to_owned()).collect()
    }

    pub fn has(self, scope: Scope) -> bool {
        match scope {
            Scope::Usage => self.usage,
            Scope::Billing => self.billing,
        }
    }

    pub fn with(mut self, scope: Scope) -> Self {
        self.set(scope, true);
        self
    }

    pub fn without(mut self, scope: Scope) -> Self {
        self.set(scope, false);
        self
    }

    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// In the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }

    fn set(&mut self, scope: Scope, value: bool) {
        match scope {
            Scope::Usage => self.usage = value,
            Scope::Billing => self.billing = value,
        }
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        scopes.into_iter().fold(Self::default(), Self::with)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Scope::name).collect();
        f.write_str(&names.join(","))
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_has_one_name_everywhere() {
        for scope in Scope::ALL {
            assert_eq!(scope.name().parse(), Ok(scope));
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.name());
            assert!(UnknownScope.to_string().contains(scope.name()));
        }
        for text in ["", "Usage", "admin", "usage,billing"] {
            assert_eq!(text.parse::<Scope>(), Err(UnknownScope), "{text}");
        }
    }

    #[test]
    fn a_key_has_only_the_scopes_that_are_stored() {
        let stored =
            |names: &[&str]| Scopes::from_stored(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        let usage = stored(&["usage"]);
        assert!(usage.has(Scope::Usage) && !usage.has(Scope::Billing));
        assert_eq!(usage.with(Scope::Billing), stored(&["billing", "usage", "usage"]));
        assert_eq!(usage.with(Scope::Billing).without(Scope::Billing), usage);
        assert_eq!(usage.with(Scope::Billing).to_stored(), ["usage", "billing"]);
        assert!(usage.without(Scope::Usage).is_empty());
        assert!(stored(&["everything"]).is_empty(), "a scope of a later release");
        assert_eq!(
            serde_json::to_string(&usage.with(Scope::Billing)).unwrap(),
            r#"["usage","billing"]"#
        );
        assert_eq!(usage.with(Scope::Billing).to_string(), "usage,billing");
    }
}
