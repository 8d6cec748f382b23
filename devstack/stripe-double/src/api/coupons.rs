//! The API of coupons and promotion codes.

use serde_json::{Value, json};

use crate::api::call::Call;
use crate::failure::Failure;
use crate::list::{self, in_range, is};
use crate::money::Decimal;
use crate::objects::coupon::{Coupon, Duration, Off, PromotionCode};
use crate::objects::event;
use crate::objects::metadata::{Metadata, merge_metadata};
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &[
    "id",
    "name",
    "percent_off",
    "amount_off",
    "currency",
    "duration",
    "duration_in_months",
    "max_redemptions",
    "redeem_by",
    "metadata",
];

pub(crate) const UPDATE_UNDERSTOOD: &[&str] = &["name", "metadata"];

pub(crate) const CODE_UNDERSTOOD: &[&str] = &[
    "promotion",
    "code",
    "customer",
    "active",
    "expires_at",
    "max_redemptions",
    "metadata",
];

pub(crate) const CODE_UPDATE_UNDERSTOOD: &[&str] = &["active", "metadata"];

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let off = match (params.text("percent_off"), params.int("amount_off")) {
        (Some(percent), None) => {
            let hundredths = Decimal::parse(percent).and_then(|percent| i32::try_from(percent.times(100)).ok());
            let hundredths = hundredths.filter(|hundredths| (1..=10_000).contains(hundredths));
            Off::Percent(hundredths.ok_or_else(|| Failure::invalid("Invalid percent_off").param("percent_off"))?)
        }
        (None, Some(cents)) => {
            let missing = || Failure::invalid("You must pass currency when passing amount_off").param("currency");
            let currency = params.filled("currency").ok_or_else(missing)?.to_lowercase();
            Off::Amount(cents.max(1), currency)
        }
        _ => return Err(Failure::invalid("Must provide percent_off or amount_off")),
    };
    let duration = match params.text("duration") {
        Some("forever") => Duration::Forever,
        Some("repeating") => {
            let missing =
                || Failure::invalid("Missing required param: duration_in_months.").param("duration_in_months");
            Duration::Months(
                params
                    .int("duration_in_months")
                    .filter(|months| *months > 0)
                    .ok_or_else(missing)?,
            )
        }
        _ => Duration::Once,
    };
    let id = params.filled("id").map(str::to_owned);
    let id = id.unwrap_or_else(|| state.ids.text(8));
    if state.coupons.get(&id).is_some_and(|coupon| !coupon.deleted) {
        return Err(Failure::invalid("Coupon already exists.")
            .code("resource_already_exists")
            .param("id"));
    }
    let mut metadata = Metadata::new();
    merge_metadata(&mut metadata, params);
    let coupon = Coupon {
        id: id.clone(),
        name: params.filled("name").map(str::to_owned),
        off,
        duration,
        max_redemptions: params.int("max_redemptions"),
        redeem_by: params.int("redeem_by"),
        redeemed: 0,
        metadata,
        created: call.now,
        deleted: false,
    };
    let object = coupon.render(call.now);
    state.coupons.insert(&id, coupon);
    state.emit("coupon.created", object.clone(), None);
    Ok(object)
}

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let coupon = state.coupons.get(call.id).filter(|coupon| !coupon.deleted);
    coupon
        .map(|coupon| coupon.render(call.now))
        .ok_or_else(|| Failure::not_found("coupon", call.id))
}

pub(crate) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let before = retrieve(state, call)?;
    if let Some(coupon) = state.coupons.get_mut(call.id) {
        coupon.name = call.params.filled("name").map(str::to_owned).or(coupon.name.take());
        merge_metadata(&mut coupon.metadata, call.params);
    }
    let after = retrieve(state, call)?;
    if let Some(previous) = event::changed(&before, &after) {
        state.emit("coupon.updated", after.clone(), Some(previous));
    }
    Ok(after)
}

/// Discounts that customers already have stay.
pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let before = retrieve(state, call)?;
    if let Some(coupon) = state.coupons.get_mut(call.id) {
        coupon.deleted = true;
    }
    state.emit("coupon.deleted", before, None);
    Ok(json!({ "id": call.id, "object": "coupon", "deleted": true }))
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let wanted = |coupon: &Coupon| !coupon.deleted && in_range(call.params, "created", coupon.created);
    let rows = state.coupons.iter().rev().filter(|(_, coupon)| wanted(coupon));
    let rows = rows
        .map(|(id, coupon)| (id.to_owned(), coupon.render(call.now)))
        .collect();
    list::page("/v1/coupons", call.params, rows)
}

pub(crate) fn create_code(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let params = call.params;
    let coupon = params.filled("promotion.coupon").unwrap_or_default().to_owned();
    let known = state.coupons.get(&coupon).filter(|coupon| !coupon.deleted);
    known.ok_or_else(|| Failure::no_such("coupon", &coupon).param("promotion[coupon]"))?;
    let code = params.filled("code").map(str::to_owned);
    let code = code.unwrap_or_else(|| state.ids.text(8).to_uppercase());
    let is_taken = |other: &PromotionCode| other.active && other.code.eq_ignore_ascii_case(&code);
    if state.promotion_codes.iter().any(|(_, other)| is_taken(other)) {
        let message = format!("An active promotion code with `code: {code}` already exists.");
        return Err(Failure::invalid(message).param("code"));
    }
    let mut metadata = Metadata::new();
    merge_metadata(&mut metadata, params);
    let id = state.ids.next("promo");
    let code = PromotionCode {
        id: id.clone(),
        code,
        coupon,
        active: params.flag("active").unwrap_or(true),
        customer: params.filled("customer").map(str::to_owned),
        expires_at: params.int("expires_at"),
        max_redemptions: params.int("max_redemptions"),
        redeemed: 0,
        metadata,
        created: call.now,
    };
    let object = code.render();
    state.promotion_codes.insert(&id, code);
    state.emit("promotion_code.created", object.clone(), None);
    Ok(object)
}

pub(crate) fn retrieve_code(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let code = state.promotion_codes.get(call.id);
    code.map(PromotionCode::render)
        .ok_or_else(|| Failure::not_found("promotion code", call.id))
}

pub(crate) fn update_code(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let before = retrieve_code(state, call)?;
    if let Some(code) = state.promotion_codes.get_mut(call.id) {
        code.active = call.params.flag("active").unwrap_or(code.active);
        merge_metadata(&mut code.metadata, call.params);
    }
    let after = retrieve_code(state, call)?;
    if let Some(previous) = event::changed(&before, &after) {
        state.emit("promotion_code.updated", after.clone(), Some(previous));
    }
    Ok(after)
}

pub(crate) fn list_codes(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let wanted = |code: &PromotionCode| {
        is(call.params, "code", &code.code)
            && is(call.params, "coupon", &code.coupon)
            && is(call.params, "active", &code.active.to_string())
            && is(call.params, "customer", code.customer.as_deref().unwrap_or_default())
            && in_range(call.params, "created", code.created)
    };
    let rows = state.promotion_codes.iter().rev().filter(|(_, code)| wanted(code));
    let rows = rows.map(|(id, code)| (id.to_owned(), code.render())).collect();
    list::page("/v1/promotion_codes", call.params, rows)
}
