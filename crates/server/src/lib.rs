//! The HTTP service of Keyfold. HTTP lives in this crate and nowhere else; the service itself is not built yet.
