//! The checks that every implementation of the storage traits passes.
