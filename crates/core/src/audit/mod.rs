//! Who did what to which record under which key: events, the chain over them, and the verdict on a chain.
