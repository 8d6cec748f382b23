//! The page of `hosted_invoice_url`: an invoice, and a button to pay it.

use axum::extract::{Path, State as Shared};
use axum::response::{IntoResponse, Response};

use crate::billing::payment;
use crate::calendar;
use crate::money::show as show_money;
use crate::objects::invoice::Status;
use crate::pages::html::{self, Width, escape};
use crate::pages::reply::{DoubleState, gone, problem, see};

pub(crate) async fn show(Shared(double): DoubleState, Path(id): Path<String>) -> Response {
    let state = double.state_now();
    let Some(invoice) = state.invoices.get(&id) else {
        return gone("This invoice does not exist.");
    };
    let mut rows = String::new();
    for line in invoice.all_lines(&state) {
        let period = format!("{} – {}", calendar::show(line.period.0), calendar::show(line.period.1));
        let (what, amount) = (escape(&line.description), show_money(line.amount, &invoice.currency));
        rows += &format!(
            "<tr><td>{what}<br><span class=\"dim\">{period}</span></td><td class=\"money\">{amount}</td></tr>"
        );
    }
    for (label, amount) in [("Total", invoice.total(&state)), ("Due", invoice.amount_due(&state))] {
        let amount = show_money(amount, &invoice.currency);
        rows += &format!("<tr class=\"total\"><td>{label}</td><td class=\"money\">{amount}</td></tr>");
    }
    let pay = match invoice.status {
        Status::Open => html::wide_button(&format!("/i/{id}/pay"), "Pay", "go"),
        _ => String::new(),
    };
    let title = format!("Invoice {}", invoice.number.as_deref().unwrap_or("(draft)"));
    let status = invoice.status.name();
    let body = format!(
        "<p class=\"dim\">{} · {status}</p><section><table>{rows}</table></section>{pay}",
        invoice.show_period()
    );
    html::page(&title, Width::Narrow, &body).into_response()
}

/// Pays with a working card, whatever card the customer has.
pub(crate) async fn pay(Shared(double): DoubleState, Path(id): Path<String>) -> Response {
    let mut state = double.state_now();
    match state.invoice(&id).map(|invoice| invoice.status) {
        Ok(Status::Open) => payment::confirmed(&mut state, &id),
        Ok(_) => {}
        Err(failure) => return problem(&failure),
    }
    drop(state);
    double.wake.notify_one();
    see(&format!("/i/{id}"))
}
