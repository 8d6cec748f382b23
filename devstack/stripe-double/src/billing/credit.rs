//! Computes, issues and voids credit notes. The texts of the refusals are not Stripe's: those are not documented.

use crate::api::call::Call;
use crate::billing::payment;
use crate::failure::Failure;
use crate::form::Param;
use crate::money::{Decimal, share};
use crate::objects::balance_transaction::BalanceChange;
use crate::objects::credit_note::{CreditLine, CreditNote};
use crate::objects::invoice::{Invoice, LineAmounts, Status};
use crate::objects::metadata::{Metadata, merge_metadata};
use crate::state::State;

/// The credit note that a call asks for, without making it.
pub(crate) fn compute(state: &mut State, call: &Call) -> Result<CreditNote, Failure> {
    let params = call.params;
    let id = params.text("invoice").unwrap_or_default();
    let invoice = state.invoices.get(id);
    let invoice = invoice
        .ok_or_else(|| Failure::no_such("invoice", id).param("invoice"))?
        .clone();
    if !matches!(invoice.status, Status::Open | Status::Paid | Status::Uncollectible) {
        let message = format!(
            "A credit note needs a final invoice, and this one is {}.",
            invoice.status.name()
        );
        return Err(Failure::invalid(message).param("invoice"));
    }
    if params.has("refund_amount") || params.has("refunds") {
        return Err(Failure::gap("a credit note with a refund"));
    }
    let lines = lines(state, &invoice, params)?;
    let total: i64 = lines.iter().map(CreditLine::total).sum();
    let credited = state.credited(id);
    if total <= 0 || total > invoice.total(state) - credited.pre_payment - credited.post_payment {
        let message = "The credit must be positive, and all credits of an invoice must not exceed its total.";
        return Err(Failure::invalid(message).param("amount"));
    }
    let pre_payment = total.min(invoice.amount_remaining(state));
    let (credit, out_of_band) = (
        params.int("credit_amount").unwrap_or(0),
        params.int("out_of_band_amount").unwrap_or(0),
    );
    if credit + out_of_band != total - pre_payment {
        let message = format!(
            "The sum of credit amount, refund amount and out of band amount must equal the post payment amount ({}), and is {}.",
            total - pre_payment,
            credit + out_of_band
        );
        return Err(Failure::invalid(message).param("credit_amount"));
    }
    let mut metadata = Metadata::new();
    merge_metadata(&mut metadata, params);
    Ok(CreditNote {
        id: state.ids.next("cn"),
        number: format!("{}-CN-{:02}", invoice.number.unwrap_or_default(), credited.count + 1),
        customer: invoice.customer,
        invoice: invoice.id,
        currency: invoice.currency,
        lines,
        memo: params.filled("memo").map(str::to_owned),
        reason: params.filled("reason").map(str::to_owned),
        metadata,
        created: call.now,
        voided_at: None,
        pre_payment,
        post_payment: total - pre_payment,
        out_of_band,
        balance_transaction: None,
    })
}

fn lines(state: &mut State, invoice: &Invoice, params: &Param) -> Result<Vec<CreditLine>, Failure> {
    let given = params.list("lines");
    if given.is_empty() {
        let missing = || Failure::invalid("A credit note needs `amount` or `lines`.").code("parameter_missing");
        let amount = params.int("amount").ok_or_else(missing)?;
        return Ok(vec![custom(state, amount, None)]);
    }
    if params.has("amount") {
        return Err(Failure::invalid(
            "You may only specify one of these parameters: amount, lines.",
        ));
    }
    let amounts = invoice.amounts(state);
    let mut lines = Vec::new();
    for (n, line) in given.iter().enumerate() {
        let here = |name: &str| format!("lines[{n}][{name}]");
        if line.has("tax_amounts") || line.has("tax_rates") {
            return Err(Failure::gap("a credit note with taxes of its own"));
        }
        let mut credit = if line.text("type") == Some("custom_line_item") {
            let unit = match line.text("unit_amount_decimal") {
                Some(text) => Decimal::parse(text),
                None => line.int("unit_amount").map(Decimal::cents),
            };
            let unit =
                unit.ok_or_else(|| Failure::invalid("A custom line needs a unit amount.").param(here("unit_amount")))?;
            let mut custom = custom(state, unit.times(line.int("quantity").unwrap_or(1)), Some(unit));
            custom.quantity = line.int("quantity");
            custom
        } else {
            let id = line.text("invoice_line_item").unwrap_or_default();
            let of = amounts.iter().find(|amounts| amounts.line.id == id);
            let of = of.ok_or_else(|| Failure::no_such("invoice line item", id).param(here("invoice_line_item")))?;
            let already = state.credited_of_line(&invoice.id, id);
            invoice_line(state, of, already, line).map_err(|failure| failure.param(here("amount")))?
        };
        if let Some(description) = line.filled("description") {
            credit.description = Some(description.to_owned());
        }
        merge_metadata(&mut credit.metadata, line);
        lines.push(credit);
    }
    Ok(lines)
}

