//! All that the double knows, behind one lock: an API call, a turn of the clock and a click on a page each happen at once or
//! not at all.

mod customers;
mod endpoints;
mod events;
mod invoice_items;
mod invoices;
mod meters;
mod schedules;
mod sessions;
mod subscriptions;

use std::collections::VecDeque;

use serde_json::Value;

use crate::clock::Clock;
use crate::ids::Ids;
use crate::objects::customer::Customer;
use crate::objects::endpoint::Endpoint;
use crate::objects::event::Event;
use crate::objects::invoice::Invoice;
use crate::objects::invoice_item::InvoiceItem;
use crate::objects::meter::Meter;
use crate::objects::portal_session::PortalSession;
use crate::objects::price::Price;
use crate::objects::product::Product;
use crate::objects::schedule::Schedule;
use crate::objects::session::Session;
use crate::objects::subscription::Subscription;
use crate::objects::usage::Usage;
use crate::options::BillingSettings;
use crate::outbox::Outbox;
use crate::spec::schema;
use crate::table::Table;

/// More are counted, not kept.
const VIOLATIONS_MAX: usize = 1_000;

pub(crate) struct State {
    /// Where the double listens, for the links that it hands out.
    pub url: String,
    pub clock: Clock,
    pub ids: Ids,
    pub settings: BillingSettings,
    pub customers: Table<Customer>,
    pub products: Table<Product>,
    pub prices: Table<Price>,
    pub meters: Table<Meter>,
    pub usage: Usage,
    pub subscriptions: Table<Subscription>,
    pub schedules: Table<Schedule>,
    pub invoices: Table<Invoice>,
    pub invoice_items: Table<InvoiceItem>,
    pub sessions: Table<Session>,
    pub portal_sessions: Table<PortalSession>,
    pub endpoints: Table<Endpoint>,
    pub events: Table<Event>,
    pub outbox: Outbox,
    /// The call under way, for the events that it causes: its id and idempotency key.
    pub cause: Option<(String, Option<String>)>,
    violations: VecDeque<String>,
}

impl State {
    pub fn new(url: String, clock: Clock, seed: u64, settings: BillingSettings) -> Self {
        Self {
            url,
            clock,
            ids: Ids::new(seed),
            settings,
            customers: Table::default(),
            products: Table::default(),
            prices: Table::default(),
            meters: Table::default(),
            usage: Usage::default(),
            subscriptions: Table::default(),
            schedules: Table::default(),
            invoices: Table::default(),
            invoice_items: Table::default(),
            sessions: Table::default(),
            portal_sessions: Table::default(),
            endpoints: Table::default(),
            events: Table::default(),
            outbox: Outbox::new(seed),
            cause: None,
            violations: VecDeque::new(),
        }
    }

    pub fn now(&self) -> i64 {
        self.clock.now()
    }

    pub fn violation(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push_back(what);
        }
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.iter().cloned().collect()
    }

    pub fn take_violations(&mut self) -> Vec<String> {
        self.violations.drain(..).collect()
    }

    /// Records what is wrong with an object that the double is about to send. A type of event that the schema does not know
    /// is wrong where it is emitted, unless a test asked for it.
    pub fn check_own(&mut self, object: &Value, where_to: &str) {
        let errors = schema().check_object(object).into_iter();
        for error in errors.filter(|error| !error.starts_with("event.type:")) {
            self.violation(format!("the double's own, {where_to}: {error}"));
        }
    }
}
