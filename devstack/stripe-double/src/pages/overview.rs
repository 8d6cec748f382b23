//! The dashboard of the double: its clock, the subscriptions, the latest events and the violations.

use axum::extract::State as Shared;
use axum::response::Html;

use crate::calendar;
use crate::pages::html::{self, Width, escape};
use crate::pages::reply::DoubleState;
use crate::state::State;

const EVENTS_SHOWN: usize = 40;

const CUSTOMERS_SHOWN: usize = 200;

pub(crate) async fn show(Shared(double): DoubleState) -> Html<String> {
    let state = double.state_now();
    let now = time::OffsetDateTime::from_unix_timestamp(state.now())
        .map(|now| now.to_string())
        .unwrap_or_default();
    let body = format!(
        "<p class=\"dim\">The clock shows {}</p>{}{}{}{}",
        escape(&now),
        violations(&state),
        subscriptions(&state),
        checkouts(&state),
        events(&state),
    );
    html::page("Fake Stripe", Width::Wide, &body)
}

fn violations(state: &State) -> String {
    let violations = state.violations();
    let list: String = violations
        .iter()
        .map(|what| format!("<li>{}</li>", escape(what)))
        .collect();
    match list.as_str() {
        "" => "<section><h2>Violations</h2><p>None: every call was valid.</p></section>".to_owned(),
        list => format!("<section><h2 class=\"bad\">Violations</h2><ul>{list}</ul></section>"),
    }
}

fn subscriptions(state: &State) -> String {
    let mut rows = String::new();
    for (id, customer) in state.customers.iter().rev().take(CUSTOMERS_SHOWN) {
        let theirs = state
            .subscriptions
            .iter()
            .filter(|(_, subscription)| subscription.customer == id);
        let theirs = theirs.map(|(id, s)| format!("<code>{id}</code> {}", s.status.name().replace('_', " ")));
        let theirs: Vec<_> = theirs.collect();
        let invoices = state.invoices.iter().filter(|(_, invoice)| invoice.customer == id);
        let invoices: Vec<_> = invoices
            .map(|(id, invoice)| {
                html::link(
                    &format!("/i/{id}"),
                    &format!(
                        "{} {}",
                        invoice.number.as_deref().unwrap_or("draft"),
                        invoice.status.name()
                    ),
                )
            })
            .collect();
        let name = customer
            .email
            .as_deref()
            .or(customer.name.as_deref())
            .unwrap_or("(no name)");
        rows += &html::row(&[
            format!("{}<br><code>{id}</code>", escape(name)),
            theirs.join("<br>"),
            invoices.join("<br>"),
        ]);
    }
    section("Customers", &["Customer", "Subscriptions", "Invoices"], &rows)
}

fn checkouts(state: &State) -> String {
    let open = state
        .sessions
        .iter()
        .rev()
        .filter(|(_, session)| session.open_until().is_some())
        .take(EVENTS_SHOWN);
    let rows: String = open
        .map(|(id, session)| {
            let email = session.email(state).unwrap_or("(no email yet)");
            html::row(&[html::link(&format!("/c/pay/{id}"), id), escape(email)])
        })
        .collect();
    section("Open checkouts", &["Session", "Customer"], &rows)
}

fn events(state: &State) -> String {
    let rows: String = state
        .events
        .iter()
        .rev()
        .take(EVENTS_SHOWN)
        .map(|(id, event)| {
            let pending = match event.pending.len() {
                0 => String::new(),
                pending => format!("{pending} endpoint(s) to go"),
            };
            html::row(&[
                format!("<code>{id}</code>"),
                escape(&event.kind),
                calendar::show(event.created),
                pending,
            ])
        })
        .collect();
    section("Events", &["Id", "Type", "Date", "Delivery"], &rows)
}

fn section(title: &str, columns: &[&str], rows: &str) -> String {
    if rows.is_empty() {
        return format!("<section><h2>{title}</h2><p class=\"dim\">None yet.</p></section>");
    }
    let head: String = columns
        .iter()
        .map(|column| format!("<th scope=\"col\">{column}</th>"))
        .collect();
    format!("<section><h2>{title}</h2><table><tr>{head}</tr>{rows}</table></section>")
}
