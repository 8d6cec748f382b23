//! The limit of open files of the process. Each connection is one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

/// Raises the limit to the maximum of the process, and warns if that is less than `wanted`.
pub fn raise(wanted: u64) {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => return warn!("reading the limit of open files: {error}"),
    };
    let now = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            warn!("raising the limit of open files from {soft} to {hard}: {error}");
            soft
        }
    };
    if now < wanted {
        warn!(
            open_files = now,
            wanted,
            "the limit of open files is too low for the limit of connections: clients may have to wait (raise `ulimit -n`, or \
             lower CONNECTIONS_MAX)"
        );
    } else if now > soft {
        info!(open_files = now, "raised the limit of open files");
    }
}
