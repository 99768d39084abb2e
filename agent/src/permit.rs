//! An order's target as this agent takes it: refused when its own person did not allow it, and with the agent's own key
//! where the order brings none.

use tailcliff_proto::v1;

use crate::config::Config;
use crate::target::Target;

/// `error_kind` of a preflight for a target that this agent may not send to.
pub(crate) const ERROR_KIND: &str = "not_allowed";

/// Checks a target and gives it the agent's own key, if it needs and may have it.
pub(crate) fn target(config: &Config, order: Option<&mut v1::Target>) -> Result<(), String> {
    let Some(order) = order else { return Ok(()) };
    // With no rule there is nothing to check: what cannot be parsed is refused where it is used.
    if config.allowed.is_any() {
        return Ok(());
    }
    let parsed = Target::parse(order).map_err(|e| e.to_string())?;
    if !config.allowed.permits(parsed.host(), parsed.port()) {
        return Err(format!(
            "agent {} does not send load to {}: its --allow-target permits {}",
            config.name,
            parsed.authority(),
            config.allowed.words()
        ));
    }
    let brings_its_own = order.headers.iter().any(|header| header.name.eq_ignore_ascii_case("authorization"));
    if let Some(key) = config.api_key.as_ref().filter(|_| order.api_key.is_empty() && !brings_its_own) {
        key.expose().clone_into(&mut order.api_key);
    }
    Ok(())
}

/// What a person is told at the start.
pub(crate) fn words(config: &Config) -> Vec<String> {
    if !config.allowed.is_any() {
        return vec![format!("targets: {}", config.allowed.words())];
    }
    let mut lines = vec!["targets: any that the coordinator names; restrict with --allow-target".to_owned()];
    if config.api_key.is_some() {
        let text = "OPENAI_API_KEY is not used here: without --allow-target a coordinator could have it sent anywhere";
        lines.push(text.to_owned());
    }
    lines
}
