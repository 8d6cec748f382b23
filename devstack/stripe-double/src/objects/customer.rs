//! A customer, with the test card that its payments use.

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::form::Param;
use crate::objects::metadata::{Metadata, merge_metadata};
use crate::options::Card;

#[derive(Clone, Debug)]
pub(crate) struct Customer {
    pub id: String,
    pub email: Option<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub phone: Option<String>,
    pub metadata: Metadata,
    pub created: i64,
    /// In cents; a negative balance is a credit for the next invoices.
    pub balance: i64,
    pub test_clock: Option<String>,
    pub address: Option<Address>,
    pub card: Option<Card>,
    pub payment_method: Option<String>,
    /// Cards and bank accounts by id, the default one or not.
    pub attached: Vec<(String, Card)>,
    pub deleted: bool,
    pub currency: Option<String>,
    pub invoice_prefix: String,
    pub invoices_numbered: i64,
}

/// Only what tax needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub country: String,
    pub postal_code: Option<String>,
}

impl Customer {
    pub(crate) fn country(&self) -> Option<&str> {
        self.address.as_ref().map(|address| address.country.as_str())
    }

    pub(crate) fn apply(&mut self, params: &Param) -> Result<(), Failure> {
        for (name, field) in [
            ("email", &mut self.email),
            ("name", &mut self.name),
            ("description", &mut self.description),
            ("phone", &mut self.phone),
        ] {
            if let Some(text) = params.text(name) {
                *field = Some(text.to_owned()).filter(|text| !text.is_empty());
            }
        }
        if let Some(email) = self.email.as_deref().filter(|email| !email.contains('@')) {
            return Err(Failure::invalid(format!("Invalid email address: {email}"))
                .code("email_invalid")
                .param("email"));
        }
        self.balance = params.int("balance").unwrap_or(self.balance);
        let method = params
            .filled("invoice_settings.default_payment_method")
            .or_else(|| params.filled("payment_method"));
        if let Some(method) = method {
            self.set_card(Some(self.card_named(method)?), method.to_owned());
        }
        if let Some(country) = params.filled("address.country") {
            self.address = Some(Address {
                country: country.to_uppercase(),
                postal_code: params.filled("address.postal_code").map(str::to_owned),
            });
        }
        merge_metadata(&mut self.metadata, params);
        Ok(())
    }

    pub(crate) fn set_card(&mut self, card: Option<Card>, payment_method: String) {
        self.payment_method = card.map(|_| payment_method);
        self.card = card;
    }

    /// One of the customer's own cards and bank accounts.
    pub(crate) fn own(&self, payment_method: &str) -> Result<Card, Failure> {
        let attached = self.attached.iter().find(|(id, _)| id == payment_method);
        let default = self
            .card
            .filter(|_| self.payment_method.as_deref() == Some(payment_method));
        let card = attached.map(|(_, card)| *card).or(default);
        card.ok_or_else(|| Failure::no_such("PaymentMethod", payment_method).param("payment_method"))
    }

    /// The same, or one of Stripe's test cards.
    pub(crate) fn card_named(&self, payment_method: &str) -> Result<Card, Failure> {
        self.own(payment_method).or_else(|_| card_of(payment_method))
    }

    /// A card or bank account of the customer, as an object of its own.
    pub(crate) fn render_payment_method(&self, id: &str) -> Option<Value> {
        let card = self.own(id).ok()?;
        let (kind, none) = (card.kind(), Value::Null);
        let mut object = json!({
            "id": id, "object": "payment_method", "allow_redisplay": "unspecified", "created": self.created,
            "billing_details": { "address": none, "email": self.email, "name": self.name, "phone": self.phone, "tax_id": none },
            "customer": self.id, "livemode": false, "metadata": {}, "type": kind,
        });
        object[kind] = match card {
            Card::Ok | Card::Declines | Card::NeedsAction => {
                json!({ "brand": "visa", "checks": none, "country": "US", "display_brand": "visa",
                "exp_month": 12, "exp_year": 2034, "fingerprint": none, "funding": "credit", "generated_from": none,
                "last4": "4242", "networks": none, "regulated_status": none, "three_d_secure_usage": none, "wallet": none })
            }
            Card::BankDebit | Card::BankDebitFails => {
                json!({ "account_holder_type": "individual", "account_type": "checking",
                "bank_name": "STRIPE TEST BANK", "financial_connections_account": none, "fingerprint": none,
                "last4": "6789", "networks": none, "routing_number": "110000000", "status_details": none })
            }
        };
        Some(object)
    }

    /// `<prefix>-0001`, and so on.
    pub(crate) fn next_invoice_number(&mut self) -> String {
        self.invoices_numbered += 1;
        format!("{}-{:04}", self.invoice_prefix, self.invoices_numbered)
    }

    pub(crate) fn render(&self) -> Value {
        if self.deleted {
            return json!({ "id": self.id, "object": "customer", "deleted": true });
        }
        let address = self.address.as_ref().map(|address| {
            json!({ "city": null, "country": address.country, "line1": null, "line2": null,
                "postal_code": address.postal_code, "state": null })
        });
        json!({
            "id": self.id, "object": "customer", "address": address, "balance": self.balance, "created": self.created,
            "currency": self.currency, "default_source": null, "delinquent": false, "description": self.description,
            "email": self.email, "invoice_prefix": self.invoice_prefix,
            "invoice_settings": { "custom_fields": null, "default_payment_method": self.payment_method, "footer": null,
                "rendering_options": null },
            "livemode": false, "metadata": self.metadata, "name": self.name,
            "next_invoice_sequence": self.invoices_numbered + 1, "phone": self.phone, "preferred_locales": [],
            "shipping": null, "tax_exempt": "none", "test_clock": self.test_clock,
        })
    }
}

/// Stripe's names of test cards and bank accounts.
pub(crate) fn card_of(payment_method: &str) -> Result<Card, Failure> {
    match payment_method {
        declines if declines.starts_with("pm_card_chargeDeclined") || declines == "pm_card_chargeCustomerFail" => {
            Ok(Card::Declines)
        }
        asks if asks.starts_with("pm_card_authenticationRequired") || asks.starts_with("pm_card_threeDSecure") => {
            Ok(Card::NeedsAction)
        }
        works if works.starts_with("pm_card_") => Ok(Card::Ok),
        "pm_usBankAccount" | "pm_usBankAccount_success" => Ok(Card::BankDebit),
        bank if bank.starts_with("pm_usBankAccount_") => Ok(Card::BankDebitFails),
        other => Err(Failure::no_such("PaymentMethod", other).param("payment_method")),
    }
}
