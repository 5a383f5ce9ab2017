//! File, environment and recovery key.

use keyfold_core::root::RootKey;
use keyfold_providers::{KeyUri, RecoveryKey, create_file, open};

use crate::{
    components::{in_child, is_child, told},
    suite,
};

#[tokio::test]
async fn a_key_file_meets_the_suite() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let path = folder.path().join(name);
        create_file(&path).unwrap();
        open(&KeyUri::File(path)).unwrap()
    };
    suite::run(&make("one"), &make("two")).await;
}

#[tokio::test]
async fn a_recovery_key_meets_the_suite() {
    let make = || RecoveryKey::generate().unwrap().into_root().unwrap();
    suite::run(&make(), &make()).await;
}

#[tokio::test]
async fn a_key_in_the_environment_meets_the_suite() {
    const NAME: &str = "local::a_key_in_the_environment_meets_the_suite";
    if !is_child(NAME) {
        let key = |byte: u8| keyfold_core::keyring::master_to_text(&keyfold_core::secret::Key32::new([byte; 32]));
        in_child(NAME, &[("ROOT_ONE", &key(1)), ("ROOT_TWO", &key(2))]);
        return;
    }
    assert!(!told("ROOT_ONE").is_empty());
    let root = |name: &str| open(&format!("env:{name}").parse().unwrap());
    suite::run(&root("ROOT_ONE").unwrap(), &root("ROOT_TWO").unwrap()).await;
    let missing = root("ROOT_THREE").err().unwrap();
    assert!(missing.to_string().contains("not set"), "{missing}");
    assert_eq!(root("ROOT_ONE").unwrap().uri(), "env:ROOT_ONE");
}
