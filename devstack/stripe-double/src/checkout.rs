//! Checkout sessions in subscription mode. The subscription exists only once the session is complete.

use serde_json::{Value, json};

use super::customers;
use super::failure::Failure;
use super::form::{Param, merge_metadata};
use super::items;
use super::options::Card;
use super::routes::Call;
use super::state::{Metadata, State};
use super::subscription::WithoutCard;
use super::subscriptions::{self, Behavior, New};
use super::table::{self, in_range, is};

const OPEN_FOR_S: i64 = 24 * 3_600;
const OPEN_AT_LEAST_S: i64 = 30 * 60;

#[derive(Clone, Debug)]
pub(super) struct Session {
    pub id: String,
    pub status: Status,
    pub customer: Option<String>,
    email: Option<String>,
    pub items: Vec<SessionItem>,
    pub success_url: String,
    pub cancel_url: Option<String>,
    created: i64,
    expires_at: i64,
    client_reference_id: Option<String>,
    metadata: Metadata,
    subscription_metadata: Metadata,
    description: Option<String>,
    trial_days: Option<i64>,
    trial_end: Option<i64>,
    without_card: WithoutCard,
    subscription: Option<String>,
    invoice: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct SessionItem {
    id: String,
    pub price: String,
    pub quantity: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Open,
    Complete,
    Expired,
}

pub(super) const UNDERSTOOD: &[&str] = &[
    "mode",
    "line_items",
    "success_url",
    "cancel_url",
    "customer",
    "customer_email",
    "client_reference_id",
    "metadata",
    "subscription_data",
    "expires_at",
    "ui_mode",
    "locale",
    "allow_promotion_codes",
    "billing_address_collection",
    "customer_update",
    "payment_method_collection",
];
const SUBSCRIPTION_UNDERSTOOD: [&str; 5] = [
    "metadata",
    "description",
    "trial_end",
    "trial_period_days",
    "trial_settings",
];

pub(super) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let required = |name: &str| {
        let missing = || {
            Failure::invalid(format!("Missing required param: {name}."))
                .code("parameter_missing")
                .param(name)
        };
        params.filled(name).map(str::to_owned).ok_or_else(missing)
    };
    if params.text("mode") != Some("subscription") {
        return Err(Failure::gap("a checkout session that is not for a subscription"));
    }
    if params.text("ui_mode").is_some_and(|mode| mode != "hosted_page") {
        return Err(Failure::gap("a ui_mode other than hosted_page"));
    }
    let success_url = required("success_url")?;
    let customer = params.filled("customer").map(str::to_owned);
    if let Some(customer) = &customer {
        state.living_customer(customer)?;
        if params.has("customer_email") {
            return Err(Failure::invalid(
                "You may only specify one of these parameters: customer, customer_email.",
            ));
        }
    }
    let expires_at = params.int("expires_at").unwrap_or(call.now + OPEN_FOR_S);
    if !(call.now + OPEN_AT_LEAST_S - 5..=call.now + OPEN_FOR_S).contains(&expires_at) {
        let message = "The `expires_at` timestamp must be from 30 minutes to 24 hours after the session is created.";
        return Err(Failure::invalid(message).param("expires_at"));
    }
    let data = params.get("subscription_data").cloned().unwrap_or_default();
    if let Some(other) = data
        .names()
        .into_iter()
        .find(|name| !SUBSCRIPTION_UNDERSTOOD.contains(name))
    {
        return Err(Failure::gap(&format!("subscription_data[{other}]")));
    }
    subscriptions::trial_end(&data, call.now)?;
    let (mut metadata, mut subscription_metadata) = (Metadata::new(), Metadata::new());
    merge_metadata(&mut metadata, params);
    merge_metadata(&mut subscription_metadata, &data);
    let items = line_items(state, params)?;
    let id = format!("cs_test_{}", state.ids.next("x").trim_start_matches("x_"));
    let session = Session {
        id: id.clone(),
        status: Status::Open,
        customer,
        email: params.filled("customer_email").map(str::to_owned),
        items,
        success_url,
        cancel_url: params.filled("cancel_url").map(str::to_owned),
        created: call.now,
        expires_at,
        client_reference_id: params.filled("client_reference_id").map(str::to_owned),
        metadata,
        subscription_metadata,
        description: data.filled("description").map(str::to_owned),
        trial_days: data.int("trial_period_days"),
        trial_end: data.int("trial_end"),
        without_card: subscriptions::without_card(&data).unwrap_or(WithoutCard::CreateInvoice),
        subscription: None,
        invoice: None,
    };
    state.sessions.insert(&id, session);
    retrieve(state, &Call { id: &id, ..*call })
}

pub(super) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    Ok(state.session(call.id)?.render(state))
}

