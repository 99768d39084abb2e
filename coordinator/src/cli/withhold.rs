//! What does not go over a network in the clear: keys that agents can have by another way are kept back, and a run whose
//! orders cannot do without theirs is refused.

use tailcliff_proto::secret::is_secret;
use tailcliff_proto::v1;

use crate::drive::RunError;
use crate::redact::{secret_fields, secret_parameters};

/// Path and body are what is measured: without their keys they would be other ones.
pub(super) fn refuse(target: &v1::Target) -> Result<(), RunError> {
    let body = serde_json::from_str(&target.extra_body_json).unwrap_or_default();
    let of = |flag: &'static str| move |name: String| format!("{name} of {flag}");
    let path = secret_parameters(&target.path).into_iter().map(of("--endpoint"));
    let named: Vec<_> = path.chain(secret_fields(&body).into_iter().map(of("--extra-body"))).collect();
    if named.is_empty() { Ok(()) } else { Err(RunError::InTheClear(named.join(", "))) }
}

/// Takes out of the orders what must not go over a network in the clear; says so when there was something.
pub(super) fn withhold(target: &mut v1::Target) -> Option<String> {
    let key = !std::mem::take(&mut target.api_key).is_empty();
    let (secret, open): (Vec<_>, Vec<_>) =
        std::mem::take(&mut target.headers).into_iter().partition(|header| is_secret(&header.name));
    target.headers = open;
    let named =
        key.then_some("the API key").into_iter().chain(secret.iter().map(|header| header.name.as_str()));
    let named = named.collect::<Vec<_>>().join(", ");
    (!named.is_empty()).then(|| {
        format!(
            "agents are not sent {named}, since the link is not encrypted: give --tls-dir, or a key at each agent \
             (OPENAI_API_KEY or --api-key-file, with --allow-target)"
        )
    })
}
