//! What a card answers: a reading that it refuses is not asked again, and said once; one that fails now and then is said
//! once and asked again; one that says the card is gone ends the reading of this card.

use nvml_wrapper::error::NvmlError;
use tailcliff_proto::v1;

/// Everything that is asked of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    PowerInstant,
    PowerAverage,
    /// The plain call, where the field is refused.
    PowerUsage,
    EnergyField,
    EnergyCall,
    Utilisation,
    SmClock,
    Throttle,
    MemClock,
    Memory,
    Temperature,
    PowerSamples,
    UtilSamples,
    MemUtilSamples,
    Gpm,
    Xids,
}

const READINGS: [(Reading, &str); 16] = [
    (Reading::PowerInstant, "instant power (field 186)"),
    (Reading::PowerAverage, "average power (field 185)"),
    (Reading::PowerUsage, "plain power"),
    (Reading::EnergyField, "the energy counter (field 83)"),
    (Reading::EnergyCall, "the energy counter"),
    (Reading::Utilisation, "utilisation"),
    (Reading::SmClock, "the SM clock"),
    (Reading::Throttle, "throttle reasons"),
    (Reading::MemClock, "the memory clock"),
    (Reading::Memory, "memory use"),
    (Reading::Temperature, "temperature"),
    (Reading::PowerSamples, "the driver's power samples"),
    (Reading::UtilSamples, "the driver's utilisation samples"),
    (Reading::MemUtilSamples, "the driver's memory utilisation samples"),
    (Reading::Gpm, "GPM (activity of SMs, tensor cores, DRAM, PCIe, NVLink)"),
    (Reading::Xids, "XID errors"),
];

/// Why a reading is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// By this card or its driver.
    NotSupported,
    /// By the driver, to this user.
    NoPermission,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Answers,
    FailedOnce,
    Refused(Refusal),
}

/// A card, or the whole library, answers nothing any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Loss {
    /// NVML's.
    pub(crate) code: u64,
    text: String,
}

impl Loss {
    /// What an error says of the card's being there.
    pub(crate) fn of(error: &NvmlError) -> Option<Self> {
        let code = match error {
            NvmlError::GpuLost => 15,
            NvmlError::ResetRequired => 16,
            NvmlError::Uninitialized => 1,
            _ => return None,
        };
        Some(Self { code, text: error.to_string() })
    }

    /// Of a card that cannot even be opened.
    pub(crate) fn whatever(error: &NvmlError) -> Self {
        Self::of(error).unwrap_or_else(|| Self { code: 999, text: error.to_string() })
    }
}

/// What one card answered so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers {
    states: [State; READINGS.len()],
    news: Vec<News>,
}

/// What a card did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) text: String,
    /// Set when it is not asked again: the signal that is missing, and why.
    pub(crate) refused: Option<(v1::Signal, &'static str)>,
}

impl Reading {
    fn name(self) -> &'static str {
        READINGS[self as usize].1
    }

    /// The signal that it gives, alone or with a call that stands in for it.
    fn signal(self) -> Option<v1::Signal> {
        Some(match self {
            Self::PowerInstant => v1::Signal::PowerInstant,
            Self::PowerAverage | Self::PowerUsage => v1::Signal::PowerAverage,
            Self::EnergyField | Self::EnergyCall => v1::Signal::Energy,
            Self::Utilisation => v1::Signal::GpuUtil,
            Self::SmClock => v1::Signal::SmClock,
            Self::Throttle => v1::Signal::Throttle,
            Self::MemClock => v1::Signal::MemClock,
            Self::Memory => v1::Signal::MemUsed,
            Self::Temperature => v1::Signal::Temperature,
            Self::PowerSamples => v1::Signal::PowerSamples,
            Self::UtilSamples => v1::Signal::GpuUtilSamples,
            Self::MemUtilSamples => v1::Signal::MemUtilSamples,
            Self::Gpm => v1::Signal::Gpm,
            Self::Xids => return None,
        })
    }
}

impl Refusal {
    fn words(self) -> &'static str {
        match self {
            Self::NotSupported => "not supported",
            Self::NoPermission => "permission denied",
        }
    }
}

impl Answers {
    /// Makes a reading, unless it was refused before; `None` also when it fails this once.
    ///
    /// # Errors
    /// When the card answers nothing any more.
    pub(crate) fn ask<T>(
        &mut self,
        reading: Reading,
        read: impl FnOnce() -> Result<T, NvmlError>,
    ) -> Result<Option<T>, Loss> {
        if self.refuses(reading) {
            return Ok(None);
        }
        match read() {
            Ok(value) => Ok(Some(value)),
            Err(error) => self.fails(reading, &error).map(|()| None),
        }
    }

    pub(crate) fn refuses(&self, reading: Reading) -> bool {
        self.refusal(reading).is_some()
    }

