//! The DDL of ClickHouse: the numbered files of `schema/clickhouse/` in the order in which they are applied, rendered for one
//! server or for a cluster.

use sha2::{Digest, Sha256};

/// Applied in this order. Never change an applied file, not even a comment: ingestors compare checksums. Add a new file.
pub const FILES: &[DdlFile] = &[
    file(
        "01_usage_events",
        Some("usage_events"),
        include_str!("../clickhouse/01_usage_events.sql"),
    ),
    file(
        "02_usage_daily",
        Some("usage_daily"),
        include_str!("../clickhouse/02_usage_daily.sql"),
    ),
    file(
        "03_usage_closed_days",
        Some("usage_closed_days"),
        include_str!("../clickhouse/03_usage_closed_days.sql"),
    ),
    file(
        "04_usage_open_from",
        Some("usage_open_from"),
        include_str!("../clickhouse/04_usage_open_from.sql"),
    ),
    file("05_usage", Some("usage"), include_str!("../clickhouse/05_usage.sql")),
    file(
        "06_account_retention",
        Some("account_retention"),
        include_str!("../clickhouse/06_account_retention.sql"),
    ),
    file(
        "07_usage_duplicates",
        Some("usage_duplicates"),
        include_str!("../clickhouse/07_usage_duplicates.sql"),
    ),
    file(
        "08_usage_duplicates_position",
        None,
        include_str!("../clickhouse/08_usage_duplicates_position.sql"),
    ),
];

/// The tables with the rows of events. The ingestors can fill them again from the stream.
pub const EVENT_TABLES: [&str; 2] = ["usage_events", "usage_duplicates"];
/// The tables with the sums of closed days. Only a backup can restore them.
pub const SUM_TABLES: [&str; 2] = ["usage_daily", "usage_closed_days"];

/// One statement for one object. It does nothing if the object exists.
#[derive(Clone, Copy, Debug)]
pub struct DdlFile {
    pub name: &'static str,
    /// The table or view that it creates; `None`: it changes one.
    pub creates: Option<&'static str>,
    /// With the placeholders `{on_cluster}` and `{merge_tree}`.
    pub template: &'static str,
}

/// Where the tables are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// `None`: one server. A name: the cluster of that name, with one shard and any number of replicas, as described by
    /// `remote_servers` and the macros (`{shard}`, `{replica}`) of the servers.
    pub cluster: Option<String>,
}

impl DdlFile {
    pub fn render(&self, layout: &Layout) -> String {
        layout.render(self.template)
    }

    /// SHA-256 of the template, in hex: the same for every layout.
    pub fn checksum(&self) -> String {
        hex::encode(Sha256::digest(self.template.as_bytes()))
    }
}

impl Layout {
    /// Fills in `{on_cluster}` and `{merge_tree}`.
    pub fn render(&self, template: &str) -> String {
        let (on_cluster, merge_tree) = match &self.cluster {
            Some(cluster) => (format!("on cluster {}", identifier(cluster)), "ReplicatedMergeTree"),
            None => (String::new(), "MergeTree"),
        };
        template
            .replace("{on_cluster}", &on_cluster)
            .replace("{merge_tree}", merge_tree)
    }

    /// Settings for clients of these tables, so that every replica answers with all acknowledged inserts: most replicas
    /// acknowledge an insert, and only a replica that has all such inserts answers a read. Without them a stored range may look
    /// missing and be inserted again.
    /// (<https://clickhouse.com/docs/operations/settings/settings#insert_quorum>)
    pub fn client_settings(&self) -> &'static [(&'static str, &'static str)] {
        match self.cluster {
            Some(_) => &[
                ("insert_quorum", "auto"),
                ("insert_quorum_parallel", "0"),
                ("select_sequential_consistency", "1"),
            ],
            None => &[],
        }
    }
}

const fn file(name: &'static str, creates: Option<&'static str>, template: &'static str) -> DdlFile {
    DdlFile {
        name,
        creates,
        template,
    }
}

/// A name, quoted for SQL.
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test looks for files that the list lacks")]
    fn files_are_numbered_in_order_and_complete() {
        for (index, file) in FILES.iter().enumerate() {
            assert!(file.name.starts_with(&format!("{:02}_", index + 1)), "{}", file.name);
        }
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/clickhouse");
        assert_eq!(std::fs::read_dir(directory).unwrap().count(), FILES.len());
    }

    #[test]
    fn every_file_may_be_applied_twice_and_leaves_no_placeholder() {
        for cluster in [None, Some("main".to_owned())] {
            let layout = Layout { cluster };
            for file in FILES {
                let sql = file.render(&layout);
                assert!(sql.contains("if not exists"), "{}", file.name);
                assert!(
                    !sql.contains("{on_cluster}") && !sql.contains("{merge_tree}"),
                    "{}",
                    file.name
                );
                assert_eq!(
                    sql.contains("on cluster `main`"),
                    layout.cluster.is_some(),
                    "{}",
                    file.name
                );
            }
        }
    }

    #[test]
    fn every_file_that_creates_an_object_names_it() {
        for file in FILES {
            let created = file.template.lines().find_map(|line| {
                let rest = line
                    .strip_prefix("create table ")
                    .or(line.strip_prefix("create view "))?;
                rest.strip_prefix("if not exists ")?.split(' ').next()
            });
            assert_eq!(created, file.creates, "{}", file.name);
        }
    }

    #[test]
    fn every_column_has_a_comment() {
        for file in FILES {
            let columns = file.template.lines().filter(|line| {
                let mut words = line.trim().split(' ');
                words
                    .next()
                    .is_some_and(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
                    && words
                        .next()
                        .is_some_and(|kind| kind.starts_with(|c: char| c.is_ascii_uppercase()))
            });
            let comments = file.template.matches("comment '").count();
            assert!(comments >= columns.count(), "{}", file.name);
        }
    }

    #[test]
    fn a_cluster_may_have_any_name() {
        let layout = Layout {
            cluster: Some("a`b".into()),
        };
        assert_eq!(
            layout.render("{on_cluster} {merge_tree}"),
            "on cluster `a\\`b` ReplicatedMergeTree"
        );
    }

    #[test]
    fn checksums_depend_only_on_the_file() {
        assert_eq!(FILES[0].checksum().len(), 64);
        assert_ne!(FILES[0].checksum(), FILES[1].checksum());
    }
}
