//! The API's table of contents. Each route names the parameters that the double supports. Any other parameter is refused,
//! even if it is valid for Stripe; none is ignored.

use serde_json::Value;

use crate::api::call::Call;
use crate::api::{
    balance_transactions, checkout, coupons, credit_notes, customers, disputes, endpoints, events, invoice_items,
    invoices, meter_events, meters, payment_intents, payment_methods, portal, preview, prices, products, refunds,
    schedules, subscription_items, subscriptions, tax, test_clocks,
};
use crate::failure::Failure;
use crate::form::Param;
use crate::state::State;

type Handler = fn(&mut State, &Call) -> Result<Value, Failure>;

pub(crate) struct Route<'a> {
    handler: Handler,
    id: &'a str,
    understood: &'static [&'static str],
}

/// The filters of lists.
const LIST: &[&str] = &[
    "created",
    "email",
    "active",
    "is_default",
    "code",
    "test_clock",
    "coupon",
    "product",
    "currency",
    "type",
    "types",
    "recurring",
    "lookup_keys",
    "ids",
    "status",
    "customer",
    "price",
    "subscription",
    "current_period_start",
    "current_period_end",
    "collection_method",
    "delivery_success",
    "invoice",
    "pending",
    "start_time",
    "end_time",
    "value_grouping_window",
    "customer_details",
    "charge",
    "payment",
    "payment_intent",
];

const PAGE: [&str; 4] = ["limit", "starting_after", "ending_before", "expand"];

const NOTHING: &[&str] = &[];

