//! The bounds of an exploration, and the mutants.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The event ids in the stream, by position. A repeated id is a retry with the same Idempotency-Key.
    pub events: &'static [u8],
    pub ingestors: u8,
    pub crashes: u8,
    pub suspicions: u8,
    pub swallowed: u8,
    pub forgotten: u8,
    /// Writes of the entry whose response is lost. They may reach the bucket later, or never.
    pub unclear: u8,
    pub manifests: u8,
    /// Keys may expire, so a repeated event is no longer a duplicate.
    pub expires: bool,
    /// Tokens are forgotten while inserts are on their way. Then only the audit repairs the rows.
    pub audited: bool,
}

/// An incorrect version of one step of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A token names the records of one fetch, and the manifest has no pending range.
    TokenFromFetch,
    /// A replay looks the duplicates up again.
    DuplicatesNotInManifest,
    /// Rows are sent without checking the manifest again.
    NoSecondLook,
    /// The manifest is written over any revision.
    NoCompareAndSet,
    /// A write of the manifest counts as done although its response is lost.
    UnclearIsWritten,
    /// A range counts as done as soon as it is sealed.
    DoneBeforeInsert,
    /// A range counts as done as soon as ClickHouse has confirmed the insert.
    DoneUnseen,
    /// An insert with an unknown outcome is retried with another token.
    NextTokenWhileUnclear,
    /// The pending range is trimmed from the stream.
    TrimPending,
    /// Duplicates are stored after the rows.
    DuplicatesAfterRows,
    /// The audit treats a dropped duplicate as a missing row.
    AuditStoresDuplicates,
    NoAudit,
}

impl Mutant {
    pub const ALL: [Self; 12] = [
        Self::TokenFromFetch,
        Self::DuplicatesNotInManifest,
        Self::NoSecondLook,
        Self::NoCompareAndSet,
        Self::UnclearIsWritten,
        Self::DoneBeforeInsert,
        Self::DoneUnseen,
        Self::NextTokenWhileUnclear,
        Self::TrimPending,
        Self::DuplicatesAfterRows,
        Self::AuditStoresDuplicates,
        Self::NoAudit,
    ];
}

impl Mutant {
    /// The bounds within which the mutant fails.
    pub fn bounds(self) -> Bounds {
        match self {
            // A duplicate between two rows.
            Self::DuplicatesAfterRows => Bounds {
                events: &[0, 0, 1],
                suspicions: 0,
                expires: false,
                ..Bounds::LOSS
            },
            Self::AuditStoresDuplicates | Self::NoAudit => Bounds::WINDOW,
            Self::UnclearIsWritten => Bounds::WRITES,
            _ => Bounds::TAKEOVER,
        }
    }
}

impl Bounds {
    pub const SMALL: [(&'static str, Self); 4] = [
        ("takeover", Self::TAKEOVER),
        ("loss", Self::LOSS),
        ("window", Self::WINDOW),
        ("writes", Self::WRITES),
    ];
    pub const LARGE: [(&'static str, Self); 4] = [
        ("takeover", Self::TAKEOVER_LARGE),
        ("loss", Self::LOSS_LARGE),
        ("window", Self::WINDOW_LARGE),
        ("writes", Self::WRITES_LARGE),
    ];

    /// All faults except those of the next three scenarios.
    pub const TAKEOVER: Self = Self {
        events: &[0, 1, 0],
        ingestors: 2,
        crashes: 1,
        suspicions: 1,
        swallowed: 1,
        forgotten: 1,
        unclear: 0,
        manifests: 0,
        expires: false,
        audited: false,
    };
    /// A bucket that loses its entry, and keys that expire.
    pub const LOSS: Self = Self {
        swallowed: 0,
        forgotten: 0,
        manifests: 1,
        expires: true,
        ..Self::TAKEOVER
    };
    /// A window of tokens that is too short.
    pub const WINDOW: Self = Self {
        events: &[0, 0, 1],
        swallowed: 0,
        audited: true,
        ..Self::TAKEOVER
    };
    /// Responses of the bucket are lost.
    pub const WRITES: Self = Self {
        swallowed: 0,
        forgotten: 0,
        unclear: 1,
        ..Self::TAKEOVER
    };
    pub const WRITES_LARGE: Self = Self {
        suspicions: 2,
        unclear: 2,
        ..Self::WRITES
    };
    pub const TAKEOVER_LARGE: Self = Self {
        events: &[0, 1, 0, 2],
        crashes: 2,
        suspicions: 2,
        ..Self::TAKEOVER
    };
    pub const LOSS_LARGE: Self = Self {
        events: &[0, 1, 0, 2],
        suspicions: 2,
        ..Self::LOSS
    };
    pub const WINDOW_LARGE: Self = Self {
        events: &[0, 0, 1, 2],
        suspicions: 2,
        swallowed: 1,
        ..Self::WINDOW
    };
}
