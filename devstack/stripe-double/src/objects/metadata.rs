//! The `metadata` of an object, and how a call changes it.

use serde_json::{Map, Value};

use crate::form::Param;

pub(crate) type Metadata = Map<String, Value>;

/// Applies a `metadata` parameter: keys are merged, an empty value removes its key, and an empty `metadata` removes all keys.
pub(crate) fn merge_metadata(metadata: &mut Map<String, Value>, params: &Param) {
    match params.get("metadata") {
        None => {}
        Some(Param::Text(_)) => metadata.clear(),
        Some(Param::Map(entries)) => {
            for (key, value) in entries {
                match value {
                    Param::Text(text) if text.is_empty() => metadata.remove(key),
                    Param::Text(text) => metadata.insert(key.clone(), text.clone().into()),
                    Param::Map(_) => None,
                };
            }
        }
    }
}
