//! What customers can do in Stripe's portal. Plans and quantities are changed here only: a change in the portal would skip what an
//! upgrade does first.

use std::collections::HashMap;

use stripe_billing::billing_portal_configuration::{
    CreateBillingPortalConfiguration, CreateBillingPortalConfigurationFeatures as Features,
    CreateBillingPortalConfigurationFeaturesCustomerUpdate as CustomerUpdate,
    CreateBillingPortalConfigurationFeaturesCustomerUpdateAllowedUpdates as Allowed,
    CreateBillingPortalConfigurationFeaturesSubscriptionCancel as Cancel,
    CreateBillingPortalConfigurationFeaturesSubscriptionCancelMode as Mode,
    CreateBillingPortalConfigurationFeaturesSubscriptionUpdate as Update, InvoiceListParam, PaymentMethodUpdateParam,
};

use crate::stripe::names;

/// Cards, invoices, addresses, and the end of the subscription at the end of its period.
pub(super) fn request() -> CreateBillingPortalConfiguration {
    let mut customer = CustomerUpdate::new(true);
    customer.allowed_updates = Some(vec![Allowed::Address, Allowed::Email, Allowed::Name, Allowed::TaxId]);
    let mut cancel = Cancel::new(true);
    cancel.mode = Some(Mode::AtPeriodEnd);
    let mut features = Features::new();
    features.customer_update = Some(customer);
    features.invoice_history = Some(InvoiceListParam::new(true));
    features.payment_method_update = Some(PaymentMethodUpdateParam::new(true));
    features.subscription_cancel = Some(cancel);
    features.subscription_update = Some(Update::new(false));
    CreateBillingPortalConfiguration::new(features)
        .metadata(HashMap::from([(names::META_OURS.to_owned(), "1".to_owned())]))
}
