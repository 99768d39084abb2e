//! An order's target as this agent takes it: refused when its own person did not allow it, and with the agent's own key
//! where the order brings none. What goes with that key is the agent's to say: an order that chooses plain http, or whose
//! certificates count, could have it read on the way.

use std::net::IpAddr;

use tailcliff_proto::v1;

use crate::allow::Allowed;
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
    if !config.allowed.permits(parsed.scheme(), parsed.host(), parsed.port()) {
        return Err(format!(
            "agent {} does not send load to {} by {}: its --allow-target permits {}",
            config.name,
            parsed.authority(),
            parsed.scheme(),
            config.allowed.words()
        ));
    }
    let brings_its_own = order.headers.iter().any(|header| header.name.eq_ignore_ascii_case("authorization"));
    let needs_one = order.api_key.is_empty() && !brings_its_own;
    let way = (parsed.scheme(), parsed.host(), parsed.port());
    if let Some(key) = config.api_key.as_ref().filter(|_| needs_one && is_safe(&config.allowed, order, way)) {
        key.expose().clone_into(&mut order.api_key);
    }
    Ok(())
}

/// Nobody but that host can read a key that goes this way, or this agent's person said that it may go in the clear.
fn is_safe(allowed: &Allowed, order: &v1::Target, (scheme, host, port): (&str, &str, u16)) -> bool {
    let ip = host.parse::<IpAddr>().map(|ip| ip.to_canonical());
    let is_loopback = host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback());
    let is_verified = scheme == "https" && !order.insecure && order.ca_pem.is_empty();
    is_loopback || is_verified || (scheme == "http" && allowed.names(scheme, host, port))
}

/// What a person is told at the start.
pub(crate) fn words(config: &Config) -> Vec<String> {
    if !config.allowed.is_any() {
        let mut lines = vec![format!("targets: {}", config.allowed.words())];
        if config.api_key.is_some() {
            let text = "this agent's API key goes there over https that this host's own CAs vouch for; over http to loopback, \
                        and where --allow-target says http:// itself";
            lines.push(text.to_owned());
        }
        return lines;
    }
    let mut lines = vec!["targets: any that the coordinator names; restrict with --allow-target".to_owned()];
    if config.api_key.is_some() {
        let text = "OPENAI_API_KEY is not used here: without --allow-target a coordinator could have it sent anywhere";
        lines.push(text.to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use tailcliff_proto::secret::Secret;

    use super::*;

    fn config(allowed: &[&str]) -> Config {
        let allowed = Allowed(allowed.iter().map(|rule| rule.parse().unwrap()).collect());
        Config { allowed, api_key: Some(Secret::new("own-key".to_owned())), ..Config::new("h:1") }
    }

    fn order(api_key: &str) -> v1::Target {
        let endpoint_type = v1::EndpointType::Chat as i32;
        let base_url = "http://llm.example:8000".to_owned();
        v1::Target { base_url, endpoint_type, api_key: api_key.to_owned(), ..Default::default() }
    }

    fn key_for(config: &Config, mut order: v1::Target) -> Result<String, String> {
        target(config, Some(&mut order)).map(|()| order.api_key)
    }

    #[test]
    fn the_agents_own_key_goes_to_hosts_that_were_named_alone() {
        let named = config(&["http://llm.example"]);
        assert_eq!(key_for(&named, order("")).unwrap(), "own-key");
        assert_eq!(
            key_for(&named, order("theirs")).unwrap(),
            "theirs",
            "an order's key is the one that was meant"
        );
        let header = v1::Header { name: "Authorization".to_owned(), value: "Basic x".to_owned() };
        assert_eq!(key_for(&named, v1::Target { headers: vec![header], ..order("") }).unwrap(), "");
        assert_eq!(key_for(&config(&[]), order("")).unwrap(), "", "any host may ask for it there");
        assert!(words(&config(&[])).concat().contains("not used"));
    }

    #[test]
    fn the_agents_own_key_goes_nowhere_where_others_could_read_it() {
        let config = config(&["llm.example", "127.0.0.1", "localhost", "http://vllm:8000", "https://strict"]);
        let safe = |way, insecure, ca_pem: &str| {
            let order = v1::Target { insecure, ca_pem: ca_pem.to_owned(), ..order("") };
            is_safe(&config.allowed, &order, way)
        };
        for (way, insecure, ca) in [
            (("https", "llm.example", 443), false, ""),
            (("https", "strict", 443), false, ""),
            (("http", "127.0.0.1", 8000), false, ""),
            (("http", "::ffff:127.0.0.1", 8000), false, ""),
            (("http", "localhost", 8000), false, ""),
            (("https", "127.0.0.1", 443), true, ""),
            (("http", "vllm", 8000), false, ""),
        ] {
            assert!(safe(way, insecure, ca), "{way:?}");
        }
        for (way, insecure, ca) in [
            (("http", "llm.example", 80), false, ""),
            (("https", "llm.example", 443), true, ""),
            (("https", "llm.example", 443), false, "a certificate of the order's"),
            (("https", "strict", 443), true, ""),
            (("http", "vllm", 80), false, ""),
        ] {
            assert!(!safe(way, insecure, ca), "{way:?} insecure: {insecure}, CA: {ca}");
        }
        let plain = key_for(&config, order(""));
        assert_eq!(plain.unwrap(), "", "load is permitted by any scheme, the key does not go along");
        assert!(words(&config).concat().contains("API key goes there over https"));
    }

    #[test]
    fn another_target_is_refused_in_words_without_a_key_in_them() {
        for rules in [&["other.example"][..], &["llm.example:80", "*.llm.example"], &["10.0.0.0/8"]] {
            let refused = key_for(&config(rules), order("theirs")).unwrap_err();
            assert!(refused.contains("llm.example:8000") && refused.contains(rules[0]), "{refused}");
            assert!(!refused.contains("key") && !refused.contains("theirs"), "{refused}");
        }
        // What cannot be read is not let through either.
        let odd = v1::Target { base_url: "http://llm.example@evil.test:8000".to_owned(), ..order("") };
        assert!(key_for(&config(&["llm.example"]), odd).is_err());
    }
}
