//! Adds webhook endpoints.

use crate::failure::Failure;
use crate::objects::endpoint::{Endpoint, check_url};
use crate::objects::metadata::Metadata;
use crate::spec::API_VERSION;
use crate::state::State;

/// Stripe's limit for one account.
const ENDPOINTS_MAX: usize = 16;

impl State {
    /// Adds an endpoint for all events, in the double's API version.
    pub(crate) fn add_endpoint(&mut self, url: &str, secret: String, now: i64) -> Result<String, Failure> {
        if self.endpoints.iter().filter(|(_, endpoint)| !endpoint.deleted).count() >= ENDPOINTS_MAX {
            return Err(Failure::invalid(
                "You have reached the maximum of 16 webhook endpoints.",
            ));
        }
        let (url, id) = (check_url(url)?, self.ids.next("we"));
        let endpoint = Endpoint {
            id: id.clone(),
            url,
            secrets: vec![(secret, None)],
            enabled_events: vec!["*".to_owned()],
            api_version: Some(API_VERSION.to_owned()),
            description: None,
            metadata: Metadata::new(),
            created: now,
            disabled: false,
            deleted: false,
        };
        self.endpoints.insert(&id, endpoint);
        Ok(id)
    }
}
