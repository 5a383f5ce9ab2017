//! The Python module of Keyfold. Not built yet: the crate holds its place below the command line and above the core.
