//! What a round of readings found.

use tailcliff_proto::v1;

/// Evidence, and what a person should be told of it.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) batch: v1::Batch,
    pub(crate) troubles: Vec<String>,
}

/// Moves the evidence of one batch behind that of another.
pub(crate) fn append(to: &mut v1::Batch, from: &mut v1::Batch) {
    to.gpu_samples.append(&mut from.gpu_samples);
    to.sensors.append(&mut from.sensors);
    to.host_samples.append(&mut from.host_samples);
    to.driver_samples.append(&mut from.driver_samples);
    to.gpm_samples.append(&mut from.gpm_samples);
    to.probe_costs.append(&mut from.probe_costs);
    to.gpu_events.append(&mut from.gpu_events);
}
