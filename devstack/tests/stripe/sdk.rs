use std::path::Path;
use std::time::Duration;

use devstack::{StripeDouble, StripeDoubleOptions, wheels};

const WITHIN: Duration = Duration::from_secs(120);

#[tokio::test]
async fn official_sdk_is_served_from_the_catalogue_to_the_cancellation() {
    let python = wheels::install_with_stripe_sdk().await.unwrap().python();
    let stripe = StripeDouble::start(StripeDoubleOptions::default()).await.unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stripe/sdk.py");
    let mut command = tokio::process::Command::new(python);
    command
        .arg("-I")
        .arg(script)
        .args([stripe.url(), stripe.api_key(), stripe.webhook_secret()])
        .kill_on_drop(true);
    let output = tokio::time::timeout(WITHIN, command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "ok");
}
