//! The checkout page.

use axum::extract::{Path, State as Shared};
use axum::response::{IntoResponse, Response};

use crate::api::checkout;
use crate::money::show;
use crate::objects::session::{self, Status};
use crate::options::Card;
use crate::pages::html::{self, Width, escape};
use crate::pages::reply::{DoubleState, gone, see};
use crate::server::double::Double;

pub(crate) async fn checkout_page(Shared(double): DoubleState, Path(id): Path<String>) -> Response {
    render_checkout(&double, &id, "")
}

/// The page. `problem` says why it is shown again.
fn render_checkout(double: &Double, id: &str, problem: &str) -> Response {
    let state = double.state_now();
    let Ok(session) = state.session(id) else {
        return gone("This checkout page does not exist.");
    };
    if session.status != Status::Open {
        return gone(&format!("This checkout session is {}.", session.status.name()));
    }
    let mut rows = String::new();
    for item in session.render_items(&state) {
        let name = escape(item["description"].as_str().unwrap_or_default());
        let recurring = &item["price"]["recurring"];
        let every = recurring["interval"].as_str().unwrap_or_default();
        let (count, metered) = (item["quantity"].as_i64(), recurring["usage_type"] == "metered");
        let amount = match metered {
            true => "<span class=\"dim\">by usage</span>".to_owned(),
            false => show(
                item["amount_total"].as_i64().unwrap_or(0),
                item["currency"].as_str().unwrap_or("usd"),
            ),
        };
        let count = count
            .filter(|count| *count != 1)
            .map(|count| format!(" × {count}"))
            .unwrap_or_default();
        rows += &format!(
            "<tr><td>{name}{count}<br><span class=\"dim\">every {every}</span></td><td class=\"money\">{amount}</td></tr>"
        );
    }
    let (total, currency) = (session.total(&state), &session.currency);
    rows += &format!(
        "<tr class=\"total\"><td>Due today</td><td class=\"money\">{}</td></tr>",
        show(total, currency)
    );
    let email = session
        .email(&state)
        .map(|email| format!("<p class=\"dim\">for {}</p>", escape(email)))
        .unwrap_or_default();
    let problem = match problem {
        "" => String::new(),
        problem => format!("<p class=\"bad\" role=\"alert\">{}</p>", escape(problem)),
    };
    let action = |choice: &str| format!("/c/pay/{id}/{choice}");
    let pay = match total {
        0 => "Subscribe".to_owned(),
        total => format!("Pay {}", show(total, currency)),
    };
    let cancel = session
        .cancel_url
        .as_ref()
        .map(|_| html::wide_button(&action("cancel"), "Cancel", ""))
        .unwrap_or_default();
    let body = format!(
        "{email}<section><table>{rows}</table></section>{problem}{}{}{cancel}",
        html::wide_button(&action("pay"), &pay, "go"),
        html::wide_button(&action("decline"), "Pay with a failing card", ""),
    );
    html::page("Subscribe", Width::Narrow, &body).into_response()
}

pub(crate) async fn checkout_choice(
    Shared(double): DoubleState,
    Path((id, choice)): Path<(String, String)>,
) -> Response {
    let card = match choice.as_str() {
        "pay" => Card::Ok,
        "decline" => Card::Declines,
        _ => {
            let state = double.state_now();
            let url = state.session(&id).ok().and_then(|session| session.cancel_url.clone());
            return url.map_or_else(
                || gone("This checkout session has no URL to return to."),
                |url| see(&url),
            );
        }
    };
    let completed = checkout::complete(&mut double.state_now(), &id, card, None);
    double.wake.notify_one();
    match completed {
        Ok(()) => {
            let url = double
                .state()
                .session(&id)
                .map(session::Session::success_url)
                .unwrap_or_default();
            see(&url)
        }
        Err(failure) => render_checkout(&double, &id, failure.message()),
    }
}
