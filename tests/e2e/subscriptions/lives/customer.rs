//! One customer: what it does, and what the oracle remembers of it.

use devstack::stripe_double::Card;
use http::Method;
use schema::Period;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::oracle::{Account, Offer};
use crate::subscriptions::rig::{Rig, Subscriber};

/// How often a request is repeated while a server is unavailable.
const ATTEMPTS_MAX: usize = 60;

pub(super) struct Customer {
    pub who: Subscriber,
    pub owes: Account,
    /// By part of the oracle: the period with which its usage is stamped, once there was usage.
    stamps: Vec<Option<Period>>,
}

impl Customer {
    pub(super) async fn new(rig: &Rig, name: &str) -> Self {
        Self {
            who: rig.subscriber(name).await,
            owes: Account::default(),
            stamps: Vec::new(),
        }
    }

    /// Status and body, as soon as it is not that a server is unavailable.
    async fn ask(&self, rig: &Rig, path: &str, body: Value) -> (u16, Value) {
        for _ in 0..ATTEMPTS_MAX {
            let answer = rig.post(&self.who, path, body.clone()).await;
            let status = answer.status.as_u16();
            if status < 500 && status != 429 {
                return (status, answer.json().unwrap());
            }
            // Meters count whole minutes, and Stripe may still have to count what was reported.
            rig.turn_by(60);
            rig.settle().await;
        }
        panic!("{path} {body} fails");
    }

    /// Makes a change; `true`: it is made, perhaps by an attempt whose answer was lost.
    async fn change(&self, rig: &Rig, path: &str, body: Value, made: &str) -> bool {
        match self.ask(rig, path, body.clone()).await {
            (200, _) => true,
            (409, problem) if problem["error"] == made => true,
            (409, problem) if problem["error"] == "changed_too_often" => false,
            (status, problem) => panic!("{path} {body}: {status} {problem}"),
        }
    }

    pub(super) async fn subscribe(&mut self, rig: &Rig, offer: &Offer) {
        let (status, opened) = self
            .ask(
                rig,
                "create-checkout-session",
                json!({ "tier": offer.plan, "interval": offer.interval() }),
            )
            .await;
        assert_eq!(status, 201, "{opened}");
        let session = opened["session_id"].as_str().unwrap();
        rig.control().complete_checkout(session).unwrap();
        rig.settle().await;
        let period = rig.period(&self.who).await;
        self.owes.subscribe(period.start, offer);
    }

    /// Usage that a gateway admits now.
    pub(super) async fn uses(&mut self, rig: &Rig, usage_type: &'static str, units: i64) {
        let part = self.owes.parts.len() - 1;
        let stamp = rig.segment(&self.who).await;
        self.stamps.resize(part + 1, None);
        let others = self.stamps[..part].iter().flatten();
        assert!(
            others.clone().all(|other| other.start != stamp.start),
            "two parts have the stamp {stamp:?}"
        );
        let known = *self.stamps[part].get_or_insert(stamp);
        assert_eq!(known.start, stamp.start, "a part has two stamps");
        rig.admitted(&self.who, stamp, &[(usage_type, units)]).await;
        self.owes.count(part, usage_type, units);
    }

    /// Usage that was admitted under an earlier plan or in an earlier month, and arrives now.
    pub(super) async fn uses_late(&mut self, rig: &Rig, part: usize, usage_type: &'static str, units: i64) {
        let Some(stamp) = self.stamps.get(part).copied().flatten() else {
            return;
        };
        rig.admitted(&self.who, stamp, &[(usage_type, units)]).await;
        self.owes.count(part, usage_type, units);
    }

    /// A correction voids some units.
    pub(super) async fn is_corrected(&mut self, rig: &Rig, part: usize, usage_type: &'static str, units: i64) {
        let counted = self.owes.parts[part].units.get(usage_type).copied().unwrap_or(0);
        let units = units.min(counted);
        let Some(stamp) = self.stamps.get(part).copied().flatten().filter(|_| units > 0) else {
            return;
        };
        // Nobody paid for these units, so no credit is due.
        if self.owes.parts[part].is_waived() {
            return;
        }
        rig.correct(&self.who, stamp, usage_type, units).await;
        self.owes.count(part, usage_type, -units);
    }

    /// From when the rest of the month is paid, if the customer upgrades to this plan now.
    pub(super) async fn previews(&self, rig: &Rig, plan: &str) -> i64 {
        let (status, preview) = self.ask(rig, "upgrade", json!({ "tier": plan, "preview": true })).await;
        assert_eq!(status, 200, "{preview}");
        let at = preview["proration_date"].as_str().unwrap();
        OffsetDateTime::parse(at, &Rfc3339).unwrap().unix_timestamp()
    }

