//! What Stripe's checkout page asks for.

use clap::{ArgAction, Args, ValueEnum};

#[derive(Args, Clone, Debug)]
pub struct CheckoutSettings {
    /// Let customers enter promotion codes in the checkout
    #[arg(long, env = "CHECKOUT_PROMOTION_CODES", action = ArgAction::Set, default_value = "false", num_args = 0..=1,
          require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub checkout_promotion_codes: bool,

    /// Let business customers enter their tax id in the checkout
    #[arg(long, env = "CHECKOUT_TAX_IDS", action = ArgAction::Set, default_value = "false", num_args = 0..=1,
          require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub checkout_tax_ids: bool,

    /// Whether the checkout asks for a billing address: always (required), or only if the payment or the tax needs one (auto)
    #[arg(
        long,
        env = "CHECKOUT_BILLING_ADDRESS",
        default_value = "auto",
        value_name = "auto|required"
    )]
    pub checkout_billing_address: BillingAddress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BillingAddress {
    Auto,
    Required,
}
