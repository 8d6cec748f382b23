//! The state of the double, behind one lock: an API call, a clock advance and a click on a page each happen completely or
//! not at all.

mod balances;
mod charges;
mod credit_notes;
mod customers;
mod discounts;
mod endpoints;
mod events;
mod invoice_amounts;
mod invoice_items;
mod invoices;
mod meters;
mod payments;
mod portal_configurations;
mod schedules;
mod sessions;
mod subscriptions;
mod test_clocks;

use std::collections::VecDeque;

use serde_json::Value;

use crate::clock::Clock;
use crate::ids::Ids;
use crate::objects::balance_transaction::BalanceTransaction;
use crate::objects::coupon::{Coupon, Discount, PromotionCode};
use crate::objects::credit_note::CreditNote;
use crate::objects::customer::Customer;
use crate::objects::dispute::Dispute;
use crate::objects::endpoint::Endpoint;
use crate::objects::event::Event;
use crate::objects::invoice::Invoice;
use crate::objects::invoice_item::InvoiceItem;
use crate::objects::meter::Meter;
use crate::objects::portal_configuration::PortalConfiguration;
use crate::objects::portal_session::PortalSession;
use crate::objects::price::Price;
use crate::objects::product::Product;
use crate::objects::refund::Refund;
use crate::objects::schedule::Schedule;
use crate::objects::session::Session;
use crate::objects::subscription::Subscription;
use crate::objects::test_clock::TestClock;
use crate::objects::usage::Usage;
use crate::options::BillingSettings;
use crate::outbox::Outbox;
use crate::spec::schema;
use crate::table::Table;

/// More are dropped.
const VIOLATIONS_MAX: usize = 1_000;

pub(crate) struct State {
    /// The base URL of the double, for the links in its objects.
    pub url: String,
    pub clock: Clock,
    pub ids: Ids,
    pub settings: BillingSettings,
    /// Calls whose effect at Stripe is not certain are violations.
    pub is_strict: bool,
    pub test_clocks: Table<TestClock>,
    pub customers: Table<Customer>,
    pub balance_transactions: Table<BalanceTransaction>,
    pub coupons: Table<Coupon>,
    pub promotion_codes: Table<PromotionCode>,
    pub discounts: Table<Discount>,
    pub products: Table<Product>,
    pub prices: Table<Price>,
    pub meters: Table<Meter>,
    pub usage: Usage,
    pub subscriptions: Table<Subscription>,
    pub schedules: Table<Schedule>,
    pub invoices: Table<Invoice>,
    pub credit_notes: Table<CreditNote>,
    pub refunds: Table<Refund>,
    pub disputes: Table<Dispute>,
    pub invoice_items: Table<InvoiceItem>,
    pub sessions: Table<Session>,
    pub portal_configurations: Table<PortalConfiguration>,
    pub portal_sessions: Table<PortalSession>,
    pub endpoints: Table<Endpoint>,
    pub events: Table<Event>,
    pub outbox: Outbox,
    /// The id and the idempotency key of the current call, for the events that it causes.
    pub cause: Option<(String, Option<String>)>,
    violations: VecDeque<String>,
}

impl State {
    pub(crate) fn new(url: String, clock: Clock, seed: u64, settings: BillingSettings) -> Self {
        Self {
            url,
            clock,
            ids: Ids::new(seed),
            settings,
            is_strict: false,
            test_clocks: Table::default(),
            customers: Table::default(),
            balance_transactions: Table::default(),
            coupons: Table::default(),
            promotion_codes: Table::default(),
            discounts: Table::default(),
            products: Table::default(),
            prices: Table::default(),
            meters: Table::default(),
            usage: Usage::default(),
            subscriptions: Table::default(),
            schedules: Table::default(),
            invoices: Table::default(),
            credit_notes: Table::default(),
            refunds: Table::default(),
            disputes: Table::default(),
            invoice_items: Table::default(),
            sessions: Table::default(),
            portal_configurations: Table::default(),
            portal_sessions: Table::default(),
            endpoints: Table::default(),
            events: Table::default(),
            outbox: Outbox::new(seed),
            cause: None,
            violations: VecDeque::new(),
        }
    }

    pub(crate) fn now(&self) -> i64 {
        self.clock.now()
    }

    pub(crate) fn violation(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push_back(what);
        }
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.iter().cloned().collect()
    }

    pub(crate) fn take_violations(&mut self) -> Vec<String> {
        self.violations.drain(..).collect()
    }

    /// Checks an object that the double is about to send and records the mistakes. An event type that the schema does not know
    /// is reported where the event is emitted, unless a test asked for it.
    pub(crate) fn check_own(&mut self, object: &Value, where_to: &str) {
        let errors = schema().check_object(object).into_iter();
        for error in errors.filter(|error| !error.starts_with("event.type:")) {
            self.violation(format!("mistake of the double, {where_to}: {error}"));
        }
    }
}
