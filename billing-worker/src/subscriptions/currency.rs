//! The currency that an account pays in. It stays what it was for the first plan that was paid: late usage and corrections belong to
//! earlier invoices, and Stripe mixes no currencies of one customer.

use schema::{AccountId, Currency, PlanTerms};
use sqlx::PgExecutor;
use stripe_core::customer::RetrieveCustomer;

use super::{billing::Billing, listing, running::Running};
use crate::{
    error::Error,
    stripe::object::{Customer, Subscription},
};

/// The currency of the account's subscription, or of the last one that ended. `None`: the account had none, or its customer in Stripe
/// was deleted since.
pub async fn bound(db: impl PgExecutor<'_>, account: AccountId) -> Result<Option<String>, Error> {
    let bound = sqlx::query_scalar!(
        "select s.currency from subscriptions s join stripe_customers c on c.account_id = s.account_id
         where s.account_id = $1 and c.deleted_at is null and exists (
             select from billing_periods p where p.account_id = s.account_id and p.customer_id = c.customer_id
                 and p.stripe_subscription_id = s.stripe_subscription_id)
         order by s.is_current desc, s.created_at desc limit 1",
        account.0
    );
    Ok(bound.fetch_optional(db).await?)
}

/// The same; the currency of an account that never paid is the one of a plan that nobody chose another for.
pub async fn of_account(db: impl PgExecutor<'_>, account: AccountId) -> Result<String, Error> {
    let bound = bound(db, account).await?;
    Ok(bound.unwrap_or_else(|| Currency::USD.to_string()))
}

/// The currency of a new subscription. Fails if the plan is not sold in it, or if the account pays in another one.
pub(super) async fn of_new(
    billing: &Billing,
    (account, customer): (AccountId, &str),
    (plan, terms): (&str, &PlanTerms),
    asked: Option<Currency>,
) -> Result<Currency, Error> {
    let bound = bound(&billing.admin.db, account).await?;
    let usual = match (&bound, asked) {
        (None, None) => usual_in_stripe(billing, customer).await?,
        _ => None,
    };
    choose((plan, terms), bound, asked, usual)
}

/// Refuses a plan that is not sold in the currency of the subscription.
pub(super) fn refuse_other(running: &Running, plan: &str, terms: &PlanTerms) -> Result<(), Error> {
    match is_sold_in(terms, running.currency()) {
        true => Ok(()),
        false => Err(lacks(plan, terms, running.currency().to_owned())),
    }
}

/// What a customer whom this service has not billed yet pays in for other things. It binds nobody: if something in this currency is
/// open, Stripe refuses another one.
async fn usual_in_stripe(billing: &Billing, customer: &str) -> Result<Option<String>, Error> {
    let stripe = billing.stripe()?;
    let found: Customer = stripe.read(&RetrieveCustomer::new(customer)).await?;
    let Some(currency) = found.currency else {
        return Ok(None);
    };
    let all = listing::all(stripe, customer).await?;
    Ok(Some(currency).filter(|currency| is_usual(currency, &all)))
}

/// Whether the currency that Stripe says is one that the customer pays in. That of a subscription that was given up unpaid stays on
/// the customer.
fn is_usual(currency: &str, all: &[Subscription]) -> bool {
    let mut same = all
        .iter()
        .filter(|subscription| subscription.currency == currency)
        .peekable();
    same.peek().is_none() || same.any(listing::is_live)
}

/// `usual`: taken if the plan is sold in it, nothing else is asked for, and nothing binds.
fn choose(
    (plan, terms): (&str, &PlanTerms),
    bound: Option<String>,
    asked: Option<Currency>,
    usual: Option<String>,
) -> Result<Currency, Error> {
    let Some(bound) = bound else {
        let usual = usual.filter(|usual| is_sold_in(terms, usual));
        let usual = usual.and_then(|usual| usual.parse().ok());
        let currency = asked.or(usual).unwrap_or(Currency::USD);
        return match is_sold_in(terms, currency.as_str()) {
            true => Ok(currency),
            false => Err(Error::CurrencyNotOffered {
                plan: plan.to_owned(),
                currency,
                offered: offered(terms),
            }),
        };
    };
    if asked.is_some_and(|asked| asked.as_str() != bound) {
        return Err(Error::CurrencyBound {
            remedy: format!("leave out `currency`, or send \"{bound}\""),
            bound,
        });
    }
    match bound.parse().ok().filter(|_| is_sold_in(terms, &bound)) {
        Some(currency) => Ok(currency),
        None => Err(lacks(plan, terms, bound)),
    }
}

