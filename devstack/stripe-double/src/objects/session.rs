//! A checkout session.

use crate::form::Param;
use crate::objects::coupon::Redeemed;
use crate::objects::metadata::Metadata;
use crate::objects::subscription::WithoutCard;

#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub id: String,
    pub status: Status,
    pub customer: Option<String>,
    pub email: Option<String>,
    pub items: Vec<SessionItem>,
    pub currency: String,
    pub success_url: String,
    pub cancel_url: Option<String>,
    pub created: i64,
    pub expires_at: i64,
    pub client_reference_id: Option<String>,
    pub metadata: Metadata,
    pub subscription_metadata: Metadata,
    pub description: Option<String>,
    pub trial_days: Option<i64>,
    pub trial_end: Option<i64>,
    pub without_card: WithoutCard,
    pub discounts: Vec<Redeemed>,
    pub allows_codes: bool,
    pub automatic_tax: bool,
    pub subscription: Option<String>,
    pub invoice: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct SessionItem {
    pub id: String,
    pub price: String,
    pub quantity: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Open,
    Complete,
    Expired,
}

impl Session {
    /// When it expires, if it is open.
    pub(crate) fn open_until(&self) -> Option<i64> {
        (self.status == Status::Open).then_some(self.expires_at)
    }

    /// Where the customer goes after paying.
    pub(crate) fn success_url(&self) -> String {
        self.success_url.replace("{CHECKOUT_SESSION_ID}", &self.id)
    }
}

impl SessionItem {
    pub(crate) fn as_params(&self) -> Param {
        let mut map = std::collections::BTreeMap::from([("price".to_owned(), Param::Text(self.price.clone()))]);
        if let Some(quantity) = self.quantity {
            map.insert("quantity".to_owned(), Param::Text(quantity.to_string()));
        }
        Param::Map(map)
    }
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Complete => "complete",
            Self::Expired => "expired",
        }
    }
}
