//! A configuration of the billing portal: what customers can do there.

use serde_json::{Value, json};

use crate::form::Param;
use crate::objects::metadata::{Metadata, merge_metadata};

#[derive(Clone, Debug)]
pub(crate) struct PortalConfiguration {
    pub id: String,
    pub active: bool,
    /// Made in Stripe's dashboard; a session that names no configuration has this one.
    pub is_default: bool,
    features: Param,
    name: Option<String>,
    default_return_url: Option<String>,
    metadata: Metadata,
    created: i64,
    updated: i64,
}

impl PortalConfiguration {
    pub(crate) fn new(id: &str, params: &Param, now: i64) -> Self {
        let mut configuration = Self {
            id: id.to_owned(),
            active: true,
            is_default: false,
            features: Param::default(),
            name: None,
            default_return_url: None,
            metadata: Metadata::new(),
            created: now,
            updated: now,
        };
        configuration.apply(params, now);
        configuration
    }

    /// The one that Stripe's dashboard makes: customers can pay, cancel at the end of the period and update their card.
    pub(crate) fn of_dashboard(now: i64) -> Self {
        let features = "features[subscription_cancel][enabled]=true&features[invoice_history][enabled]=true\
            &features[payment_method_update][enabled]=true";
        let mut configuration = Self::new("bpc_dashboard", &Param::parse(features).0, now);
        configuration.is_default = true;
        configuration
    }

    /// A feature in the call replaces that feature; the others stay.
    pub(crate) fn apply(&mut self, params: &Param, now: i64) {
        if let (Some(Param::Map(given)), Param::Map(features)) = (params.get("features"), &mut self.features) {
            features.extend(given.clone());
        }
        for (name, field) in [
            ("name", &mut self.name),
            ("default_return_url", &mut self.default_return_url),
        ] {
            if let Some(text) = params.text(name) {
                *field = Some(text.to_owned()).filter(|text| !text.is_empty());
            }
        }
        self.active = params.flag("active").unwrap_or(self.active);
        self.updated = now;
        merge_metadata(&mut self.metadata, params);
    }

    pub(crate) fn lets_cancel(&self) -> bool {
        self.has("subscription_cancel")
    }

    pub(crate) fn return_url(&self) -> Option<&str> {
        self.default_return_url.as_deref()
    }

    fn has(&self, feature: &str) -> bool {
        self.features.flag(&format!("{feature}.enabled")) == Some(true)
    }

    pub(crate) fn render(&self) -> Value {
        let features = &self.features;
        let reason = "subscription_cancel.cancellation_reason";
        let text = |path: &str, default: &str| features.filled(path).unwrap_or(default).to_owned();
        let features = json!({
            "customer_update": { "allowed_updates": features.texts("customer_update.allowed_updates"),
                "enabled": self.has("customer_update") },
            "invoice_history": { "enabled": self.has("invoice_history") },
            "payment_method_update": { "enabled": self.has("payment_method_update"), "payment_method_configuration": null },
            "subscription_cancel": {
                "cancellation_reason": { "enabled": self.has(reason), "options": features.texts(&format!("{reason}.options")) },
                "enabled": self.has("subscription_cancel"), "mode": text("subscription_cancel.mode", "at_period_end"),
                "proration_behavior": text("subscription_cancel.proration_behavior", "none") },
            "subscription_update": { "default_allowed_updates": features.texts("subscription_update.default_allowed_updates"),
                "enabled": self.has("subscription_update"), "products": null,
                "proration_behavior": text("subscription_update.proration_behavior", "none"),
                "schedule_at_period_end": { "conditions": [] }, "trial_update_behavior": "end_trial" },
        });
        json!({
            "id": self.id, "object": "billing_portal.configuration", "active": self.active, "application": null,
            "business_profile": { "headline": null, "privacy_policy_url": null, "terms_of_service_url": null },
            "created": self.created, "default_return_url": self.default_return_url, "features": features,
            "is_default": self.is_default, "livemode": false, "login_page": { "enabled": false, "url": null },
            "metadata": self.metadata, "name": self.name, "updated": self.updated,
        })
    }
}
