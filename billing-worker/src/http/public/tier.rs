//! The plan that a request names: `tier`, in the body or in the query string.

use axum::{extract::FromRequestParts, http::request::Parts};
use serde::Deserialize;

use super::PublicApi;
use crate::{error::Error, http::query::Parameters};

/// `?tier=`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TierQuery {
    tier: Option<String>,
}

impl FromRequestParts<PublicApi> for TierQuery {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, api: &PublicApi) -> Result<Self, Error> {
        let Parameters(query) = Parameters::from_request_parts(parts, api).await?;
        Ok(query)
    }
}

impl TierQuery {
    /// The plan, which the query string, the body or both name.
    pub(super) fn or(self, body: Option<String>) -> Result<String, Error> {
        match (self.tier, body) {
            (Some(query), Some(body)) if query != body => Err(Error::ContradictoryTier { query, body }),
            (Some(tier), _) | (None, Some(tier)) => Ok(tier),
            (None, None) => Err(Error::Malformed(
                "`tier` is missing: send it in the body, or as the query parameter `tier`".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tier_is_named_once_or_twice_the_same() {
        let tier = |query: &str, body: Option<&str>| {
            let query = TierQuery {
                tier: Some(query.to_owned()).filter(|query| !query.is_empty()),
            };
            query.or(body.map(str::to_owned))
        };
        for (query, body) in [("pro", None), ("", Some("pro")), ("pro", Some("pro"))] {
            assert_eq!(tier(query, body).unwrap(), "pro");
        }
        let different = tier("pro", Some("enterprise")).unwrap_err().to_string();
        assert!(
            different.contains("`pro`") && different.contains("`enterprise`"),
            "{different}"
        );
        assert!(tier("", None).unwrap_err().to_string().starts_with("`tier` is missing"));
    }
}
