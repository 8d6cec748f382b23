//! Invoices as their customer sees them, from PostgreSQL.

use schema::AccountId;
use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    error::Error,
    stripe::{decimal, object::is_id},
    subscriptions::billing::Billing,
};

/// Amounts are in the currency's smallest unit.
#[derive(Clone, Debug, Serialize)]
struct InvoiceSummary {
    id: String,
    number: Option<String>,
    status: String,
    currency: String,
    total_cents: i64,
    /// What the customer's balance paid. Negative: the invoice added this to the balance, such as an amount that is too small to charge.
    balance_applied_cents: i64,
    amount_due_cents: i64,
    amount_paid_cents: i64,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// The time that the plan and the usage on the invoice are for. Of an invoice with neither: the time of all its lines.
    #[serde(with = "time::serde::rfc3339")]
    period_start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    period_end: OffsetDateTime,
    hosted_invoice_url: Option<String>,
    invoice_pdf: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct InvoiceDetails {
    #[serde(flatten)]
    summary: InvoiceSummary,
    /// The sum of the lines.
    subtotal_cents: i64,
    discount_cents: i64,
    tax_cents: i64,
    amount_remaining_cents: i64,
    lines: Vec<Line>,
    /// Made after it was final.
    credit_notes: Vec<CreditNote>,
    refunds: Vec<Refund>,
}

#[derive(Clone, Debug, Serialize)]
struct CreditNote {
    id: String,
    number: Option<String>,
    /// `issued` or `void`.
    status: String,
    total_cents: i64,
    reason: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

#[derive(Clone, Debug, Serialize)]
struct Refund {
    id: String,
    /// In Stripe's words, such as `succeeded`.
    status: String,
    amount_cents: i64,
    reason: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

#[derive(Clone, Debug, Serialize)]
struct Line {
    kind: String,
    description: Option<String>,
    plan: Option<String>,
    usage_type: Option<String>,
    quantity: Option<i64>,
    /// Millionths of the currency's main unit. `None`: there is none, or it is not a whole number of them.
    unit_price_micros: Option<i64>,
    /// Before the discount, and before tax that is not included.
    amount_cents: i64,
    discount_cents: i64,
    tax_cents: i64,
    #[serde(with = "time::serde::rfc3339")]
    period_start: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    period_end: OffsetDateTime,
}

#[derive(Clone, Debug, Serialize)]
pub struct InvoicePage {
    items: Vec<InvoiceSummary>,
    /// There are more invoices after this one.
    next: Option<String>,
}

/// The account's invoices after the given one, newest first. `None`: the account has no invoice `after`.
pub async fn list(
    billing: &Billing,
    account: AccountId,
    limit: usize,
    after: Option<&str>,
) -> Result<Option<InvoicePage>, Error> {
    let (db, livemode) = (&billing.admin.db, livemode(billing));
    if let Some(after) = after {
        let is_theirs = sqlx::query_scalar!(
            r#"select exists (
                   select from stripe_invoices where id = $1 and account_id = $2 and livemode = coalesce($3, livemode)) as "is_theirs!""#,
            after,
            account.0,
            livemode
        );
        if !is_id("in_", after) || !is_theirs.fetch_one(db).await? {
            return Ok(None);
        }
    }
    // Several invoices of one second are ordered by their numbers, which Stripe counts up; the drafts among them are the newest.
    let mut items = sqlx::query_as!(
        InvoiceSummary,
        r#"select i.id as "id!", i.number as "number?", i.status as "status!", i.currency as "currency!",
                  i.total as "total_cents!", coalesce(i.ending_balance - i.starting_balance, i.total - i.amount_due) as "balance_applied_cents!",
                  i.amount_due as "amount_due_cents!",
                  i.amount_paid as "amount_paid_cents!",
                  i.created_at as "created_at!", i.period_start as "period_start!", i.period_end as "period_end!",
                  i.hosted_invoice_url as "hosted_invoice_url?", i.invoice_pdf as "invoice_pdf?"
           from stripe_invoices i left join stripe_invoices a on a.id = $3
           where i.account_id = $1 and i.livemode = coalesce($2, i.livemode)
             and ($3::text is null or (i.created_at, coalesce(i.number, '~') collate "C", i.id collate "C")
                  < (a.created_at, coalesce(a.number, '~') collate "C", a.id collate "C"))
           order by i.created_at desc, coalesce(i.number, '~') collate "C" desc, i.id collate "C" desc
           limit $4"#,
        account.0,
        livemode,
        after,
        i64::try_from(limit + 1).unwrap_or(i64::MAX)
    )
    .fetch_all(db)
    .await?;
    let has_more = items.len() > limit;
    items.truncate(limit);
    Ok(Some(InvoicePage {
        next: items.last().filter(|_| has_more).map(|last| last.id.clone()),
        items,
    }))
}

/// One of the account's invoices with its lines. An invoice of another account is as unknown as one that does not exist.
pub async fn find(billing: &Billing, account: AccountId, id: &str) -> Result<InvoiceDetails, Error> {
    if !is_id("in_", id) {
        return Err(Error::UnknownInvoice);
    }
    let db = &billing.admin.db;
    // One snapshot: an invoice and its lines are replaced together.
    let mut tx = db.begin_with("begin isolation level repeatable read read only").await?;
    let row = sqlx::query!(
        r#"select id, number, status, currency, subtotal, discount, tax, total, amount_due, amount_paid, amount_remaining, created_at,
                coalesce(ending_balance - starting_balance, total - amount_due) as "balance_applied!",
                period_start, period_end, hosted_invoice_url, invoice_pdf
         from stripe_invoices where id = $1 and account_id = $2 and livemode = coalesce($3, livemode)"#,
        id,
        account.0,
        livemode(billing)
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or(Error::UnknownInvoice)?;
    let lines = sqlx::query!(
        "select kind, description, plan, usage_type, quantity, unit_amount, amount, discount, tax, period_start, period_end
         from stripe_invoice_lines where invoice_id = $1 order by position",
        id
    )
    .fetch_all(&mut *tx)
    .await?;
    let credit_notes = sqlx::query_as!(
        CreditNote,
        "select id, number, status, amount as total_cents, reason, created_at from stripe_reversals
         where invoice_id = $1 and account_id = $2 and kind = 'credit_note' order by created_at, id",
        id,
        account.0
    )
    .fetch_all(&mut *tx)
    .await?;
    let refunds = sqlx::query_as!(
        Refund,
        "select id, status, amount as amount_cents, reason, created_at from stripe_reversals
         where invoice_id = $1 and account_id = $2 and kind = 'refund' order by created_at, id",
        id,
        account.0
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    let lines = lines.into_iter().map(|line| Line {
        kind: line.kind,
        description: line.description,
        plan: line.plan,
        usage_type: line.usage_type,
        quantity: line.quantity,
        unit_price_micros: line.unit_amount.as_deref().and_then(decimal::micros),
        amount_cents: line.amount,
        discount_cents: line.discount,
        tax_cents: line.tax,
        period_start: line.period_start,
        period_end: line.period_end,
    });
    Ok(InvoiceDetails {
        lines: lines.collect(),
        credit_notes,
        refunds,
        subtotal_cents: row.subtotal,
        discount_cents: row.discount,
        tax_cents: row.tax,
        // Nobody pays a void invoice, whatever it asked for.
        amount_remaining_cents: if row.status == "void" { 0 } else { row.amount_remaining },
        summary: InvoiceSummary {
            id: row.id,
            number: row.number,
            status: row.status,
            currency: row.currency,
            total_cents: row.total,
            balance_applied_cents: row.balance_applied,
            amount_due_cents: row.amount_due,
            amount_paid_cents: row.amount_paid,
            created_at: row.created_at,
            period_start: row.period_start,
            period_end: row.period_end,
            hosted_invoice_url: row.hosted_invoice_url,
            invoice_pdf: row.invoice_pdf,
        },
    })
}

/// The mode of this service's key. `None`: it has no key, and shows what there is.
fn livemode(billing: &Billing) -> Option<bool> {
    billing.stripe().ok().map(|stripe| stripe.is_live())
}
