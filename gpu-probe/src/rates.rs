//! How often each slow signal is read. A fast one is read at the probe's interval.

use std::time::Duration;

/// Intervals of what takes milliseconds to read; where all of it takes more than its share of a core, what takes most of
/// that is read less often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// The energy counter: 3 ms of CPU a call on an H100, where it steps each 100 ms.
    pub energy: Duration,
    /// The driver's own power samples, of which it keeps seconds.
    pub power_samples: Duration,
    /// The same of utilisation.
    pub util_samples: Duration,
    /// Performance counters: 10 ms of CPU a pair on an H100; pairs closer than 100 ms are not valid.
    pub gpm: Duration,
    /// Memory, memory clock, temperature.
    pub levels: Duration,
    /// XID errors.
    pub xids: Duration,
    /// Lost cards are tried again.
    pub lost: Duration,
    /// What /proc tells of the host.
    pub host: Duration,
}

impl Default for Rates {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            energy: ms(100),
            power_samples: ms(250),
            util_samples: ms(1_000),
            gpm: ms(500),
            levels: ms(250),
            xids: ms(250),
            lost: ms(3_000),
            host: ms(200),
        }
    }
}