/// Credits a part of an invoice's line, and the same part of its discount and tax.
fn invoice_line(state: &mut State, of: &LineAmounts, already: i64, params: &Param) -> Result<CreditLine, Failure> {
    let line = &of.line;
    let amount = match (params.int("amount"), params.int("quantity")) {
        (Some(amount), None) => amount,
        (None, Some(quantity)) => share(line.amount, quantity, line.quantity.unwrap_or(1)),
        _ => {
            return Err(Failure::invalid(
                "A line of an invoice is credited by `amount` or by `quantity`.",
            ));
        }
    };
    if amount <= 0 || amount > line.amount - already {
        let left = line.amount - already;
        return Err(Failure::invalid(format!(
            "The amount must be positive and at most {left}."
        )));
    }
    let part = |whole: i64| share(whole, amount, line.amount);
    Ok(CreditLine {
        id: state.ids.next("cnli"),
        amount,
        discount: part(of.discount()),
        tax: part(of.tax),
        description: Some(line.description.clone()),
        invoice_line: Some(line.id.clone()),
        quantity: params.int("quantity"),
        unit: line.unit,
        metadata: Metadata::new(),
    })
}

fn custom(state: &mut State, amount: i64, unit: Option<Decimal>) -> CreditLine {
    CreditLine {
        id: state.ids.next("cnli"),
        amount,
        discount: 0,
        tax: 0,
        description: None,
        invoice_line: None,
        quantity: None,
        unit,
        metadata: Metadata::new(),
    }
}

/// Puts the credit on the customer's balance and lowers what the invoice still asks for. Nothing left to pay means paid.
pub(crate) fn issue(state: &mut State, mut note: CreditNote) -> String {
    let (id, invoice) = (note.id.clone(), note.invoice.clone());
    let credit = note.post_payment - note.out_of_band;
    note.balance_transaction = state.change_balance(
        &note.customer.clone(),
        BalanceChange {
            credit_note: Some(id.clone()),
            ..BalanceChange::of_invoice("credit_note", -credit, &invoice)
        },
    );
    state.credit_notes.insert(&id, note);
    let object = state.render_credit_note(&id);
    state.emit("credit_note.created", object, None);
    let object = state.render_invoice(&invoice);
    state.emit("invoice.updated", object, None);
    let is_settled = state
        .invoices
        .get(&invoice)
        .is_some_and(|invoice| invoice.status == Status::Open && invoice.amount_remaining(state) == 0);
    if is_settled {
        payment::paid(state, &invoice);
    }
    id
}

/// A credit note of an open invoice can be voided: the invoice asks for the amount again.
pub(crate) fn void(state: &mut State, id: &str) -> Result<(), Failure> {
    let now = state.now();
    let note = state
        .credit_notes
        .get_mut(id)
        .ok_or_else(|| Failure::not_found("credit note", id))?;
    let is_open = state
        .invoices
        .get(&note.invoice)
        .is_some_and(|invoice| invoice.status == Status::Open);
    if note.is_void() || !is_open {
        return Err(Failure::invalid(
            "Only an issued credit note of an open invoice can be voided.",
        ));
    }
    note.voided_at = Some(now);
    let object = state.render_credit_note(id);
    state.emit("credit_note.voided", object, None);
    Ok(())
}
