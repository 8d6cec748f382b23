//! The customer of a rehearsal, and the test cards that pay. (<https://docs.stripe.com/testing>)

use anyhow::{Context, Result};
use schema::AccountId;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::test_clock::TestClock;
use crate::{
    accounts::customers,
    stripe::{Raw, Stripe, Write, names},
    subscriptions::billing::Billing,
};

#[derive(Clone, Copy, Debug)]
pub(super) enum TestCard {
    Works,
    /// It can be attached, and every charge is declined.
    Declines,
}

pub(super) struct Customer {
    pub id: String,
    stripe: Stripe,
}

#[derive(Deserialize)]
struct Made {
    id: String,
}

impl Customer {
    /// Makes a customer in the time of the clock, and links it to the account as one that a person made in Stripe. A running service
    /// on the same sandbox sees that nobody has to link it.
    pub(super) async fn create(billing: &Billing, account: AccountId, clock: &TestClock, email: &str) -> Result<Self> {
        let stripe = billing.stripe()?.clone();
        let (ignore, is) = names::META_IGNORE;
        let form = json!({
            "name": "Rehearsal", "email": email, "test_clock": clock.id,
            "metadata": { names::META_ACCOUNT: account.to_string(), ignore: is },
        });
        let made: Made =
            (stripe.write(&Raw::post("/customers", form), Write::Keyed(&key())).await).context("making a customer")?;
        let adopted = customers::adopt(billing, &made.id).await?;
        adopted.context("the customer was not linked to its account")?;
        Ok(Self { id: made.id, stripe })
    }

    /// From now on, this card pays. A subscription may have got the earlier one as its own, so it gets this one, too.
    pub(super) async fn pay_with(&self, card: TestCard, subscription: Option<&str>) -> Result<()> {
        let card = match card {
            TestCard::Works => "pm_card_visa",
            TestCard::Declines => "pm_card_chargeCustomerFail",
        };
        let attach = Raw::post(
            format!("/payment_methods/{card}/attach"),
            json!({ "customer": self.id }),
        );
        let attached: Made =
            (self.stripe.write(&attach, Write::Keyed(&key())).await).context("attaching a test card")?;
        let settings = json!({ "invoice_settings": { "default_payment_method": attached.id } });
        self.set(format!("/customers/{}", self.id), settings).await?;
        if let Some(subscription) = subscription {
            let settings = json!({ "default_payment_method": attached.id });
            self.set(format!("/subscriptions/{subscription}"), settings).await?;
        }
        Ok(())
    }

    /// Pays an open invoice with the card of the customer.
    pub(super) async fn pay(&self, invoice: &str) -> Result<()> {
        let pay = Raw::post(format!("/invoices/{invoice}/pay"), json!({}));
        let paid: Result<Value, _> = self.stripe.write(&pay, Write::Keyed(&key())).await;
        paid.map(drop).with_context(|| format!("paying the invoice {invoice}"))
    }

    async fn set(&self, path: String, form: Value) -> Result<()> {
        let set: Result<Value, _> = self.stripe.write(&Raw::post(path, form), Write::Settable).await;
        set.map(drop).context("choosing the card that pays")
    }
}

fn key() -> String {
    format!("rehearse-{}", Uuid::now_v7())
}
