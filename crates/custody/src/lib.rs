//! Records, jobs, stores and the audit log of Keyfold: the use cases between the sealing core and the interfaces.

pub mod audit_log;
pub mod layout;
pub mod store;
