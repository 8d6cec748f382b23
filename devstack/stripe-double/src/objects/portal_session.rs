//! A session of the billing portal.

#[derive(Clone, Debug)]
pub(crate) struct PortalSession {
    pub customer: String,
    pub return_url: Option<String>,
    /// The customer can cancel here.
    pub lets_cancel: bool,
}