fn is_sold_in(terms: &PlanTerms, currency: &str) -> bool {
    terms.currencies().any(|sold| sold.as_str() == currency)
}

fn lacks(plan: &str, terms: &PlanTerms, bound: String) -> Error {
    let remedy = format!(
        "the plan `{plan}` is sold only in {}: choose a plan that is sold in {bound} (GET /billing/plans), or ask the operator",
        offered(terms)
    );
    Error::CurrencyBound { bound, remedy }
}

/// `usd, eur`
fn offered(terms: &PlanTerms) -> String {
    let currencies: Vec<_> = terms.currencies().map(|currency| currency.to_string()).collect();
    currencies.join(", ")
}

#[cfg(test)]
mod tests {
    use schema::Catalogue;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_account_pays_in_what_it_asks_for_first_and_then_always_in_that() {
        let text = include_str!("../../../schema/plans.toml").replacen(
            "{ month = 2900 }",
            "{ month = { usd = 2900, eur = 2700 } }",
            1,
        );
        let catalogue = Catalogue::parse(&text).unwrap();
        let choose = |plan: &str, bound: Option<&str>, asked: Option<&str>| {
            let terms = PlanTerms::of(&catalogue, catalogue.plan(plan).unwrap());
            let asked = asked.map(|asked| asked.parse().unwrap());
            choose((plan, &terms), bound.map(str::to_owned), asked, None)
        };
        for (bound, asked, expected) in [
            (None, None, "usd"),
            (None, Some("eur"), "eur"),
            (Some("eur"), None, "eur"),
            (Some("eur"), Some("eur"), "eur"),
            (Some("usd"), None, "usd"),
        ] {
            assert_eq!(choose("pro", bound, asked).unwrap().as_str(), expected);
        }
        for (plan, bound, asked, says) in [
            ("pro", None, Some("gbp"), "usd, eur"),
            ("enterprise", None, Some("eur"), "sold in usd"),
            ("pro", Some("eur"), Some("usd"), "send \"eur\""),
            ("pro", Some("jpy"), None, "sold in jpy (GET"),
            ("enterprise", Some("eur"), None, "only in usd"),
        ] {
            let refused = choose(plan, bound, asked).unwrap_err().to_string();
            assert!(refused.contains(says), "{refused}");
        }
    }

    #[test]
    fn a_customer_who_pays_in_euros_for_something_else_is_offered_euros_where_the_plan_has_them() {
        let text = include_str!("../../../schema/plans.toml").replacen(
            "{ month = 2900 }",
            "{ month = { usd = 2900, eur = 2700 } }",
            1,
        );
        let catalogue = Catalogue::parse(&text).unwrap();
        for (plan, usual, expected) in [
            ("pro", "eur", "eur"),
            ("enterprise", "eur", "usd"),
            ("pro", "jpy", "usd"),
        ] {
            let terms = PlanTerms::of(&catalogue, catalogue.plan(plan).unwrap());
            let currency = choose((plan, &terms), None, None, Some(usual.to_owned())).unwrap();
            assert_eq!(currency.as_str(), expected, "{plan} {usual}");
        }
    }

    #[test]
    fn a_subscription_that_was_given_up_says_nothing_about_the_currency() {
        let of = |status: &str, currency: &str| -> Subscription {
            let subscription = json!({ "id": "sub_1", "customer": "cus_1", "status": status, "livemode": false, "created": 0,
                "currency": currency, "billing_cycle_anchor": 0, "items": { "data": [] } });
            serde_json::from_value(subscription).unwrap()
        };
        for (all, expected) in [
            (vec![], true),
            (vec![of("canceled", "usd")], true),
            (vec![of("canceled", "eur")], false),
            (vec![of("incomplete", "eur")], false),
            (vec![of("canceled", "eur"), of("active", "eur")], true),
        ] {
            assert_eq!(is_usual("eur", &all), expected, "{all:?}");
        }
    }
}
