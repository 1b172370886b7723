//! Bounds and times.

use core::time::Duration;

/// How often to sweep. Defaults are the reference's (datapath facts, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Time between sweeps whatever they find (`--conntrack-gc-interval`); `None`: adapted to what they find.
    pub fixed: Option<Duration>,
    /// Time until the first sweep, where it is adapted.
    pub first: Duration,
    /// Never more often than this.
    pub shortest: Duration,
    /// Never less often than this (`--conntrack-gc-max-interval`).
    pub longest: Duration,
    /// How long departures are gathered before they are swept together.
    pub gather: Duration,
    /// Rest between two sweeps, unless somebody asks for one.
    pub rest: Duration,
    /// Addresses that wait for a sweep at most; then it is due at once.
    pub addresses_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            fixed: None,
            first: Duration::from_mins(5),
            shortest: Duration::from_secs(10),
            longest: Duration::from_hours(12),
            gather: Duration::from_secs(1),
            rest: Duration::from_secs(10),
            addresses_max: 4096,
        }
    }
}

/// Why times are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A sweep would follow on a sweep.
    #[error("the time between sweeps must be at least 1s")]
    TooShort,
    /// The bounds cross.
    #[error("the longest time between sweeps is below the shortest, {}s", shortest.as_secs())]
    Crossed {
        /// The shortest.
        shortest: Duration,
    },
    /// Nothing could wait.
    #[error("at least one address must be able to wait for a sweep")]
    NoRoom,
}

/// A configuration that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked(Config);

impl Checked {
    pub(crate) const fn get(&self) -> Config {
        self.0
    }
}

impl Config {
    /// Looks whether it makes sense.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn validate(self) -> Result<Checked, ConfigError> {
        let least = Duration::from_secs(1);
        if self.fixed.is_some_and(|fixed| fixed < least) || self.shortest < least || self.first < least {
            return Err(ConfigError::TooShort);
        }
        if self.longest < self.shortest {
            return Err(ConfigError::Crossed { shortest: self.shortest });
        }
        if self.addresses_max == 0 {
            return Err(ConfigError::NoRoom);
        }
        Ok(Checked(self))
    }
}
