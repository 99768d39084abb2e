//! The server's inside view: what each request's time in the server was, by the server's own spans, stamps or reply, laid
//! on the client's stamps; and what the server's metrics say of a level. Pure: the same journal gives the same.
//!
//! A request's time is cut where stamps are: by the agent's clock up to the send and from the first byte in its socket on, by
//! the server's in between. What lies between two clocks, the ways up and down, is known to within both conversions; a part
//! that comes out below zero is shown so, and counted where no bound explains it.

mod chosen;
mod cross;
pub mod figures;
mod index;
mod join;
mod joined;
mod levels;
pub(crate) mod metrics;
mod order;
mod placed;
mod scraped;
mod series;
mod stream;
mod summary;
mod told;
mod wall;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_levels;
#[cfg(test)]
mod tests_metrics;

pub use figures::{Cross, How, LevelInside, Part, PartFigures, Parts, ServerLevel, Source, Summary};
pub(crate) use index::Index;
pub use joined::{Joined, each_joined};
pub(crate) use levels::Gather;
pub(crate) use order::rising;
pub use placed::Told;
pub(crate) use placed::told;
pub(crate) use series::moment;
pub(crate) use summary::summary;
