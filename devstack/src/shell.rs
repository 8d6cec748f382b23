//! A directory that prepares a shell for the commands in README and docs: `env` sets the variables that they use, and `bin/`
//! has the three services as commands.
//!
//! The demo writes one for people, and the test of the documentation writes one for itself: both see the same names.

use std::{
    fmt::Write,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{admin::Customer, system::System};

const SERVICES: [&str; 3] = ["gateway", "ingestor", "billing-worker"];

/// The directory. Dropping it removes it, unless another system has replaced it.
#[derive(Debug)]
pub struct Shell {
    dir: PathBuf,
    content: String,
}

/// The variables of a running system. `large` is an account with units left; `free` is one on the plan Free.
pub fn variables(system: &System, large: &Customer, free: &Customer) -> Vec<(&'static str, String)> {
    let (endpoints, gateway) = (&system.endpoints, &system.gateways[0]);
    let mut variables = vec![
        ("GATEWAY_URL", gateway.url.clone()),
        ("BILLING_URL", system.billing_url.clone()),
        ("ADMIN_URL", system.billing.admin_url()),
        ("ADMIN_TOKEN", system.admin_token.clone()),
        ("KEY", large.key.clone()),
        ("ACCOUNT", large.account_id.to_string()),
        ("FREE_KEY", free.key.clone()),
        ("FREE_ACCOUNT", free.account_id.to_string()),
        ("GATEWAY_ADMIN_URL", gateway.service.admin_url()),
        ("INGESTOR_ADMIN_URL", system.ingestors[0].admin_url()),
        ("NATS_URL", endpoints.nats_url.clone()),
        ("DATABASE_URL", endpoints.database_url.clone()),
        ("CLICKHOUSE_URL", endpoints.clickhouse_url.clone()),
        ("CLICKHOUSE_DATABASE", endpoints.clickhouse_database.clone()),
    ];
    if let Some(file) = system.plans_file() {
        variables.push(("PLANS_FILE", file.display().to_string()));
    }
    if let Some(stripe) = &system.stripe {
        variables.extend([
            ("STRIPE_SECRET_KEY", stripe.api_key().to_owned()),
            ("STRIPE_API_BASE", stripe.url().to_owned()),
            ("STRIPE_WEBHOOK_SECRETS", stripe.webhook_secret().to_owned()),
            ("BILLING_PUBLIC_URL", system.billing_url.clone()),
        ]);
    }
    variables
}

impl Shell {
    /// `exe` runs a service as `<exe> service <name>`.
    pub fn write(dir: &Path, exe: &Path, variables: &[(&'static str, String)]) -> Result<Self> {
        let bin = dir.join("bin");
        fs::create_dir_all(&bin).with_context(|| format!("making {}", bin.display()))?;
        for service in SERVICES {
            let path = bin.join(service);
            let script = format!(
                "#!/bin/sh\nexec {} service {service} \"$@\"\n",
                quoted(&exe.to_string_lossy())
            );
            fs::write(&path, script).with_context(|| format!("writing {}", path.display()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        let mut content = String::new();
        for (name, value) in variables {
            writeln!(content, "export {name}={}", quoted(value))?;
        }
        writeln!(content, "export PATH={}:\"$PATH\"", quoted(&bin.to_string_lossy()))?;
        let shell = Self {
            dir: dir.to_path_buf(),
            content,
        };
        fs::write(shell.env(), &shell.content).with_context(|| format!("writing {}", shell.env().display()))?;
        Ok(shell)
    }

    /// The file that a shell reads: `. <file>`.
    pub fn env(&self) -> PathBuf {
        self.dir.join("env")
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if fs::read_to_string(self.env()).is_ok_and(|content| content == self.content) {
            // It may be gone already: a person can remove it at any time.
            fs::remove_dir_all(&self.dir).ok();
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_shell() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn directory_of_another_system_is_left_alone() {
        let dir = std::env::temp_dir().join(format!("shell-{:016x}", rand::random::<u64>()));
        let first = Shell::write(&dir, Path::new("/exe"), &[("KEY", "1".into())]).unwrap();
        let second = Shell::write(&dir, Path::new("/exe"), &[("KEY", "2".into())]).unwrap();
        drop(first);
        assert!(fs::read_to_string(second.env()).unwrap().contains("export KEY='2'"));
        drop(second);
        assert!(!dir.exists());
    }
}
