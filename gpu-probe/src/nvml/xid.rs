//! XID errors, as the driver tells them: a set of events for each card, asked without waiting.

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::device::Device;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use tailcliff_proto::clock::HostClock;
use tailcliff_proto::v1;

use super::answers::{Answers, Loss, Reading};

/// Events taken at one look.
const MOST: usize = 16;
/// Numbers that NVIDIA's list of XIDs explains, of those that stop or slow a server.
const WORDS: [(u64, &str); 13] = [
    (13, "graphics engine exception: most often a fault of the program"),
    (31, "GPU memory page fault: most often a fault of the program"),
    (43, "GPU stopped processing: a fault of the program"),
    (45, "preemptive cleanup after earlier errors"),
    (48, "double-bit ECC error"),
    (63, "ECC page retirement or row remapping"),
    (64, "ECC page retirement or row remapping failed"),
    (74, "NVLink error"),
    (79, "GPU has fallen off the bus"),
    (94, "contained ECC error"),
    (95, "uncontained ECC error"),
    (119, "GSP RPC timeout"),
    (120, "GSP error"),
];

/// The set of one card; none where it tells no XIDs.
#[derive(Debug, Default)]
pub(crate) struct Xids<'n> {
    set: Option<EventSet<'n>>,
}

/// A set that hears of a card's XIDs.
pub(crate) fn listen<'n>(nvml: &'n Nvml, device: &Device<'n>) -> Result<EventSet<'n>, NvmlError> {
    let kinds = EventTypes::CRITICAL_XID_ERROR;
    device.register_events(kinds, nvml.create_event_set()?).map_err(|failed| failed.error)
}

impl<'n> Xids<'n> {
    /// What has happened since the last look; stamped when it is found.
    ///
    /// # Errors
    /// When the card is gone.
    pub(crate) fn read(
        &mut self,
        nvml: &'n Nvml,
        gpu: u32,
        device: &Device<'n>,
        answers: &mut Answers,
    ) -> Result<Vec<v1::GpuEvent>, Loss> {
        if self.set.is_none() {
            self.set = answers.ask(Reading::Xids, || listen(nvml, device))?;
        }
        let Some(set) = &self.set else { return Ok(Vec::new()) };
        let mut events = Vec::new();
        while events.len() < MOST {
            let wait = || match set.wait(0) {
                Err(NvmlError::Timeout) => Ok(None),
                other => other.map(Some),
            };
            match answers.ask(Reading::Xids, wait)?.flatten() {
                Some(event) => events.extend(event.event_data.map(|xid| told(gpu, xid))),
                None => break,
            }
        }
        Ok(events)
    }
}

fn told(gpu: u32, xid: XidError) -> v1::GpuEvent {
    let code = match xid {
        XidError::Value(code) => code,
        XidError::Unknown => 999,
    };
    let words = WORDS.iter().find(|(known, _)| *known == code);
    let text = words.map_or("see NVIDIA's list of XID errors", |(_, words)| words).to_owned();
    v1::GpuEvent { raw_ns: HostClock.now(), gpu, kind: "xid".to_owned(), code, text }
}
