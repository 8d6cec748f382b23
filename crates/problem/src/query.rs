//! Reads a query string, and explains to a client why it could not be read.

use serde::{
    Deserialize,
    de::{
        Deserializer, Error, IntoDeserializer, Unexpected, Visitor,
        value::{self, MapDeserializer},
    },
    forward_to_deserialize_any,
};

use crate::json::{Place, Strict};

/// What messages about a query string call it.
const QUERY: Place<'static> = Place {
    whole: "the query string",
    field: "query parameter",
};

/// Reads the decoded parameters. The error is a sentence for the client.
pub fn read<'a, T: Deserialize<'a>>(parameters: &'a [(String, String)]) -> Result<T, String> {
    let parameters = parameters.iter().map(|(name, text)| (name.as_str(), Parameter(text)));
    serde_path_to_error::deserialize(Strict(MapDeserializer::<_, value::Error>::new(parameters)))
        .map_err(|error| QUERY.sentence(&error.path().to_string(), &error.inner().to_string()))
}

/// The text of one parameter.
struct Parameter<'a>(&'a str);

impl<'a> IntoDeserializer<'a, value::Error> for Parameter<'a> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Parameter<'de> {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, value::Error> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, value::Error> {
        match self.0.parse() {
            Ok(number) => visitor.visit_i64(number),
            Err(_) => Err(value::Error::invalid_value(Unexpected::Str(self.0), &visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, value::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, value::Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct
        map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Integer;
    use uuid::Uuid;

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Page {
        limit: Option<Integer<1, 1_000>>,
        after: Option<Uuid>,
        state: Option<State>,
    }

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum State {
        Open,
        Parked,
    }

    fn page(parameters: &[(&str, &str)]) -> Result<Page, String> {
        let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        read(&parameters.iter().map(owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_query_is_read_by_its_names() {
        let id = Uuid::from_u128(7);
        assert_eq!(
            page(&[("after", &id.to_string()), ("limit", "5"), ("state", "parked")]).unwrap(),
            Page {
                limit: Integer::new(5),
                after: Some(id),
                state: Some(State::Parked),
            }
        );
        assert_eq!(page(&[]).unwrap().limit, None);
    }

    #[test]
    fn an_error_names_the_parameter_what_it_must_be_and_what_was_sent() {
        let long = "x".repeat(5_000);
        for (name, text, expected) in [
            ("limit", "x", r#"`limit` must be an integer from 1 to 1,000, got "x""#),
            ("limit", "", r#"`limit` must be an integer from 1 to 1,000, got """#),
            ("limit", "-1", "`limit` must be an integer from 1 to 1,000, got -1"),
            ("limit", "1001", "`limit` must be an integer from 1 to 1,000, got 1001"),
            ("after", "x\n", r#"`after` must be a UUID, got "x\n""#),
            (
                "state",
                "lost",
                "`state` has the unknown value `lost`; known: `open`, `parked`",
            ),
            (
                "colour",
                "1",
                "unknown query parameter `colour`; known: `limit`, `after`, `state`",
            ),
            (long.as_str(), "1", "unknown query parameter `xxxxxxxx"),
        ] {
            let error = page(&[(name, text)]).unwrap_err();
            assert!(
                error.starts_with(expected) && error.len() < 200,
                "{name}={text}: {error}"
            );
        }
        let twice = page(&[("limit", "1"), ("limit", "2")]).unwrap_err();
        assert_eq!(twice, "duplicate query parameter `limit`");
    }
}
