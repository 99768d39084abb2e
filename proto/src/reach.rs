//! On the way into a run: dials, says hello, and is welcomed, refused, or told that there is no place yet.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::link::{ControlLink, LinkError, Route, dial_telling, join};
use crate::v1;

/// A coordinator that took the connection answers hello in this time.
const WELCOME_PATIENCE: Duration = Duration::from_secs(10);
/// How long a place is asked for that another node has: of one that died with its host, the coordinator learns in two
/// leases.
const PLACE_PATIENCE: Duration = Duration::from_secs(20);
const PLACE_PAUSE: Duration = Duration::from_secs(1);
/// Between two hellos that came to nothing.
const REJOIN_PAUSE: Duration = Duration::from_millis(200);

/// Dials and says hello until welcomed; what a person should know goes to `tell`.
///
/// # Errors
/// When refused, told to stop, or the address makes no sense; when the place stays taken.
pub async fn reach(
    route: &Route,
    hello: &v1::Hello,
    shutdown: &CancellationToken,
    tell: fn(&str),
) -> Result<ControlLink, LinkError> {
    let mut told = false;
    let mut full_since = None;
    loop {
        let channel = match full_since {
            None => dial_telling(route, shutdown, tell).await?,
            // Without a place in the run, its end is no reason to wait for another.
            Some((since, ref why)) => {
                let dialled = dial_telling(route, shutdown, tell);
                tokio::time::timeout_at(since + PLACE_PATIENCE, dialled)
                    .await
                    .unwrap_or_else(|_| Err(LinkError::Refused(String::clone(why))))?
            }
        };
        match tokio::time::timeout(WELCOME_PATIENCE, join(channel, hello.clone())).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(LinkError::Broken(_))) | Err(_) => {
                if !std::mem::replace(&mut told, true) {
                    tell(&format!("{route} answers, but not as a coordinator would; is the port right?"));
                }
                tokio::time::sleep(REJOIN_PAUSE).await;
            }
            Ok(Err(LinkError::Full(why))) => {
                if full_since.is_none() {
                    tell(&format!("{why}; asking again for {} s", PLACE_PATIENCE.as_secs()));
                }
                let (since, _) = full_since.get_or_insert_with(|| (Instant::now(), why.clone()));
                if since.elapsed() > PLACE_PATIENCE {
                    return Err(LinkError::Refused(why));
                }
                tokio::time::sleep(PLACE_PAUSE).await;
            }
            Ok(Err(fatal)) => return Err(fatal),
        }
    }
}
