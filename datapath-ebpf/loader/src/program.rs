//! The programs by name.

use std::{fmt, str::FromStr};

/// A program of the datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// Packets that leave a pod: ingress of the host side of its veth pair.
    FromContainer,
    /// Packets to a pod: egress of the host side of its veth pair.
    ToContainer,
    /// Packets that leave the host: egress of `cilium_host`.
    FromHost,
    /// Packets to the host: ingress of `cilium_host`, and of `cilium_net`.
    ToHost,
    /// Packets from the network: ingress of a network device.
    FromNetdev,
    /// Packets to the network: egress of a network device.
    ToNetdev,
}

impl Program {
    /// Every program.
    pub const ALL: [Self; 6] =
        [Self::FromContainer, Self::ToContainer, Self::FromHost, Self::ToHost, Self::FromNetdev, Self::ToNetdev];

    /// Its name in the object file and in the kernel (which keeps 15 bytes of it).
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromContainer => "cil_from_container",
            Self::ToContainer => "cil_to_container",
            Self::FromHost => "cil_from_host",
            Self::ToHost => "cil_to_host",
            Self::FromNetdev => "cil_from_netdev",
            Self::ToNetdev => "cil_to_netdev",
        }
    }

    /// The part of the name the kernel keeps.
    pub(crate) fn kernel_name(self) -> &'static str {
        let name = self.name();
        name.get(..15).unwrap_or(name)
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No program has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no program named {name:?}")]
pub struct UnknownProgram {
    /// The name given.
    pub name: String,
}

impl FromStr for Program {
    type Err = UnknownProgram;
    fn from_str(name: &str) -> Result<Self, UnknownProgram> {
        Self::ALL.into_iter().find(|p| p.name() == name).ok_or_else(|| UnknownProgram { name: name.to_owned() })
    }
}
