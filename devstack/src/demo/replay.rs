//! A web server's access log, sent again through the gateways: a client's address is an account, a path is a route, and the
//! upstream answers with the log's status.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Driven, access_log::Entry, say, traffic};
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

/// The gateway takes the replay's routes, and the client's address from us.
pub fn gateway_settings(dir: &Path) -> Result<Vec<(&'static str, String)>> {
    let path = dir.join("replay-routes.toml");
    std::fs::write(&path, ROUTES).with_context(|| format!("writing {}", path.display()))?;
    Ok(vec![
        ("ROUTES_FILE", path.display().to_string()),
        ("TRUSTED_PROXIES", "127.0.0.1".to_owned()),
    ])
}

pub async fn drive(system: &System, entries: &[Entry], unreadable: usize) -> Result<Driven> {
    let mut accounts: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for entry in entries {
        let next = accounts.len();
        accounts.entry(entry.address).or_insert(next);
    }
    say(&format!(
        "creating {} accounts, one a client address, on the Free plan",
        accounts.len()
    ));
    let mut by_index: Vec<(IpAddr, usize)> = accounts.iter().map(|(address, index)| (*address, *index)).collect();
    by_index.sort_by_key(|(_, index)| *index);
    let names: Vec<String> = by_index
        .iter()
        .map(|(address, _)| address.to_string().replace(':', "-"))
        .collect();
    let customers: Vec<Customer> = stream::iter(&names)
        .map(|name| system.admin.customer(name, "free"))
        .buffered(8)
        .try_collect()
        .await?;

    let calls = entries.iter().map(|entry| traffic::Call {
        upstream_status: Some(entry.status.as_u16()),
        client: Some((entry.address, entry.user_agent.clone())),
        ..traffic::Call::new(
            Some(accounts[&entry.address]),
            "api_call",
            entry.method.clone(),
            &entry.target.to_string(),
        )
    });
    traffic::send(system, customers, calls.collect(), unreadable).await
}
