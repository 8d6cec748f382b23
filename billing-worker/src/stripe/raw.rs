//! A request by its path: for objects that async-stripe has in crates or features that nothing else here needs.

use serde_json::Value;
use stripe_client_core::{RequestBuilder, StripeMethod, StripeRequest};

#[derive(Clone, Debug)]
pub struct Raw {
    method: StripeMethod,
    path: String,
    params: Value,
}

impl Raw {
    /// `path` is below the version, such as `/refunds/re_1`. `query` is an object.
    pub fn get(path: impl Into<String>, query: Value) -> Self {
        Self {
            method: StripeMethod::Get,
            path: path.into(),
            params: query,
        }
    }

    pub fn delete(path: impl Into<String>) -> Self {
        Self {
            method: StripeMethod::Delete,
            path: path.into(),
            params: Value::Null,
        }
    }

    /// `form` is an object.
    pub fn post(path: impl Into<String>, form: Value) -> Self {
        Self {
            method: StripeMethod::Post,
            path: path.into(),
            params: form,
        }
    }
}

impl StripeRequest for Raw {
    /// Unused: the caller names the type that it reads.
    type Output = ();

    fn build(&self) -> RequestBuilder {
        let request = RequestBuilder::new(self.method, self.path.as_str());
        // Without parameters, serde_qs writes `=`.
        if self.params.as_object().is_none_or(|params| params.is_empty()) {
            return request;
        }
        match self.method {
            StripeMethod::Post => request.form(&self.params),
            StripeMethod::Get | StripeMethod::Delete => request.query(&self.params),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_nested_as_stripe_nests_them() {
        let payment = json!({ "payment": { "type": "payment_intent", "payment_intent": "pi_1" }, "limit": 1 });
        let parts = |text: Option<String>| {
            let text = text.unwrap().replace("%5B", "[").replace("%5D", "]");
            let mut parts: Vec<_> = text.split('&').map(str::to_owned).collect();
            parts.sort_unstable();
            parts
        };
        let expected = [
            "limit=1",
            "payment[payment_intent]=pi_1",
            "payment[type]=payment_intent",
        ];
        assert_eq!(
            parts(Raw::get("/invoice_payments", payment.clone()).build().query),
            expected
        );
        assert_eq!(parts(Raw::post("/invoice_payments", payment).build().body), expected);
        let bare = Raw::post("/invoices/in_1/void", json!({})).build();
        assert_eq!((bare.query, bare.body), (None, None));
    }
}
