//! A double with a client and a small catalogue.

use stripe_double::{Control, StripeDouble, StripeDoubleOptions};

use crate::client::Client;

pub(crate) struct Rig {
    pub stripe: StripeDouble,
    pub control: Control,
    pub client: Client,
}

/// Pro: $29 a month; its calls: 1,000 included, then a cent each.
pub(crate) struct Catalogue {
    pub pro: String,
    pub enterprise: String,
    pub calls: String,
    pub meter: String,
}

impl Rig {
    pub(crate) async fn start(options: StripeDoubleOptions) -> Self {
        let stripe = StripeDouble::start(options).await.unwrap();
        let client = Client::of(&stripe);
        let control = stripe.control();
        Self {
            stripe,
            control,
            client,
        }
    }

    pub(crate) async fn catalogue(&self) -> Catalogue {
        let meter = "display_name=Calls&event_name=api_call&default_aggregation[formula]=sum";
        let meter = self.client.id("/v1/billing/meters", meter).await;
        let product = self.client.id("/v1/products", "name=Plan").await;
        let price = |rest: &str| format!("product={product}&currency=usd&recurring[interval]=month&{rest}");
        let pro = self.client.id("/v1/prices", &price("unit_amount=2900")).await;
        let enterprise = self.client.id("/v1/prices", &price("unit_amount=29900")).await;
        let tiers = "tiers[0][up_to]=1000&tiers[0][unit_amount]=0&tiers[1][up_to]=inf&tiers[1][unit_amount]=1";
        let calls = format!(
            "recurring[usage_type]=metered&recurring[meter]={meter}&billing_scheme=tiered&tiers_mode=graduated&{tiers}"
        );
        let calls = self.client.id("/v1/prices", &price(&calls)).await;
        Catalogue {
            pro,
            enterprise,
            calls,
            meter,
        }
    }

    /// A customer with a working card.
    pub(crate) async fn customer(&self) -> String {
        self.client
            .id("/v1/customers", "email=a%40example.com&payment_method=pm_card_visa")
            .await
    }

    /// The types of the events from the n-th on, oldest first.
    pub(crate) fn kinds(&self, from: usize) -> Vec<String> {
        self.control
            .events()
            .into_iter()
            .skip(from)
            .map(|event| event.kind)
            .collect()
    }
}
