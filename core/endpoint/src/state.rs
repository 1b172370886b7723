//! States and the steps between them (reference: endpoint states).

use core::fmt;

/// Where an endpoint is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Its labels have no identity number yet.
    WaitingForIdentity,
    /// Something changed; its policy has to be computed and written again.
    WaitingToRegenerate,
    /// Its policy is being written.
    Regenerating,
    /// It was read back after a restart and is not synchronised yet.
    Restoring,
    /// What is written is what is wanted.
    Ready,
    /// It is being taken down.
    Disconnecting,
    /// It is gone.
    Disconnected,
    /// Its creation failed.
    Invalid,
}

/// Who wants to move an endpoint: some steps are the builder's alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mover {
    /// Anyone: requests, identity changes, policy changes.
    Anyone,
    /// Whoever writes policies and devices.
    Builder,
}

impl State {
    /// All states.
    pub const ALL: [Self; 8] = [
        Self::WaitingForIdentity,
        Self::WaitingToRegenerate,
        Self::Regenerating,
        Self::Restoring,
        Self::Ready,
        Self::Disconnecting,
        Self::Disconnected,
        Self::Invalid,
    ];

    /// Whether `mover` may take an endpoint from this state to `to`. Staying is always allowed, except in final states.
    pub const fn may_become(self, to: Self, mover: Mover) -> bool {
        use State::{
            Disconnected, Disconnecting, Invalid, Ready, Regenerating, Restoring, WaitingForIdentity,
            WaitingToRegenerate,
        };
        let builder = matches!(mover, Mover::Builder);
        match (self, to) {
            (WaitingForIdentity, WaitingForIdentity | Ready | Disconnecting | Invalid)
            | (Ready, Ready | WaitingForIdentity | Disconnecting | WaitingToRegenerate | Restoring)
            | (WaitingToRegenerate, WaitingToRegenerate | Disconnecting | Restoring)
            | (Regenerating, Regenerating | WaitingForIdentity | Disconnecting | WaitingToRegenerate | Restoring)
            | (Restoring, Disconnecting | Restoring)
            | (Disconnecting, Disconnecting | Disconnected) => true,
            (WaitingToRegenerate | Restoring, Regenerating) | (Regenerating, Ready) => builder,
            _ => false,
        }
    }

    /// States a new endpoint may begin in.
    pub const fn may_begin(self) -> bool {
        matches!(self, Self::WaitingForIdentity | Self::Restoring)
    }

    /// The name users know.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WaitingForIdentity => "waiting-for-identity",
            Self::WaitingToRegenerate => "waiting-to-regenerate",
            Self::Regenerating => "regenerating",
            Self::Restoring => "restoring",
            Self::Ready => "ready",
            Self::Disconnecting => "disconnecting",
            Self::Disconnected => "disconnected",
            Self::Invalid => "invalid",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
