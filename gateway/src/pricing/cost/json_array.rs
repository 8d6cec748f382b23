//! The length of an array at the top of a JSON object. Checks that the whole text is JSON, and keeps nothing of it in memory.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{CostError, bounded};

/// The length of the array `name`, as a cost.
pub fn length(body: &[u8], name: &str) -> Result<i64, CostError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let length = Top { name }
        .deserialize(&mut json)
        .and_then(|length| json.end().map(|()| length))
        .map_err(|error| CostError(explain(&error, name).into()))?;
    match length {
        Some(0) => Err(CostError(format!("`{name}` must not be empty").into())),
        Some(length) => bounded(&format!("the length of `{name}`"), length),
        None => Err(CostError(format!("`{name}` is missing").into())),
    }
}

fn explain(error: &serde_json::Error, name: &str) -> String {
    let is_of_field = error.to_string().contains(ARRAY);
    problem::json::explain(if is_of_field { name } else { "" }, error)
}

/// What the field must be, in messages.
const ARRAY: &str = "an array of items";

struct Top<'a> {
    name: &'a str,
}

struct Key<'a> {
    name: &'a str,
}

struct Length;

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = Option<i64>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = Option<i64>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "an object with an array `{}`", self.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut length = None;
        while let Some(is_it) = map.next_key_seed(Key { name: self.name })? {
            if !is_it {
                map.next_value::<IgnoredAny>()?;
            } else if length.is_none() {
                length = Some(map.next_value_seed(Length)?);
            } else {
                // It is unknown which of the two the upstream uses.
                return Err(A::Error::custom(format_args!("duplicate field `{}`", self.name)));
            }
        }
        Ok(length)
    }
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.name)
    }
}

impl<'de> DeserializeSeed<'de> for Length {
    type Value = i64;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<i64, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Length {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(ARRAY)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<i64, A::Error> {
        let mut length = 0;
        while items.next_element::<IgnoredAny>()?.is_some() {
            length += 1;
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_array_at_the_top_is_counted() {
        for (body, cost) in [
            (r#"{"texts":["a","b"]}"#, Some(2)),
            (
                r#" {"x":{"texts":[1,2,3]},"texts":[[1,2],{"texts":[]},null],"y":1} "#,
                Some(3),
            ),
            (r#"{"te\u0078ts":["a"]}"#, Some(1)),
            (r#"{"texts":[]}"#, None),
            (r#"{"texts":["a"],"texts":["a","b"]}"#, None),
            (r#"{"texts":["a"],"te\u0078ts":["a","b"]}"#, None),
            (r#"{"texts":"a"}"#, None),
            (r#"{"texts":null}"#, None),
            (r#"{"Texts":["a"]}"#, None),
            (r#"["a"]"#, None),
            (r#"{"texts":["a"]} x"#, None),
            (r#"{"texts":["a"]}{"texts":["a"]}"#, None),
            (r#"{"texts":["a""#, None),
            (r#"{"texts":[,]}"#, None),
            ("", None),
            ("\u{feff}{\"texts\":[1]}", None),
        ] {
            assert_eq!(length(body.as_bytes(), "texts").ok(), cost, "{body}");
        }
    }

    #[test]
    fn a_syntax_error_has_its_position() {
        let error = length(b"{\"texts\":[\"a\",]}", "texts").unwrap_err();
        assert!(error.to_string().contains("line 1, column 15"), "{error}");
    }

    #[test]
    fn absurd_depth_and_length_do_not_crash() {
        let deep = format!("{{\"texts\":[{}{}]}}", "[".repeat(300_000), "]".repeat(300_000));
        assert_eq!(length(deep.as_bytes(), "texts").ok(), Some(1));
        let long = format!("{{\"texts\":[{}1]}}", "1,".repeat(1_000_000));
        assert_eq!(length(long.as_bytes(), "texts").ok(), None);
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("texts|[a-z]{1,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_length_is_the_same_as_that_of_a_full_parser(texts in prop::collection::vec(json(), 0..20), other in json()) {
            let body = serde_json::json!({ "a": other, "texts": texts, "z": [1, 2] });
            let counted = length(&serde_json::to_vec_pretty(&body).unwrap(), "texts").ok();
            prop_assert_eq!(counted, (!texts.is_empty()).then_some(i64::try_from(texts.len()).unwrap()));
        }

        #[test]
        fn nonsense_never_panics(body in "[\\[\\]{}\":,a-e0-9 \\\\]{0,60}") {
            prop_assert!(length(body.as_bytes(), "texts").map_or(true, |units| units > 0));
        }
    }
}
