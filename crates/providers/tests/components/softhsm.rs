//! SoftHSM: a PKCS#11 token in a folder.

use std::{fs, path::PathBuf, process::Command};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::Mechanism,
    object::Attribute,
    session::UserType,
};

use super::{find, not_run};

pub(crate) const PIN: &str = "98765432";

pub(crate) struct SoftHsm {
    pub(crate) module: PathBuf,
    folder: tempfile::TempDir,
}

/// A key that the token makes in itself, and never gives away. For a process that `SOFTHSM2_CONF` is told to.
pub(crate) fn make_key(module: &str, label: &str) {
    let context = Pkcs11::new(module).unwrap();
    let _ = context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    let session = context.open_rw_session(context.get_slots_with_token().unwrap()[0]).unwrap();
    session.login(UserType::User, Some(&PIN.to_owned().into())).unwrap();
    let template = [
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::ValueLen(32.into()),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
    ];
    session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
}

/// A library that plays faults.
pub(crate) struct Faulty {
    /// Of a key `KEY`.
    pub(crate) uri: String,
    /// What a process needs to meet it.
    pub(crate) variables: Vec<(&'static str, String)>,
}

impl SoftHsm {
    /// A token `keyfold`, without keys yet.
    pub(crate) fn start() -> Option<Self> {
        let module = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"]
            .map(PathBuf::from)
            .into_iter()
            .find(|path| path.exists());
        let (Some(module), Some(util)) = (module, find("softhsm2-util")) else { return not_run("SoftHSM") };
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tokens")).unwrap();
        let config = format!("directories.tokendir = {}\nlog.level = ERROR\n", folder.path().join("tokens").display());
        fs::write(folder.path().join("softhsm2.conf"), config).unwrap();
        let hsm = Self { module, folder };
        let made = Command::new(util)
            .args(["--init-token", "--free", "--label", "keyfold", "--so-pin", "12345678", "--pin", PIN])
            .env("SOFTHSM2_CONF", hsm.config())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        Some(hsm)
    }

    /// What `SOFTHSM2_CONF` must say.
    pub(crate) fn config(&self) -> String {
        self.folder.path().join("softhsm2.conf").display().to_string()
    }

    /// Puts a library in front of SoftHSM's that plays the faults which SoftHSM has not (`faulty_token.c`); gives what a
    /// process needs to meet it. What is to fail is written to the file that `KEYFOLD_TEST_FAULTS` names.
    pub(crate) fn faulty(&self) -> Option<Faulty> {
        let Some(compiler) = find("cc") else { return not_run("a C compiler") };
        let module = self.folder.path().join("faulty.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../providers/tests/components/faulty_token.c");
        let made = Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(&module).args([source, "-ldl"]).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{made:?}");
        let (module, faults) = (module.display().to_string(), self.folder.path().join("faults").display().to_string());
        let behind = self.module.display().to_string();
        let variables = vec![("KEYFOLD_TEST_MODULE", behind), ("KEYFOLD_TEST_FAULTS", faults)];
        Some(Faulty { uri: format!("pkcs11:token=keyfold;object=KEY?module-path={module}"), variables })
    }

    pub(crate) fn uri(&self, object: &str) -> String {
        format!("pkcs11:token=keyfold;object={object}?module-path={}", self.module.display())
    }
}
