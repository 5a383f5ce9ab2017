//! Root keys: the keys that wrap a keyring.
