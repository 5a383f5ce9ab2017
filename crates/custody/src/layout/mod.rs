//! How records map to what is really stored.