pub(super) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let wanted = |session: &Session| {
        is(params, "customer", session.customer.as_deref().unwrap_or_default())
            && is(
                params,
                "subscription",
                session.subscription.as_deref().unwrap_or_default(),
            )
            && is(params, "status", session.status.name())
            && is(
                params,
                "customer_details.email",
                session.email.as_deref().unwrap_or_default(),
            )
            && in_range(params, "created", session.created)
    };
    let rows = state.sessions.iter().rev().filter(|(_, session)| wanted(session));
    let rows = rows
        .map(|(id, session)| (id.to_owned(), session.render(state)))
        .collect();
    table::page("/v1/checkout/sessions", params, rows)
}

pub(super) fn list_items(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let items = state.session(call.id)?.render_items(state).into_iter().rev();
    let rows = items
        .map(|item| (item["id"].as_str().unwrap_or_default().to_owned(), item))
        .collect();
    table::page(
        &format!("/v1/checkout/sessions/{}/line_items", call.id),
        call.params,
        rows,
    )
}

pub(super) fn expire(state: &mut State, call: &Call) -> Result<Value, Failure> {
    if state.session(call.id)?.status != Status::Open {
        let message = "Only Checkout Sessions with a status in [\"open\"] can be expired.";
        return Err(Failure::invalid(message));
    }
    expire_session(state, call.id);
    retrieve(state, call)
}

pub(super) fn expire_session(state: &mut State, id: &str) {
    state
        .sessions
        .get_mut(id)
        .into_iter()
        .for_each(|session| session.status = Status::Expired);
    let object = state
        .sessions
        .get(id)
        .map(|session| session.render(state))
        .unwrap_or_default();
    state.emit("checkout.session.expired", object, None);
}

/// The customer has paid with this card: the subscription begins. A declined card leaves the session open.
pub(super) fn complete(state: &mut State, id: &str, card: Card) -> Result<(), Failure> {
    let session = state.session(id)?.clone();
    if session.status != Status::Open {
        return Err(Failure::invalid(format!(
            "This Checkout Session is {}.",
            session.status.name()
        )));
    }
    if card == Card::Declines {
        return Err(Failure::declined());
    }
    let now = state.now();
    let customer = match session.customer.clone() {
        Some(customer) => state.living_customer(&customer)?.id.clone(),
        None => {
            let email = session
                .email
                .clone()
                .unwrap_or_else(|| "customer@example.com".to_owned());
            let params = Param::Map([("email".to_owned(), Param::Text(email))].into());
            let customer = customers::create(
                state,
                &Call {
                    id: "",
                    params: &params,
                    now,
                },
            )?;
            customer["id"].as_str().unwrap_or_default().to_owned()
        }
    };
    let payment_method = state.ids.next("pm");
    let mut payer = state.living_customer(&customer)?.clone();
    let before = payer.render();
    payer.set_card(Some(card), payment_method);
    state.replace_customer(payer, &before);
    let given: Vec<_> = session.items.iter().map(SessionItem::as_params).collect();
    let items = items::changed(state, &[], &given.iter().collect::<Vec<_>>(), now)?;
    let new = New {
        customer: customer.clone(),
        items,
        trial_end: session.trial_end.or(session.trial_days.map(|days| now + days * 86_400)),
        without_card: session.without_card,
        metadata: session.subscription_metadata,
        description: session.description,
        behavior: Behavior::Refuse,
    };
    let subscription = subscriptions::start(state, new)?;
    let invoice = state
        .subscriptions
        .get(&subscription)
        .and_then(|subscription| subscription.latest_invoice.clone());
    if let Some(session) = state.sessions.get_mut(id) {
        (session.status, session.customer) = (Status::Complete, Some(customer));
        (session.subscription, session.invoice) = (Some(subscription), invoice);
    }
    let object = state.session(id)?.render(state);
    state.emit("checkout.session.completed", object, None);
    Ok(())
}

impl Session {
    /// When it expires, while it is open.
    pub fn open_until(&self) -> Option<i64> {
        (self.status == Status::Open).then_some(self.expires_at)
    }

    /// What is to be paid now, and its currency.
    pub fn total(&self, state: &State) -> (i64, String) {
        let prices = self
            .items
            .iter()
            .filter_map(|item| Some((item, state.prices.get(&item.price)?)));
        let free = self.trial_days.is_some() || self.trial_end.is_some();
        let (mut total, mut currency) = (0, "usd".to_owned());
        for (item, price) in prices {
            currency.clone_from(&price.currency);
            if !price.is_metered() && !free {
                total += price
                    .costs(item.quantity.unwrap_or(1))
                    .iter()
                    .map(|cost| cost.amount)
                    .sum::<i64>();
            }
        }
        (total, currency)
    }

    pub fn email<'a>(&'a self, state: &'a State) -> Option<&'a str> {
        let customer = self.customer.as_deref().and_then(|id| state.customers.get(id));
        self.email.as_deref().or_else(|| customer?.email.as_deref())
    }

