//! Finds the configurations of the billing portal.

use crate::failure::Failure;
use crate::objects::portal_configuration::PortalConfiguration;
use crate::state::State;

impl State {
    /// The configuration of a new session: the one that the call names, or the default one.
    pub(crate) fn portal_configuration(&self, named: Option<&str>) -> Result<&PortalConfiguration, Failure> {
        let Some(id) = named else {
            let mut all = self
                .portal_configurations
                .iter()
                .map(|(_, configuration)| configuration);
            return all
                .find(|configuration| configuration.is_default)
                .ok_or_else(Failure::portal_not_configured);
        };
        let configuration = self.portal_configurations.get(id);
        let configuration =
            configuration.ok_or_else(|| Failure::no_such("configuration", id).param("configuration"))?;
        // Stripe's own sentence for this refusal is not documented.
        if !configuration.active {
            let message = format!("The portal configuration `{id}` is not active.");
            return Err(Failure::invalid(message).param("configuration"));
        }
        Ok(configuration)
    }

    /// As if the operator saved the settings of the portal in Stripe's dashboard, or never did.
    pub(crate) fn configure_portal(&mut self, is_configured: bool) {
        let default = PortalConfiguration::of_dashboard(self.now());
        self.portal_configurations.remove(&default.id);
        if is_configured {
            self.portal_configurations.insert(&default.id.clone(), default);
        }
    }
}
