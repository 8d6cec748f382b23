use std::collections::HashMap;

use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
pub struct Customer {
    pub id: String,
    /// Deleted permanently. A deleted customer has no other fields.
    #[serde(default)]
    pub deleted: bool,
    #[serde(default)]
    pub livemode: bool,
    /// Of the first subscription or invoice item. `None`: there was none yet.
    pub currency: Option<String>,
    #[serde(default)]
    pub metadata: HashMap<String, String>,
}