/// `None`: the double does not support this path.
pub(crate) fn find<'a>(method: &str, path: &'a str) -> Option<Route<'a>> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (handler, id, understood): (Handler, &str, &'static [&'static str]) = match (method, parts.as_slice()) {
        ("POST", ["v1", "customers"]) => (customers::create, "", customers::UNDERSTOOD),
        ("GET", ["v1", "customers"]) => (customers::list, "", LIST),
        ("GET", ["v1", "customers", id]) => (customers::retrieve, id, NOTHING),
        ("POST", ["v1", "customers", id]) => (customers::update, id, customers::UNDERSTOOD),
        ("DELETE", ["v1", "customers", id]) => (customers::delete, id, NOTHING),

        ("GET", ["v1", "customers", id, "balance_transactions"]) => (balance_transactions::list, id, LIST),
        ("POST", ["v1", "customers", id, "balance_transactions"]) => {
            (balance_transactions::create, id, balance_transactions::UNDERSTOOD)
        }
        ("GET", ["v1", "customers", _, "balance_transactions", id]) => (balance_transactions::retrieve, id, NOTHING),

        ("POST", ["v1", "products"]) => (products::create, "", products::UNDERSTOOD),
        ("GET", ["v1", "products"]) => (products::list, "", LIST),
        ("GET", ["v1", "products", id]) => (products::retrieve, id, NOTHING),
        ("POST", ["v1", "products", id]) => (products::update, id, products::UNDERSTOOD),
        ("DELETE", ["v1", "products", id]) => (products::delete, id, NOTHING),

        ("POST", ["v1", "prices"]) => (prices::create, "", prices::UNDERSTOOD),
        ("GET", ["v1", "prices"]) => (prices::list, "", LIST),
        ("GET", ["v1", "prices", id]) => (prices::retrieve, id, NOTHING),
        ("POST", ["v1", "prices", id]) => (prices::update, id, prices::UPDATE_UNDERSTOOD),

        ("POST", ["v1", "coupons"]) => (coupons::create, "", coupons::UNDERSTOOD),
        ("GET", ["v1", "coupons"]) => (coupons::list, "", LIST),
        ("GET", ["v1", "coupons", id]) => (coupons::retrieve, id, NOTHING),
        ("POST", ["v1", "coupons", id]) => (coupons::update, id, coupons::UPDATE_UNDERSTOOD),
        ("DELETE", ["v1", "coupons", id]) => (coupons::delete, id, NOTHING),
        ("POST", ["v1", "promotion_codes"]) => (coupons::create_code, "", coupons::CODE_UNDERSTOOD),
        ("GET", ["v1", "promotion_codes"]) => (coupons::list_codes, "", LIST),
        ("GET", ["v1", "promotion_codes", id]) => (coupons::retrieve_code, id, NOTHING),
        ("POST", ["v1", "promotion_codes", id]) => (coupons::update_code, id, coupons::CODE_UPDATE_UNDERSTOOD),
        ("GET", ["v1", "tax", "settings"]) => (tax::settings, "", NOTHING),

        ("POST", ["v1", "billing", "meters"]) => (meters::create, "", meters::UNDERSTOOD),
        ("GET", ["v1", "billing", "meters"]) => (meters::list, "", LIST),
        ("GET", ["v1", "billing", "meters", id]) => (meters::retrieve, id, NOTHING),
        ("POST", ["v1", "billing", "meters", id]) => (meters::update, id, meters::UNDERSTOOD),
        ("POST", ["v1", "billing", "meters", id, "deactivate"]) => (meters::deactivate, id, NOTHING),
        ("POST", ["v1", "billing", "meters", id, "reactivate"]) => (meters::reactivate, id, NOTHING),
        ("GET", ["v1", "billing", "meters", id, "event_summaries"]) => (meter_events::summaries, id, LIST),
        ("POST", ["v1", "billing", "meter_events"]) => (meter_events::create, "", meter_events::UNDERSTOOD),
        ("POST", ["v1", "billing", "meter_event_adjustments"]) => {
            (meter_events::adjust, "", meter_events::ADJUSTMENT_UNDERSTOOD)
        }

        ("POST", ["v1", "checkout", "sessions"]) => (checkout::create, "", checkout::UNDERSTOOD),
        ("GET", ["v1", "checkout", "sessions"]) => (checkout::list, "", LIST),
        ("GET", ["v1", "checkout", "sessions", id]) => (checkout::retrieve, id, NOTHING),
        ("POST", ["v1", "checkout", "sessions", id, "expire"]) => (checkout::expire, id, NOTHING),
        ("GET", ["v1", "checkout", "sessions", id, "line_items"]) => (checkout::list_items, id, NOTHING),
        ("POST", ["v1", "billing_portal", "sessions"]) => (portal::create, "", portal::UNDERSTOOD),
        ("POST", ["v1", "billing_portal", "configurations"]) => {
            (portal::configure, "", portal::CONFIGURATION_UNDERSTOOD)
        }
        ("GET", ["v1", "billing_portal", "configurations"]) => (portal::list_configurations, "", LIST),
        ("GET", ["v1", "billing_portal", "configurations", id]) => (portal::retrieve_configuration, id, NOTHING),
        ("POST", ["v1", "billing_portal", "configurations", id]) => (
            portal::update_configuration,
            id,
            portal::CONFIGURATION_UPDATE_UNDERSTOOD,
        ),

        ("POST", ["v1", "subscriptions"]) => (subscriptions::create, "", subscriptions::UNDERSTOOD),
        ("GET", ["v1", "subscriptions"]) => (subscriptions::list, "", LIST),
        ("GET", ["v1", "subscriptions", id]) => (subscriptions::retrieve, id, NOTHING),
        ("POST", ["v1", "subscriptions", id]) => (subscriptions::update, id, subscriptions::UPDATE_UNDERSTOOD),
        ("DELETE", ["v1", "subscriptions", id]) => (subscriptions::cancel, id, subscriptions::CANCEL_UNDERSTOOD),
        ("POST", ["v1", "subscriptions", id, "pause"]) => (subscriptions::pause, id, &["type"]),
        ("POST", ["v1", "subscriptions", id, "resume"]) => {
            (subscriptions::resume, id, subscriptions::RESUME_UNDERSTOOD)
        }

        ("POST", ["v1", "subscription_items"]) => (subscription_items::create, "", subscription_items::UNDERSTOOD),
        ("GET", ["v1", "subscription_items"]) => (subscription_items::list, "", LIST),
        ("GET", ["v1", "subscription_items", id]) => (subscription_items::retrieve, id, NOTHING),
        ("POST", ["v1", "subscription_items", id]) => (subscription_items::update, id, subscription_items::UNDERSTOOD),
        ("DELETE", ["v1", "subscription_items", id]) => {
            (subscription_items::delete, id, subscription_items::UNDERSTOOD)
        }

        ("POST", ["v1", "subscription_schedules"]) => (schedules::create, "", schedules::UNDERSTOOD),
        ("GET", ["v1", "subscription_schedules"]) => (schedules::list, "", LIST),
        ("GET", ["v1", "subscription_schedules", id]) => (schedules::retrieve, id, NOTHING),
        ("POST", ["v1", "subscription_schedules", id]) => (schedules::update, id, schedules::UPDATE_UNDERSTOOD),
        ("POST", ["v1", "subscription_schedules", id, "release"]) => (schedules::release, id, NOTHING),
        ("POST", ["v1", "subscription_schedules", id, "cancel"]) => {
            (schedules::cancel, id, &["invoice_now", "prorate"])
        }

        ("POST", ["v1", "invoices", "create_preview"]) => (preview::create, "", preview::UNDERSTOOD),
        ("POST", ["v1", "invoices"]) => (invoices::create, "", invoices::UNDERSTOOD),
        ("GET", ["v1", "invoices"]) => (invoices::list, "", LIST),
        ("GET", ["v1", "invoices", id]) => (invoices::retrieve, id, NOTHING),
        ("POST", ["v1", "invoices", id]) => (invoices::update, id, invoices::UPDATE_UNDERSTOOD),
        ("DELETE", ["v1", "invoices", id]) => (invoices::delete, id, NOTHING),
        ("GET", ["v1", "invoices", id, "lines"]) => (invoices::lines, id, NOTHING),
        ("POST", ["v1", "invoices", id, "finalize"]) => (invoices::finalize, id, &["auto_advance"]),
        ("POST", ["v1", "invoices", id, "pay"]) => (
            invoices::pay,
            id,
            &["payment_method", "paid_out_of_band", "off_session"],
        ),
        ("POST", ["v1", "invoices", id, "void"]) => (invoices::void, id, NOTHING),
        ("POST", ["v1", "invoices", id, "mark_uncollectible"]) => (invoices::mark_uncollectible, id, NOTHING),

        ("POST", ["v1", "credit_notes"]) => (credit_notes::create, "", credit_notes::UNDERSTOOD),
        ("GET", ["v1", "credit_notes"]) => (credit_notes::list, "", LIST),
        ("GET", ["v1", "credit_notes", "preview"]) => (credit_notes::preview, "", credit_notes::UNDERSTOOD),
        ("GET", ["v1", "credit_notes", id]) => (credit_notes::retrieve, id, NOTHING),
        ("POST", ["v1", "credit_notes", id]) => (credit_notes::update, id, credit_notes::UPDATE_UNDERSTOOD),
        ("GET", ["v1", "credit_notes", id, "lines"]) => (credit_notes::lines, id, NOTHING),
        ("POST", ["v1", "credit_notes", id, "void"]) => (credit_notes::void, id, NOTHING),
        ("GET", ["v1", "invoice_payments"]) => (payment_intents::list_of_invoices, "", LIST),
        ("POST", ["v1", "refunds"]) => (refunds::create, "", refunds::UNDERSTOOD),
        ("GET", ["v1", "refunds"]) => (refunds::list, "", LIST),
        ("GET", ["v1", "refunds", id]) => (refunds::retrieve, id, NOTHING),
        ("GET", ["v1", "charges", id]) => (refunds::charge, id, NOTHING),
        ("GET", ["v1", "disputes"]) => (disputes::list, "", LIST),
        ("GET", ["v1", "disputes", id]) => (disputes::retrieve, id, NOTHING),
        ("POST", ["v1", "payment_methods", id, "attach"]) => (payment_methods::attach, id, payment_methods::UNDERSTOOD),
        ("GET", ["v1", "payment_intents", id]) => (payment_intents::retrieve, id, NOTHING),

        ("POST", ["v1", "invoiceitems"]) => (invoice_items::create, "", invoice_items::UNDERSTOOD),
        ("GET", ["v1", "invoiceitems"]) => (invoice_items::list, "", LIST),
        ("GET", ["v1", "invoiceitems", id]) => (invoice_items::retrieve, id, NOTHING),
        ("DELETE", ["v1", "invoiceitems", id]) => (invoice_items::delete, id, NOTHING),

        ("POST", ["v1", "test_helpers", "test_clocks"]) => (test_clocks::create, "", test_clocks::UNDERSTOOD),
        ("GET", ["v1", "test_helpers", "test_clocks"]) => (test_clocks::list, "", LIST),
        ("GET", ["v1", "test_helpers", "test_clocks", id]) => (test_clocks::retrieve, id, NOTHING),
        ("DELETE", ["v1", "test_helpers", "test_clocks", id]) => (test_clocks::delete, id, NOTHING),
        ("POST", ["v1", "test_helpers", "test_clocks", id, "advance"]) => (test_clocks::advance, id, &["frozen_time"]),

        ("GET", ["v1", "events"]) => (events::list, "", LIST),
        ("GET", ["v1", "events", id]) => (events::retrieve, id, NOTHING),
        ("GET", ["v2", "core", "events", id]) => (events::retrieve_thin, id, NOTHING),

        ("POST", ["v1", "webhook_endpoints"]) => (endpoints::create, "", endpoints::UNDERSTOOD),
        ("GET", ["v1", "webhook_endpoints"]) => (endpoints::list, "", LIST),
        ("GET", ["v1", "webhook_endpoints", id]) => (endpoints::retrieve, id, NOTHING),
        ("POST", ["v1", "webhook_endpoints", id]) => (endpoints::update, id, endpoints::UPDATE_UNDERSTOOD),
        ("DELETE", ["v1", "webhook_endpoints", id]) => (endpoints::delete, id, NOTHING),
        _ => return None,
    };
    Some(Route {
        handler,
        id,
        understood,
    })
}

impl Route<'_> {
    pub(crate) fn call(&self, state: &mut State, params: &Param, now: i64) -> Result<Value, Failure> {
        let known = |name: &&str| PAGE.contains(name) || self.understood.contains(name);
        if let Some(other) = params.names().into_iter().find(|name| !known(name)) {
            return Err(Failure::gap(&format!("the parameter {other}")).param(other));
        }
        (self.handler)(
            state,
            &Call {
                id: self.id,
                params,
                now,
            },
        )
    }
}
