//! Where audit events become durable.
