//! The limits of a port's connections, and the settings for them.

use std::{sync::Arc, time::Duration};

use clap::Args;
use ipnet::IpNet;

use super::Pace;
use crate::settings::{at_least, seconds};

#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// The maximum number of connections. Further ones wait in the kernel's queue.
    pub connections: usize,
    /// The maximum number of connections of one address. A further one is closed when it is accepted.
    pub connections_per_address: usize,
    /// Addresses without this limit. A load balancer's address stands for many clients.
    pub unlimited: Arc<[IpNet]>,
    /// The time for a request's head, from its first byte, or from the start of the connection.
    pub head_timeout: Duration,
    /// A request's head must be smaller. Otherwise it is answered `431`.
    pub head_bytes: usize,
    /// The time that a connection may be idle between two requests.
    pub idle_timeout: Duration,
    /// The pace of a request's body.
    pub body: Pace,
    /// The time that a client may read nothing of its response.
    pub answer_timeout: Duration,
}

impl ServerLimits {
    /// The limits of an admin port, for a few operators and their monitoring.
    pub fn admin() -> Self {
        Self {
            connections: 256,
            connections_per_address: 256,
            unlimited: Arc::new([]),
            head_timeout: Duration::from_secs(10),
            head_bytes: 16 * 1024,
            idle_timeout: Duration::from_secs(75),
            body: Pace {
                idle: Duration::from_secs(10),
                bytes_per_second: 1024,
            },
            answer_timeout: Duration::from_secs(30),
        }
    }
}

#[derive(Args, Clone, Debug)]
pub struct ServerSettings {
    /// Maximum number of connections; further ones wait until one ends
    #[arg(long, env = "CONNECTIONS_MAX", default_value = "10000", value_parser = at_least::<1>)]
    pub connections_max: usize,

    /// Maximum number of connections of one address (IPv6: of one /64 network); further ones are closed. The gateway's
    /// TRUSTED_PROXIES have no such limit
    #[arg(long, env = "CONNECTIONS_PER_ADDRESS", default_value = "1000", value_parser = at_least::<1>)]
    pub connections_per_address: usize,

    /// How long a request's head may take, from its first byte or from the start of the connection (seconds)
    #[arg(long, env = "HEAD_TIMEOUT", default_value = "10", value_parser = seconds)]
    pub head_timeout: Duration,

    /// Maximum size of a request's head; a larger one, or more than 100 headers, is answered 431 (bytes)
    #[arg(long, env = "HEAD_BYTES_MAX", default_value = "32768", value_parser = at_least::<1024>)]
    pub head_bytes_max: usize,

    /// How long a connection may be idle between two requests; must be longer than a load balancer keeps it, otherwise some
    /// requests fail (seconds)
    #[arg(long, env = "IDLE_TIMEOUT", default_value = "75", value_parser = seconds)]
    pub idle_timeout: Duration,

    /// How long a request's body may pause before the request is answered 408 (seconds)
    #[arg(long, env = "BODY_TIMEOUT", default_value = "15", value_parser = seconds)]
    pub body_timeout: Duration,

    /// Minimum rate of a request's body; a body that is later than this by more than BODY_TIMEOUT gets a 408 (bytes per second)
    #[arg(long, env = "BODY_RATE_MIN", default_value = "1024", value_parser = at_least::<1>)]
    pub body_rate_min: usize,

    /// How long a client may read nothing of its response before its connection is cut (seconds)
    #[arg(long, env = "ANSWER_TIMEOUT", default_value = "30", value_parser = seconds)]
    pub answer_timeout: Duration,
}

impl ServerSettings {
    /// `unlimited`: addresses that have no limit of their own.
    pub fn limits(&self, unlimited: &[IpNet]) -> ServerLimits {
        ServerLimits {
            connections: self.connections_max,
            connections_per_address: self.connections_per_address,
            unlimited: unlimited.into(),
            head_timeout: self.head_timeout,
            head_bytes: self.head_bytes_max,
            idle_timeout: self.idle_timeout,
            body: Pace {
                idle: self.body_timeout,
                bytes_per_second: self.body_rate_min as u64,
            },
            answer_timeout: self.answer_timeout,
        }
    }
}
