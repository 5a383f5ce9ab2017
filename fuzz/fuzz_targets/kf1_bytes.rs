//! A kf1 envelope in bytes: what is taken has one spelling, and a stranger's never opens.
#![no_main]

use keyfold_core::{
    context::Context,
    envelope::kf1::{self, Envelope},
    keyring::MasterKey,
    secret::Key32,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(envelope) = Envelope::from_bytes(bytes.to_vec()) else { return };
    assert_eq!(envelope.as_bytes(), bytes);
    assert_eq!(envelope.secret_len() + kf1::OVERHEAD, bytes.len());
    assert!(Envelope::from_text(&envelope.to_text()).is_ok_and(|again| again == envelope));
    let key = MasterKey::new(Key32::new([7; 32])).expect("32 bytes");
    assert!(kf1::open(&key, &envelope, &Context::empty().digest()).is_err());
});
