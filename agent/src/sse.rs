//! Incremental parser of server-sent events, whatever the split.