    /// Takes note of a failure.
    ///
    /// # Errors
    /// When the card answers nothing any more.
    pub(crate) fn fails(&mut self, reading: Reading, error: &NvmlError) -> Result<(), Loss> {
        if let Some(loss) = Loss::of(error) {
            return Err(loss);
        }
        let state = &mut self.states[reading as usize];
        match refusal(error) {
            Some(why) => {
                *state = State::Refused(why);
                let text = format!("{}: {}", reading.name(), why.words());
                // What another call still stands in for is not missing.
                let refused = self.missing(reading).then(|| reading.signal()).flatten();
                self.news.push(News { text, refused: refused.map(|signal| (signal, why.words())) });
            }
            None if *state == State::Answers => {
                *state = State::FailedOnce;
                let text = format!("failed to read {}, which is tried again: {error}", reading.name());
                self.news.push(News { text, refused: None });
            }
            None => {}
        }
        Ok(())
    }

    /// What became known since the last call, in words.
    pub(crate) fn news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// A failure that nobody was told of is news when it happens again.
    pub(crate) fn forget_failures(&mut self) {
        self.news.clear();
        for state in self.states.iter_mut().filter(|state| **state == State::FailedOnce) {
            *state = State::Answers;
        }
    }

    /// Every signal that is not read, and why.
    pub(crate) fn refused_signals(&self) -> Vec<(v1::Signal, &'static str)> {
        let missing = READINGS.iter().filter(|(reading, _)| self.missing(*reading));
        missing
            .filter_map(|&(reading, _)| Some((reading.signal()?, self.refusal(reading)?.words())))
            .collect()
    }

    fn refusal(&self, reading: Reading) -> Option<Refusal> {
        match self.states[reading as usize] {
            State::Refused(why) => Some(why),
            _ => None,
        }
    }

    /// Refused, and nothing stands in for it.
    fn missing(&self, reading: Reading) -> bool {
        let stand_in = match reading {
            Reading::PowerAverage => Some(Reading::PowerUsage),
            Reading::EnergyField => Some(Reading::EnergyCall),
            _ => None,
        };
        self.refuses(reading) && stand_in.is_none_or(|other| self.refuses(other))
    }

    /// What is refused and what that means, for the notes about a card.
    pub(crate) fn notes(&self) -> Vec<String> {
        let missing = READINGS.iter().filter(|(reading, _)| self.missing(*reading));
        let noted = missing.filter_map(|&(reading, name)| Some((reading, name, self.refusal(reading)?)));
        let text = |(reading, name, why): (Reading, &str, Refusal)| {
            let means = match (reading, why) {
                (Reading::PowerInstant, _) => ": only the averaged reading is there",
                (_, Refusal::NoPermission) => ": run the probe as a user whom the driver lets read it",
                _ => "",
            };
            format!("{name} is not read, {}{means}", why.words())
        };
        noted.map(text).collect()
    }
}

/// Why this will never be answered; `None` when it may be.
fn refusal(error: &NvmlError) -> Option<Refusal> {
    match error {
        NvmlError::NoPermission => Some(Refusal::NoPermission),
        NvmlError::NotSupported | NvmlError::InvalidArg => Some(Refusal::NotSupported),
        NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => Some(Refusal::NotSupported),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reading_stands_in_its_own_place() {
        for (i, (reading, _)) in READINGS.iter().enumerate() {
            assert_eq!(*reading as usize, i);
        }
    }

    #[test]
    fn a_refusal_is_said_once_a_failure_is_said_once_and_a_loss_ends_it() {
        let mut answers = Answers::default();
        let mut asked = 0;
        for _ in 0..3 {
            let got: Result<Option<u32>, _> = answers.ask(Reading::EnergyField, || {
                asked += 1;
                Err(NvmlError::NoPermission)
            });
            assert!(matches!(got, Ok(None)));
        }
        assert_eq!(asked, 1);
        let news = answers.news();
        assert_eq!(news.len(), 1);
        assert_eq!(news[0].text, "the energy counter (field 83): permission denied");
        // The plain call may still answer.
        assert_eq!(news[0].refused, None);
        for _ in 0..3 {
            let failed: Result<Option<u32>, _> = answers.ask(Reading::Memory, || Err(NvmlError::Unknown));
            assert!(matches!(failed, Ok(None)));
        }
        assert_eq!(answers.news().len(), 1);
        assert!(matches!(answers.ask(Reading::Memory, || Ok(5)), Ok(Some(5))));
        let lost: Result<Option<u32>, _> = answers.ask(Reading::Memory, || Err(NvmlError::GpuLost));
        assert_eq!(lost.unwrap_err().code, 15);
    }

    #[test]
    fn what_another_call_stands_in_for_is_no_note() {
        let mut answers = Answers::default();
        for reading in [Reading::EnergyField, Reading::PowerAverage, Reading::Gpm] {
            answers.fails(reading, &NvmlError::NotSupported).unwrap();
        }
        assert_eq!(answers.notes().len(), 1, "{:?}", answers.notes());
        answers.fails(Reading::EnergyCall, &NvmlError::NoPermission).unwrap();
        assert!(answers.notes().iter().any(|note| note.contains("permission denied")));
    }
}
