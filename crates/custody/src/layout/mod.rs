//! How records map to what is really stored.
//!
//! A stored document is JSON text of which some members are secret. [`path`] says which, [`json`] finds them and puts
//! other values in their place without touching any other byte, and [`look`] tells what looks secret and is not declared.

pub mod documents;
pub mod json;
pub mod look;
pub mod path;
pub mod place;
