//! The doctor, `billing-worker stripe check`: what is wrong with the settings, with Stripe and with what is stored here, and how to
//! mend it. The rules are pure. Each stands in the file that reads what it judges.
//!
//! | what | file |
//! |---|---|
//! | a row of the result | [`row`] |
//! | the key, the webhook secrets and the public URL | [`settings`] |
//! | what the key may do | [`permissions`] |
//! | products, prices, meters, and the customer portal | [`catalogue`] |
//! | the webhook endpoint | [`webhook`] |
//! | subscriptions that pay | [`paying`] |
//! | Stripe Tax | [`tax`] |
//! | whether the public URL answers | [`reach`] |

mod catalogue;
mod paying;
mod permissions;
mod reach;
pub mod row;
mod settings;
mod tax;
mod webhook;

use self::row::{Level, Row};
use crate::{error::Error, findings::repository as findings, stripe::StripeSettings, subscriptions::billing::Billing};

/// All rules. Fails only if Stripe or PostgreSQL cannot be asked now.
pub async fn run(billing: &Billing, stripe: &StripeSettings) -> Result<Vec<Row>, Error> {
    let key = stripe.stripe_secret_key.as_deref().unwrap_or_default();
    let (of, public_url) = (&billing.settings, &billing.settings.billing_public_url);
    let mut rows = settings::rules(key, public_url, of.stripe_webhook_secrets.len());
    let allowed = permissions::look(billing.stripe()?).await?;
    let is_blind = allowed.iter().any(|row| row.level == Level::Error);
    rows.extend(allowed);
    // What a key may not read cannot be judged.
    if !is_blind {
        rows.extend(catalogue::look(billing).await?);
        rows.extend(tax::look(billing.stripe()?).await?);
        rows.extend(paying::look(billing).await?);
        rows.extend(open_findings(billing).await?);
    }
    rows.extend(webhook::look(billing).await?);
    rows.extend(reach::look(public_url).await);
    Ok(rows)
}

/// The rules that the service checks when it starts.
pub async fn at_start(billing: &Billing) -> Result<Vec<Row>, Error> {
    catalogue::look(billing).await
}

async fn open_findings(billing: &Billing) -> Result<Option<Row>, Error> {
    let counts = findings::counts(&billing.admin.db).await?;
    let kinds: Vec<_> = counts.iter().map(|(kind, count)| format!("{kind} ({count})")).collect();
    let what = || format!("there are findings in Stripe: {}", kinds.join(", "));
    Ok((!kinds.is_empty())
        .then(|| Row::warning(what(), "`billing-worker reports attention` says what to do about each")))
}
