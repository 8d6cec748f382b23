//! The billing portal: shows a customer's subscriptions, cancels them at the end of the period, undoes that, and pays open invoices.

use axum::extract::{Path, State as Shared};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::api::call::Call;
use crate::api::subscriptions;
use crate::billing::payment::{self, Try};
use crate::calendar;
use crate::form::Param;
use crate::money::show as show_money;
use crate::objects::invoice;
use crate::objects::subscription::Subscription;
use crate::pages::html::{self, Width, escape};
use crate::pages::reply::{DoubleState, gone, problem, see};
use crate::state::State;

pub(crate) async fn show(Shared(double): DoubleState, Path(id): Path<String>) -> Response {
    let state = double.state_now();
    let Some(session) = state.portal_sessions.get(&id) else {
        return gone("This portal page does not exist.");
    };
    let mut body = String::new();
    let theirs = state
        .subscriptions
        .iter()
        .rev()
        .filter(|(_, subscription)| subscription.customer == session.customer);
    for (_, subscription) in theirs.take(20) {
        body += &render_subscription(&state, &id, session.lets_cancel, subscription);
    }
    if body.is_empty() {
        body += "<section><p>There is no subscription.</p></section>";
    }
    body += &render_invoices(&state, &id, &session.customer);
    if let Some(url) = &session.return_url {
        body += &format!("<p>{}</p>", html::link(url, "Return"));
    }
    html::page("Billing", Width::Wide, &body).into_response()
}

/// `cancel`, `keep` (which undoes a cancellation) or `pay`.
pub(crate) async fn choose(
    Shared(double): DoubleState,
    Path((session, choice, id)): Path<(String, String, String)>,
) -> Response {
    let mut state = double.state_now();
    let Some(customer) = state
        .portal_sessions
        .get(&session)
        .map(|session| session.customer.clone())
    else {
        return gone("This portal page does not exist.");
    };
    let owner = state.subscriptions.get(&id).map(|subscription| &subscription.customer);
    if owner.or(state.invoices.get(&id).map(|invoice| &invoice.customer)) != Some(&customer) {
        return gone("This belongs to another customer.");
    }
    let now = state.now();
    let done = match choice.as_str() {
        "cancel" | "keep" => {
            // In flexible billing mode the portal sets `cancel_at` and leaves `cancel_at_period_end` false.
            let at = if choice == "cancel" { "min_period_end" } else { "" };
            let params = Param::Map([("cancel_at".to_owned(), Param::Text(at.to_owned()))].into());
            subscriptions::update(
                &mut state,
                &Call {
                    id: &id,
                    params: &params,
                    now,
                },
            )
            .map(drop)
        }
        "pay" => payment::settle(&mut state, &id, Some(Try::Asked)),
        _ => return gone("Unknown action."),
    };
    drop(state);
    double.wake.notify_one();
    match done {
        Ok(()) => see(&format!("/p/session/{session}")),
        Err(failure) => problem(&failure),
    }
}

fn render_subscription(state: &State, session: &str, lets_cancel: bool, subscription: &Subscription) -> String {
    let mut rows = String::new();
    for item in &subscription.items {
        let Some(price) = state.prices.get(&item.price) else {
            continue;
        };
        let name = state
            .products
            .get(&price.product)
            .map_or("", |product| product.name.as_str());
        let amount = match price.is_metered() {
            false => {
                let costs = price.costs(&subscription.currency, item.quantity.unwrap_or(1));
                show_money(costs.iter().map(|cost| cost.amount).sum(), &subscription.currency)
            }
            true => "by usage".to_owned(),
        };
        let interval = price
            .recurring
            .as_ref()
            .map_or("month", |recurring| recurring.interval.name());
        let amount = format!("{amount} <span class=\"dim\">a {interval}</span>");
        rows += &format!("<tr><td>{}</td><td class=\"money\">{amount}</td></tr>", escape(name));
    }
    let (start, end) = subscription.period();
    let mut notes = format!(
        "<p class=\"dim\">{} – {}</p>",
        calendar::show(start),
        calendar::show(end)
    );
    let mut choices = String::new();
    if subscription.status.renews() {
        let action = |choice: &str| format!("/p/session/{session}/{choice}/{}", subscription.id);
        match subscription.cancel_at {
            Some(at) => {
                notes += &format!("<p class=\"bad\">Ends on {}</p>", calendar::show(at));
                choices += &html::button(&action("keep"), "Keep the subscription", "go");
            }
            None if lets_cancel => choices += &html::button(&action("cancel"), "Cancel at the end of the period", ""),
            None => {}
        }
    }
    let status = subscription.status.name().replace('_', " ");
    format!("<section><h2>Subscription: {status}</h2>{notes}<table>{rows}</table>{choices}</section>")
}

fn render_invoices(state: &State, session: &str, customer: &str) -> String {
    let theirs = state
        .invoices
        .iter()
        .rev()
        .filter(|(_, invoice)| invoice.customer == customer);
    let mut rows = String::new();
    for (id, invoice) in theirs.take(50) {
        let object: Value = invoice.render(state);
        let amount = show_money(object["total"].as_i64().unwrap_or(0), &invoice.currency);
        let number = invoice.number.as_deref().unwrap_or("draft");
        let pay = match invoice.status {
            invoice::Status::Open => html::button(&format!("/p/session/{session}/pay/{id}"), "Pay", "go"),
            _ => invoice.status.name().to_owned(),
        };
        rows += &html::row(&[
            html::link(&format!("/i/{id}"), number),
            calendar::show(invoice.created),
            amount,
            pay,
        ]);
    }
    match rows.as_str() {
        "" => String::new(),
        rows => format!(
            "<section><h2>Invoices</h2><table><tr><th scope=\"col\">Number</th><th scope=\"col\">Date</th>\
             <th scope=\"col\">Amount</th><th scope=\"col\">Status</th></tr>{rows}</table></section>"
        ),
    }
}
