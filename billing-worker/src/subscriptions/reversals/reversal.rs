//! A credit note, a refund or a dispute as a row. Pure.

use crate::stripe::{
    names,
    object::reversal::{CreditNote, Dispute, Refund},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ReversalKind {
    CreditNote,
    Dispute,
    Refund,
}

/// One that an event names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    pub(super) kind: ReversalKind,
    pub(super) id: String,
}

/// One as Stripe has it now. Amounts are in the currency's smallest unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reversal {
    pub id: String,
    pub kind: ReversalKind,
    pub customer: Option<String>,
    /// `None`: the payment was for no invoice.
    pub invoice: Option<String>,
    pub number: Option<String>,
    pub status: String,
    pub currency: String,
    pub amount: i64,
    /// Of a credit note: what it credits of the lines, before discounts and tax.
    pub subtotal: Option<i64>,
    pub reason: Option<String>,
    /// This service made it, for a correction.
    pub is_ours: bool,
    pub created: i64,
    /// Until then a dispute can be answered.
    pub due: Option<i64>,
}

/// The one that an event of this type is about.
pub fn named(event: &str, object_id: Option<&str>) -> Option<Named> {
    let kind = [
        ("credit_note.", ReversalKind::CreditNote),
        ("charge.dispute.", ReversalKind::Dispute),
        ("refund.", ReversalKind::Refund),
    ];
    let (_, kind) = kind.into_iter().find(|(prefix, _)| event.starts_with(prefix))?;
    let is_id = |id: &&str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let id = object_id.filter(is_id)?.to_owned();
    Some(Named { kind, id })
}

impl ReversalKind {
    /// In rows and in the audit log.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::CreditNote => "credit_note",
            Self::Dispute => "dispute",
            Self::Refund => "refund",
        }
    }

    pub(super) fn from_stored(text: &str) -> Option<Self> {
        let all = [Self::CreditNote, Self::Dispute, Self::Refund];
        all.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl Reversal {
    pub(super) fn of_credit_note(of: CreditNote) -> Self {
        Self {
            id: of.id,
            kind: ReversalKind::CreditNote,
            customer: Some(of.customer.id().to_owned()),
            invoice: Some(of.invoice.id().to_owned()),
            number: Some(of.number),
            status: of.status,
            currency: of.currency,
            amount: of.total,
            subtotal: of.subtotal,
            reason: of.reason,
            is_ours: of.metadata.contains_key(names::META_CARRY),
            created: of.created,
            due: None,
        }
    }

    pub(super) fn of_refund(of: Refund, invoice: Option<String>) -> Self {
        Self {
            id: of.id,
            kind: ReversalKind::Refund,
            customer: of.customer.map(|customer| customer.id().to_owned()),
            invoice,
            number: None,
            status: of.status.unwrap_or_else(|| "pending".to_owned()),
            currency: of.currency,
            amount: of.amount,
            subtotal: None,
            reason: of.reason,
            is_ours: false,
            created: of.created,
            due: None,
        }
    }

    pub(super) fn of_dispute(of: Dispute, invoice: Option<String>) -> Self {
        Self {
            id: of.id,
            kind: ReversalKind::Dispute,
            customer: of.charge.customer.map(|customer| customer.id().to_owned()),
            invoice,
            number: None,
            status: of.status,
            currency: of.currency,
            amount: of.amount,
            subtotal: None,
            reason: Some(of.reason),
            is_ours: false,
            created: of.created,
            due: of.evidence_details.due_by,
        }
    }

    /// The bank decided for the customer.
    pub(super) fn is_lost(&self) -> bool {
        self.kind == ReversalKind::Dispute && self.status == "lost"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_what_it_is_about() {
        let kind = |event: &str, id: Option<&str>| named(event, id).map(|named| named.kind);
        for (event, id, expected) in [
            ("credit_note.created", Some("cn_1"), Some(ReversalKind::CreditNote)),
            (
                "charge.dispute.funds_withdrawn",
                Some("du_1"),
                Some(ReversalKind::Dispute),
            ),
            ("refund.updated", Some("pyr_1"), Some(ReversalKind::Refund)),
            ("charge.refunded", Some("ch_1"), None),
            ("invoice.paid", Some("in_1"), None),
            ("refund.created", None, None),
            ("refund.created", Some("../customers"), None),
        ] {
            assert_eq!(kind(event, id), expected, "{event} {id:?}");
        }
    }

    #[test]
    fn every_kind_survives_storage() {
        for kind in [ReversalKind::CreditNote, ReversalKind::Dispute, ReversalKind::Refund] {
            assert_eq!(ReversalKind::from_stored(kind.as_str()), Some(kind));
        }
    }
}
