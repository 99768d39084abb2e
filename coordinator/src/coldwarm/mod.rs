//! `tailcliff coldwarm`: what a restart costs before the first token, and why (MISSION C).

pub mod diagnose;
pub mod evidence;
