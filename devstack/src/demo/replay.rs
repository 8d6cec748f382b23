//! Sends a web server's access log again through the gateways. Each client address is an account on the Free plan, each
//! request is an API call, and the upstream answers with the log's status.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    access_log::AccessLog,
    call::{Call, Driven},
    send::send,
    steps::Steps,
};
use crate::{admin::Customer, system::System};

/// Every path of the site is an API call.
const ROUTES: &str = r#"
[[route]]
method = "*"
path = "/"
usage_type = "api_call"
cost = 1

[[route]]
method = "*"
path = "/{*rest}"
usage_type = "api_call"
cost = 1
"#;

/// Settings for the gateways: the routes above, and the client's address from `X-Forwarded-For`.
pub(super) fn gateway_settings(dir: &Path) -> Result<Vec<(&'static str, String)>> {
    let path = dir.join("replay-routes.toml");
    std::fs::write(&path, ROUTES).with_context(|| format!("writing {}", path.display()))?;
    Ok(vec![
        ("ROUTES_FILE", path.display().to_string()),
        ("TRUSTED_PROXIES", "127.0.0.1".to_owned()),
    ])
}

pub(super) async fn drive(system: &System, log: &AccessLog, steps: &Steps) -> Result<Driven> {
    let mut accounts: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for entry in &log.entries {
        let next = accounts.len();
        accounts.entry(entry.address).or_insert(next);
    }
    steps.say(&format!(
        "create an account on the Free plan for each client address: {}",
        accounts.len()
    ));
    let mut by_index: Vec<(IpAddr, usize)> = accounts.iter().map(|(address, index)| (*address, *index)).collect();
    by_index.sort_by_key(|(_, index)| *index);
    let names: Vec<String> = by_index
        .iter()
        .map(|(address, _)| format!("client-{}", address.to_string().replace(':', "-")))
        .collect();
    let customers: Vec<Customer> = stream::iter(&names)
        .map(|name| system.admin.customer(name, "free"))
        .buffered(8)
        .try_collect()
        .await?;

    let calls = log.entries.iter().map(|entry| Call {
        upstream_status: Some(entry.status),
        client: Some((entry.address, entry.user_agent.clone())),
        ..Call::new(
            Some(accounts[&entry.address]),
            "api_call",
            entry.method.clone(),
            &entry.target,
        )
    });
    let calls: Vec<Call> = calls.collect();
    let skipped: usize = log.skipped.values().sum();
    steps.say(&format!(
        "send {} requests of the log through {} gateways; lines that cannot be sent: {skipped}",
        calls.len(),
        system.gateways.len()
    ));
    let (calls, took) = send(system, &customers, calls, steps).await;
    Ok(Driven {
        customers,
        calls,
        skipped: log.skipped.clone(),
        took,
    })
}
