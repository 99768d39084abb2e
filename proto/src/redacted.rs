//! Wire types that carry secrets, as they may be printed.

use std::fmt;

use crate::secret::is_secret;
use crate::v1;

impl fmt::Debug for v1::Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Path and extra body may hold keys too.
        f.debug_struct("Target")
            .field("base_url", &self.base_url)
            .field("model", &self.model)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if is_secret(&self.name) { "(redacted)" } else { &self.value };
        write!(f, "{}: {value}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use crate::v1;

    #[test]
    fn orders_are_printed_without_their_secrets() {
        let header = v1::Header { name: "X-Api-Key".to_owned(), value: "hunter1".to_owned() };
        let target = v1::Target {
            api_key: "hunter2".to_owned(),
            headers: vec![header],
            path: "/v1/x?key=hunter3".to_owned(),
            extra_body_json: r#"{"token":"hunter4"}"#.to_owned(),
            base_url: "http://h:1".to_owned(),
            ..Default::default()
        };
        let order = format!("{:?}", v1::ArmLevel { target: Some(target), ..Default::default() });
        assert!(order.contains("http://h:1") && !order.contains("hunter"), "{order}");
    }
}