    pub fn render_items(&self, state: &State) -> Vec<Value> {
        let render = |item: &SessionItem| {
            let price = state.prices.get(&item.price)?;
            let product = state.products.get(&price.product)?;
            let amount = if price.is_metered() {
                0
            } else {
                price.costs(item.quantity.unwrap_or(1)).iter().map(|c| c.amount).sum()
            };
            Some(
                json!({ "id": item.id, "object": "item", "amount_discount": 0, "amount_subtotal": amount, "amount_tax": 0,
                "amount_total": amount, "currency": price.currency, "description": product.name, "metadata": {},
                "price": price.render(), "quantity": item.quantity }),
            )
        };
        self.items.iter().filter_map(render).collect()
    }

    pub fn render(&self, state: &State) -> Value {
        let (total, currency) = self.total(state);
        let customer = self.customer.as_deref().and_then(|id| state.customers.get(id));
        let payment_status = match self.status {
            Status::Complete if total == 0 => "no_payment_required",
            Status::Complete => "paid",
            _ => "unpaid",
        };
        let url = (self.status == Status::Open).then(|| format!("{}/c/pay/{}", state.url, self.id));
        json!({
            "id": self.id, "object": "checkout.session", "adaptive_pricing": null, "after_expiration": null,
            "allow_promotion_codes": null, "amount_subtotal": total, "amount_total": total,
            "automatic_tax": { "enabled": false, "liability": null, "provider": null, "status": null },
            "billing_address_collection": null, "cancel_url": self.cancel_url,
            "client_reference_id": self.client_reference_id, "client_secret": null, "collected_information": null,
            "consent": null, "consent_collection": null, "created": self.created, "currency": currency,
            "currency_conversion": null, "custom_fields": [], "custom_text": { "after_submit": null, "shipping_address": null,
                "submit": null, "terms_of_service_acceptance": null },
            "customer": self.customer, "customer_creation": if self.email.is_some() { json!("always") } else { Value::Null },
            "customer_details": self.email(state).map(|email| json!({ "address": null, "email": email,
                "name": customer.and_then(|customer| customer.name.as_deref()), "phone": null, "tax_exempt": "none",
                "tax_ids": null })),
            "customer_email": self.email, "discounts": [], "expires_at": self.expires_at, "invoice": self.invoice,
            "invoice_creation": null, "livemode": false, "locale": null, "metadata": self.metadata, "mode": "subscription",
            "origin_context": null, "payment_intent": null, "payment_link": null, "payment_method_collection": "always",
            "payment_method_configuration_details": null, "payment_method_options": null, "payment_method_types": ["card"],
            "payment_status": payment_status, "permissions": null, "phone_number_collection": { "enabled": false },
            "recovered_from": null, "saved_payment_method_options": null, "setup_intent": null,
            "shipping_address_collection": null, "shipping_cost": null, "shipping_options": [],
            "status": self.status.name(), "submit_type": null, "subscription": self.subscription,
            "success_url": self.success_url, "total_details": { "amount_discount": 0, "amount_shipping": 0, "amount_tax": 0 },
            "ui_mode": "hosted_page", "url": url, "wallet_options": null,
        })
    }

    /// Where the customer goes after paying.
    pub fn success_url(&self) -> String {
        self.success_url.replace("{CHECKOUT_SESSION_ID}", &self.id)
    }
}

impl SessionItem {
    fn as_params(&self) -> Param {
        let mut map = std::collections::BTreeMap::from([("price".to_owned(), Param::Text(self.price.clone()))]);
        if let Some(quantity) = self.quantity {
            map.insert("quantity".to_owned(), Param::Text(quantity.to_string()));
        }
        Param::Map(map)
    }
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Complete => "complete",
            Self::Expired => "expired",
        }
    }
}

impl State {
    pub fn session(&self, id: &str) -> Result<&Session, Failure> {
        self.sessions
            .get(id)
            .ok_or_else(|| Failure::not_found("checkout.session", id))
    }
}

fn line_items(state: &mut State, params: &Param) -> Result<Vec<SessionItem>, Failure> {
    let mut items = Vec::new();
    for (n, item) in params.list("line_items").into_iter().enumerate() {
        let here = |name: &str| format!("line_items[{n}][{name}]");
        if let Some(other) = item
            .names()
            .into_iter()
            .find(|name| !["price", "quantity"].contains(name))
        {
            return Err(Failure::gap(&here(other)));
        }
        let price = items::recurring_price(state, item.text("price").unwrap_or_default());
        let price = price.map_err(|failure| failure.param(here("price")))?;
        let (metered, quantity) = (
            state.prices.get(&price).is_some_and(|price| price.is_metered()),
            item.int("quantity"),
        );
        if metered && quantity.is_some() {
            let message = "Quantity should not be specified where usage_type is `metered`.";
            return Err(Failure::invalid(message).param(here("quantity")));
        }
        if !metered && quantity.is_none() {
            let message = "Quantity is required. Add `quantity` to `line_items`.";
            return Err(Failure::invalid(message).param(here("quantity")));
        }
        let id = state.ids.next("li");
        items.push(SessionItem { id, price, quantity });
    }
    if items.is_empty() {
        let message = "You must specify `line_items` in `subscription` mode.";
        return Err(Failure::invalid(message).code("parameter_missing").param("line_items"));
    }
    Ok(items)
}
