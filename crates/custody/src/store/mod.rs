//! The traits that storage implements.