    /// A larger plan now, for what the preview said.
    pub(super) async fn upgrades(&mut self, rig: &Rig, offer: &Offer) {
        let at = self.previews(rig, offer.plan).await;
        let date = OffsetDateTime::from_unix_timestamp(at)
            .unwrap()
            .format(&Rfc3339)
            .unwrap();
        let body = json!({ "tier": offer.plan, "proration_date": date });
        // The preview may be too old when a server is available again.
        let (status, answer) = self.ask(rig, "upgrade", body).await;
        let error = answer["error"].as_str().unwrap_or_default();
        match (status, error) {
            (200, _) | (409, "same_plan") => self.owes.upgrade(at, offer),
            (422, "preview_expired") | (409, "changed_too_often" | "preview_outdated") => {}
            _ => panic!("{status} {answer}"),
        }
    }

    pub(super) async fn changes_with_the_month(&mut self, rig: &Rig, offer: &Offer) {
        let body = json!({ "tier": offer.plan, "when": "period_end" });
        if self.change(rig, "upgrade", body, "").await {
            self.owes.change_with_the_month(offer);
        }
    }

    pub(super) async fn cancels(&mut self, rig: &Rig) {
        if self.change(rig, "cancel", json!({}), "conflict").await {
            self.owes.end_with_the_month();
        }
    }

    pub(super) async fn resumes(&mut self, rig: &Rig) {
        if self.change(rig, "resume", json!({}), "conflict").await {
            self.owes.resume();
        }
    }

    pub(super) async fn cancels_now(&mut self, rig: &Rig) {
        let body = json!({ "when": "now" });
        assert!(self.change(rig, "cancel", body, "not_subscribed").await);
        self.owes.end_now();
    }

    pub(super) fn card(&self, rig: &Rig, card: Card) {
        rig.control()
            .set_card(&rig.customers(&self.who)[0], Some(card))
            .unwrap();
    }

    /// A person pauses the collection of invoices in Stripe's dashboard, or resumes it.
    pub(super) async fn is_paused(&mut self, rig: &Rig, is_paused: bool) {
        let subscription = rig.subscription(&self.who).await["stripe_subscription_id"].clone();
        let path = format!("/v1/subscriptions/{}", subscription.as_str().unwrap());
        let form = match is_paused {
            true => "pause_collection[behavior]=void",
            false => "pause_collection=",
        };
        rig.call_stripe(Method::POST, &path, form).await;
        rig.settle().await;
        self.owes.is_paused = is_paused;
    }

    /// Pays what is open on the pages of the invoices.
    pub(super) fn pays(&self, rig: &Rig) {
        for invoice in rig.control().invoices(&rig.customers(&self.who)[0]) {
            if invoice["status"] == "open" {
                rig.control().pay_invoice(invoice["id"].as_str().unwrap()).unwrap();
            }
        }
    }

    /// The usage of the running month is shown with its price.
    pub(super) async fn assert_shown(&self, rig: &Rig) {
        let shown = rig.get(&self.who, "usage").await;
        assert_eq!(
            (shown["tier"].as_str(), shown["usage_cents"].as_i64()),
            (
                Some(self.owes.plan().unwrap_or("free")),
                Some(self.owes.running_usage_cents())
            ),
            "{shown}"
        );
    }

    /// What Stripe has charged and credited is what is owed, to the cent.
    pub(super) async fn assert_charged(&self, rig: &Rig) {
        let Some(customer) = rig.customers(&self.who).pop() else {
            return;
        };
        let (mut plan_cents, mut usage_cents) = (0, 0);
        for invoice in rig.control().invoices(&customer) {
            if invoice["status"] == "void" {
                continue;
            }
            for line in invoice["lines"]["data"].as_array().unwrap() {
                let amount = line["amount"].as_i64().unwrap();
                match self.is_usage(rig, line) {
                    true => usage_cents += amount,
                    false => plan_cents += amount,
                }
            }
        }
        let path = format!("/v1/credit_notes?customer={customer}&limit=100");
        let notes = rig.call_stripe(Method::GET, &path, "").await;
        for note in notes["data"].as_array().unwrap() {
            usage_cents -= note["amount"].as_i64().unwrap();
        }
        assert_eq!(
            (plan_cents, usage_cents),
            (self.owes.plan_cents, self.owes.usage_cents()),
            "plans and usage, charged and owed, in cents: {:#?}",
            self.owes
        );
    }

    fn is_usage(&self, rig: &Rig, line: &Value) -> bool {
        let price = line["pricing"]["price_details"]["price"].as_str();
        let price = price.and_then(|price| rig.control().object(price));
        let is_metered = price.is_some_and(|price| price["recurring"]["usage_type"] == "metered");
        is_metered || line["metadata"]["trendit_carry"].is_string()
    }
}
