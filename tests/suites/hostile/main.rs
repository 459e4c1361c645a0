//! A guest and a VMM that send what nobody should: errors where there is somebody to
//! tell, and a daemon that goes on.
//!
//! What is sent, where it is a list, is in `ferryfs_tests::hostile`, for this suite and
//! for the table of daemons side by side (`cargo xtask bench hostile`).

mod bodies;
mod departures;
mod messages;
mod requests;
mod rings;
mod scene;
mod survival;
