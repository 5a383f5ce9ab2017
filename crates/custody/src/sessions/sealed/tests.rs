use keyfold_core::secret::Key32;

use super::*;
use crate::sessions::testing::{NOW, keyring, person};

fn head() -> Head {
    Head {
        session: SessionId::new(person("alice").id()).unwrap(),
        kind: Kind::Handle,
        until: UnixTime(NOW),
        expires: UnixTime(NOW),
        generation: 3,
        agent: None,
        destinations: None,
        methods: None,
    }
}

#[test]
fn a_fernet_token_without_its_binding_or_with_another_places_does_not_open() {
    let keyring = keyring(1);
    let (person, other) = (person("alice"), person("mallory"));
    let at =
        |person| At { deployment: "d", person, record: "r", field: "/access_token", holder: "h" }.digest().unwrap();
    let (mine, theirs) = (at(&person), at(&other));
    let token = Secret::from("ya29.a".to_owned());
    let head = head();
    let sealed = seal(&keyring, Format::Fernet, &mine, (&head, &token), UnixTime(NOW)).unwrap();
    let (opened, secret) = open(&keyring, &sealed, &mine).unwrap();
    assert_eq!((&opened, secret.expose()), (&head, token.expose()));
    let unbound = Sealed { bound: None, ..sealed.clone() };
    assert_eq!(open(&keyring, &unbound, &mine).map(|_| ()), Err(Reason::Tampered));
    assert_eq!(open(&keyring, &sealed, &theirs).map(|_| ()), Err(Reason::Tampered));
    // A kf1 envelope under a Fernet token's binding, and the other way round.
    let kf1 = seal(&keyring, Format::Kf1, &mine, (&head, &token), UnixTime(NOW)).unwrap();
    let mixed = Sealed { bound: sealed.bound, ..kf1 };
    assert_eq!(open(&keyring, &mixed, &mine).map(|_| ()), Err(Reason::Tampered));
}

#[test]
fn plaintext_and_v1_are_never_taken_for_a_sealed_token() {
    let keyring = keyring(1);
    let digest = Context::empty().digest();
    let key = keyfold_core::keyring::MasterKey::new(Key32::new([1; 32])).unwrap();
    let v1 = keyfold_core::envelope::redis_sre_v1::seal(&key, &SystemRandom, b"{}\nx").unwrap();
    for text in ["{}\nya29.a", "", &v1] {
        let sealed = Sealed { text: text.into(), bound: None };
        assert_eq!(open(&keyring, &sealed, &digest).map(|_| ()), Err(Reason::Tampered));
    }
}

#[test]
fn a_token_is_what_a_header_can_carry() {
    for good in ["ya29.A-b_c~d+/=", "x"] {
        assert!(is_token(good.as_bytes()));
    }
    for bad in ["", " ", "a b", "a\nb", "a\"b", "a\\b", "ä", &"x".repeat(MAX_TOKEN + 1)] {
        assert!(!is_token(bad.as_bytes()), "{bad}");
    }
}
