//! How much of everything there is, and what is done wrong.

/// The most of each, in one exploration.
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
    /// Requests that are admitted again after a fence refused them.
    pub anew: bool,
    pub spooled: usize,
    pub stop: bool,
}

/// One step of the protocol, done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A give-back is told to Postgres while requests can still spend from the lease.
    ReturnBeforeClose,
    /// Give-backs are differences, not absolute totals.
    ReturnDifferences,
    /// Settled as soon as the row says fencing.
    SettleWithoutFence,
    /// Settled behind the fence, but before the ingestor has stored what lies before it.
    SettleBeforeStored,
    /// A gateway that was fenced goes on with the leases that it had.
    KeepLeases,
    /// Lanes are written without an expected sequence.
    NoExpectedSequence,
    /// A lease is granted whatever the row of the run says.
    GrantToFenced,
    /// 2xx before the batch is stored.
    AnswerBeforeStored,
    /// Units of an unknown outcome are given back.
    RefundUnknown,
    /// A request is admitted again before the fenced lane has said what became of it.
    AdmitAnewBeforeVerdict,
    /// A run that spools can be fenced.
    FenceSpooling,
    /// 2xx from the spool before `spooling` is committed.
    SpoolBeforeCommitted,
    /// The message in flight stays out of the spool.
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
        Self::AdmitAnewBeforeVerdict,
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
    anew: false,
    spooled: 0,
    stop: false,
};

impl Mutant {
    /// Bounds within which it fails.
    pub fn bounds(self) -> Bounds {
        match self {
            Self::AdmitAnewBeforeVerdict => Bounds::RETURN,
            Self::FenceSpooling | Self::SpoolBeforeCommitted | Self::SpoolWithoutInFlight => Bounds::SPOOL,
            _ => Bounds::FENCE,
        }
    }
}

impl Bounds {
    /// Two gateways, one of them wrongly taken for dead, and an outcome that nobody tells.
    pub const FENCE: Self = Self {
        gateways: 2,
        leases: 2,
        runs: 3,
        requests: 2,
        suspicions: 1,
        unclear: 1,
        ..NOTHING
    };
    /// One gateway that is fenced, admits anew, stops, and meets a stream without room.
    pub const RETURN: Self = Self {
        limit: 2,
        leases: 2,
        runs: 2,
        requests: 1,
        suspicions: 1,
        unclear: 1,
        refusals: 1,
        anew: true,
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
    /// Leases of several units, given back in part.
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
