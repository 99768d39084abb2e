//! The server's inside view: what each request's time in the server was, by the server's own spans, stamps or reply, laid
//! on the client's stamps; and what the server's metrics say of a level. Pure: the same journal gives the same.
//!
//! A request's time is cut where stamps are: by the agent's clock up to the send and from the first byte in its socket on, by
//! the server's in between. What lies between two clocks, the ways up and down, is known to within both conversions; a part
//! that comes out below zero is shown so, and counted where no bound explains it.

pub mod figures;
pub mod joined;

pub use figures::{Cross, How, LevelInside, Part, PartFigures, Parts, ServerLevel, Source, Summary};
pub use joined::{Joined, each_joined};
