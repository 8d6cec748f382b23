//! Decides when a run spools, pure: it tracks who wants to append, who has appended, and when spooling ends.
//!
//! ```text
//! Direct ─ wanted ─> Entering ─ committed ─> Spooling ─ all stored ─> Clearing ─ removed ─> Leaving ─ committed ─> Direct
//!                    Entering <─> Refused: PostgreSQL does not answer └─ not removed ─> Spooling
//! ```
//! A lane **joins** with its first batch. All lanes are released together, when the spool is empty. If a lane published on
//! its own while its batches are still in the log, a restart would publish those batches again.

/// The switch of one run.
#[derive(Debug)]
pub struct Switch {
    mode: Mode,
    /// Callers that ask to append.
    wanting: usize,
    /// Appends in progress.
    appending: usize,
    /// Lanes that have joined.
    members: usize,
    /// Members that append nothing now.
    holding: usize,
    /// Batches in the log that are not known to be stored.
    backlog: u64,
    /// How often all members were released.
    releases: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Direct,
    Entering,
    Refused,
    Spooling,
    Clearing,
    Leaving,
    /// The run is over, or other processes have ended it.
    Ended,
}

/// The answer to a lane that asks to append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendPermission {
    Granted,
    /// Ask again when something has changed.
    Wait,
    Refused,
}

impl Switch {
    pub fn new() -> Self {
        Self {
            mode: Mode::Direct,
            wanting: 0,
            appending: 0,
            members: 0,
            holding: 0,
            backlog: 0,
            releases: 0,
        }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn set_mode(&mut self, mode: Mode) {
        if self.mode != Mode::Ended {
            self.mode = mode;
        }
    }

    pub fn backlog(&self) -> u64 {
        self.backlog
    }

    pub fn releases(&self) -> u64 {
        self.releases
    }

    /// A caller wants to append, until [`Self::want_no_more`].
    pub fn want(&mut self) {
        self.wanting += 1;
    }

    pub fn want_no_more(&mut self) {
        self.wanting -= 1;
    }

    pub fn is_wanted(&self) -> bool {
        self.wanting > 0
    }

    /// If granted, an append is in progress until [`Self::appended`].
    pub fn ask(&mut self) -> AppendPermission {
        match self.mode {
            Mode::Spooling => {
                self.appending += 1;
                AppendPermission::Granted
            }
            Mode::Refused | Mode::Ended => AppendPermission::Refused,
            Mode::Direct | Mode::Entering | Mode::Clearing | Mode::Leaving => AppendPermission::Wait,
        }
    }

    pub fn appended(&mut self) {
        self.appending -= 1;
    }

    pub fn is_appending(&self) -> bool {
        self.appending > 0
    }

    /// A lane has its first batch in the log. Call it only while that append is in progress. Returns the number of the
    /// release that will release the lane.
    pub fn join(&mut self) -> u64 {
        self.members += 1;
        self.releases + 1
    }

    pub fn hold(&mut self) {
        self.holding += 1;
    }

    /// A member wants to append again. False: it must wait, because the log is being cleared.
    pub fn hold_no_more(&mut self) -> bool {
        let may = self.mode == Mode::Spooling;
        if may {
            self.holding -= 1;
        }
        may
    }

    /// `batches` more batches are durable in the log.
    pub fn add(&mut self, batches: u64) {
        self.backlog += batches;
    }

    /// One batch of the log is in the stream.
    pub fn stored(&mut self) {
        self.backlog -= 1;
    }

    /// Whether everything in the log is stored, and nobody is about to append.
    pub fn is_drained(&self) -> bool {
        self.mode == Mode::Spooling
            && self.backlog == 0
            && self.wanting == 0
            && self.appending == 0
            && self.holding == self.members
    }

    /// The log is empty: releases all members, which continue without it.
    pub fn release(&mut self) {
        self.set_mode(Mode::Leaving);
        self.members = 0;
        self.holding = 0;
        self.releases += 1;
    }
}

impl Default for Switch {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spooling() -> Switch {
        let mut switch = Switch::new();
        switch.want();
        assert_eq!(switch.ask(), AppendPermission::Wait);
        switch.set_mode(Mode::Entering);
        assert_eq!(switch.ask(), AppendPermission::Wait, "spooling is not committed yet");
        switch.set_mode(Mode::Spooling);
        assert_eq!(switch.ask(), AppendPermission::Granted);
        switch.want_no_more();
        switch
    }

    #[test]
    fn lanes_are_released_together_when_all_batches_are_stored() {
        let mut switch = spooling();
        assert!(!switch.is_drained(), "an append is in progress");
        switch.add(1);
        let release = switch.join();
        switch.appended();
        switch.hold();
        assert!(!switch.is_drained(), "a batch waits");
        switch.stored();
        assert!(switch.is_drained());
        switch.want();
        assert!(!switch.is_drained(), "somebody is about to append");
        switch.want_no_more();
        switch.set_mode(Mode::Clearing);
        assert!(!switch.hold_no_more());
        assert_eq!(switch.ask(), AppendPermission::Wait);
        switch.release();
        assert_eq!((switch.mode(), switch.releases()), (Mode::Leaving, release));
    }

    #[test]
    fn the_spool_is_not_drained_while_a_member_appends() {
        let mut switch = spooling();
        switch.join();
        switch.appended();
        switch.hold();
        assert!(switch.is_drained());
        assert!(switch.hold_no_more());
        assert!(!switch.is_drained());
    }

    #[test]
    fn an_ended_run_grants_nothing() {
        let mut switch = Switch::new();
        switch.set_mode(Mode::Ended);
        switch.set_mode(Mode::Spooling);
        assert_eq!(switch.ask(), AppendPermission::Refused);
    }
}
