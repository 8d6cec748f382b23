//! The API of credit notes.

use serde_json::Value;

use crate::api::call::Call;
use crate::billing::credit;
use crate::failure::Failure;
use crate::list::{self, in_range, is};
use crate::objects::credit_note::CreditNote;
use crate::objects::event;
use crate::objects::metadata::merge_metadata;
use crate::state::State;

pub(crate) const UNDERSTOOD: &[&str] = &[
    "invoice",
    "lines",
    "amount",
    "credit_amount",
    "out_of_band_amount",
    "refund_amount",
    "refunds",
    "memo",
    "reason",
    "metadata",
    "email_type",
];

pub(crate) const UPDATE_UNDERSTOOD: &[&str] = &["memo", "metadata"];

pub(crate) fn create(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let note = credit::compute(state, call)?;
    let id = credit::issue(state, note);
    retrieve(state, &Call { id: &id, ..*call })
}

pub(crate) fn preview(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let note = credit::compute(state, call)?;
    Ok(note.render(&state.url))
}

pub(crate) fn retrieve(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let note = state.credit_notes.get(call.id);
    note.map(|note| note.render(&state.url))
        .ok_or_else(|| Failure::not_found("credit note", call.id))
}

pub(crate) fn update(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let before = retrieve(state, call)?;
    if let Some(note) = state.credit_notes.get_mut(call.id) {
        if let Some(memo) = call.params.text("memo") {
            note.memo = Some(memo.to_owned()).filter(|memo| !memo.is_empty());
        }
        merge_metadata(&mut note.metadata, call.params);
    }
    let after = retrieve(state, call)?;
    if let Some(previous) = event::changed(&before, &after) {
        state.emit("credit_note.updated", after.clone(), Some(previous));
    }
    Ok(after)
}

pub(crate) fn void(state: &mut State, call: &Call) -> Result<Value, Failure> {
    credit::void(state, call.id)?;
    retrieve(state, call)
}

pub(crate) fn list(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let wanted = |note: &CreditNote| {
        is(call.params, "invoice", &note.invoice)
            && is(call.params, "customer", &note.customer)
            && in_range(call.params, "created", note.created)
    };
    let rows = state.credit_notes.iter().rev().filter(|(_, note)| wanted(note));
    let rows = rows
        .map(|(id, note)| (id.to_owned(), note.render(&state.url)))
        .collect();
    list::page("/v1/credit_notes", call.params, rows)
}

pub(crate) fn lines(state: &mut State, call: &Call) -> Result<Value, Failure> {
    let note = state.credit_notes.get(call.id);
    let note = note.ok_or_else(|| Failure::not_found("credit note", call.id))?;
    let rows = note.lines.iter().map(|line| (line.id.clone(), line.render()));
    list::page(
        &format!("/v1/credit_notes/{}/lines", call.id),
        call.params,
        rows.collect(),
    )
}
