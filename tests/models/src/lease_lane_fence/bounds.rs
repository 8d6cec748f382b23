//! The bounds of an exploration, and the mutants.

/// The maximum number of each thing in one exploration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub gateways: u8,
    pub limit: i64,
    /// Units in one lease.
    pub lease_units: i64,
    pub leases: usize,
    pub runs: usize,
    pub requests: u8,
    pub crashes: u8,
    pub suspicions: u8,
    pub unclear: u8,
    pub refusals: u8,
    /// Whether requests are admitted again after a fence refused them.
    pub readmits: bool,
    pub spooled: usize,
    pub stop: bool,
}

/// An incorrect version of one step of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Units are given back while requests can still spend from the lease.
    ReturnBeforeClose,
    /// Give-backs are differences, not absolute totals.
    ReturnDifferences,
    /// A run is settled as soon as its row is `fencing`.
    SettleWithoutFence,
    /// A run is settled after the fence, but before the ingestor has stored the records that precede the fence.
    SettleBeforeStored,
    /// A fenced gateway keeps its leases.
    KeepLeases,
    /// Lanes are written without an expected sequence.
    NoExpectedSequence,
    /// A lease is granted in any state of the run.
    GrantToFenced,
    /// A request is answered 2xx before its batch is stored.
    AnswerBeforeStored,
    /// Units are given back while the outcome of their request is unknown.
    RefundUnknown,
    /// A request is admitted again before its outcome in the fenced lane is known.
    ReadmitBeforeOutcome,
    /// A spooling run can be fenced.
    FenceSpooling,
    /// A request is answered 2xx from the spool before `spooling` is committed.
    SpoolBeforeCommitted,
    /// The message in flight is not written to the spool.
    SpoolWithoutInFlight,
}

impl Mutant {
    pub const ALL: [Self; 13] = [
        Self::ReturnBeforeClose,
        Self::ReturnDifferences,
        Self::SettleWithoutFence,
        Self::SettleBeforeStored,
        Self::KeepLeases,
        Self::NoExpectedSequence,
        Self::GrantToFenced,
        Self::AnswerBeforeStored,
        Self::RefundUnknown,
        Self::ReadmitBeforeOutcome,
        Self::FenceSpooling,
        Self::SpoolBeforeCommitted,
        Self::SpoolWithoutInFlight,
    ];
}

const NOTHING: Bounds = Bounds {
    gateways: 1,
    limit: 1,
    lease_units: 1,
    leases: 1,
    runs: 1,
    requests: 1,
    crashes: 0,
    suspicions: 0,
    unclear: 0,
    refusals: 0,
    readmits: false,
    spooled: 0,
    stop: false,
};

impl Mutant {
    /// The bounds within which the mutant fails.
    pub fn bounds(self) -> Bounds {
        match self {
            Self::ReadmitBeforeOutcome => Bounds::RETURN,
            Self::FenceSpooling | Self::SpoolBeforeCommitted | Self::SpoolWithoutInFlight => Bounds::SPOOL,
            _ => Bounds::FENCE,
        }
    }
}

impl Bounds {
    /// Two gateways. One is wrongly presumed dead, and one outcome stays unknown.
    pub const FENCE: Self = Self {
        gateways: 2,
        leases: 2,
        runs: 3,
        requests: 2,
        suspicions: 1,
        unclear: 1,
        ..NOTHING
    };
    /// One gateway that is fenced, admits a request again, stops, and meets a full stream.
    pub const RETURN: Self = Self {
        limit: 2,
        leases: 2,
        runs: 2,
        requests: 1,
        suspicions: 1,
        unclear: 1,
        refusals: 1,
        readmits: true,
        stop: true,
        ..NOTHING
    };
    /// One gateway that spools, is killed, and drains.
    pub const SPOOL: Self = Self {
        limit: 2,
        lease_units: 2,
        runs: 2,
        requests: 2,
        crashes: 1,
        suspicions: 1,
        unclear: 1,
        spooled: 1,
        ..NOTHING
    };
    /// Leases of several units that are given back in parts.
    pub const PARTS: Self = Self {
        gateways: 2,
        limit: 2,
        lease_units: 2,
        leases: 2,
        runs: 2,
        requests: 3,
        suspicions: 1,
        unclear: 1,
        ..NOTHING
    };

    pub const SMALL: [(&'static str, Self); 3] =
        [("fence", Self::FENCE), ("return", Self::RETURN), ("spool", Self::SPOOL)];
    pub const LARGE: [(&'static str, Self); 4] = [
        (
            "fence",
            Self {
                leases: 3,
                crashes: 1,
                ..Self::FENCE
            },
        ),
        (
            "parts",
            Self {
                crashes: 1,
                unclear: 2,
                ..Self::PARTS
            },
        ),
        (
            "return",
            Self {
                requests: 2,
                lease_units: 2,
                crashes: 1,
                unclear: 2,
                ..Self::RETURN
            },
        ),
        (
            "spool",
            Self {
                leases: 2,
                unclear: 2,
                ..Self::SPOOL
            },
        ),
    ];
}
