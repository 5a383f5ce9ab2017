//! Runs commands and looks for secrets in everything that they print, store or show.

use std::{cell::RefCell, collections::BTreeSet, fs};

use keyfold_providers::KeyUri;

use super::{
    Call, Ended,
    folder::{Data, files, instances},
    needles::Needles,
};

/// In documents.
pub(crate) const PASSWORD: &str = "Tr0ub4dor&3-in-a-document";
/// In documents that nothing accepts.
pub(crate) const REFUSED: &str = "Sw0rdfish-that-nobody-took";
/// On stdin.
pub(crate) const TYPED: &str = "0pen-sesame-on-stdin";
/// Where a key should be.
pub(crate) const NOT_A_KEY: &str = "n0t-a-key-but-a-passphrase";
/// In a configuration that is none.
pub(crate) const MISPLACED: &str = "m1splaced-in-the-config";

/// Everything that is run, and what must not show.
pub(crate) struct Watch {
    pub(crate) data: Data,
    pub(crate) needles: Needles,
    pub(crate) ran: RefCell<BTreeSet<String>>,
}

impl Watch {
    /// Runs a call quietly, loudly, and for programs. `shows` names the one secret that stdout is there to show.
    pub(crate) fn run(&self, shows: Option<&str>, call: impl Fn() -> Call) -> Ended {
        self.once(shows, call().arg("-vvv").env("KEYFOLD_LOG", "trace"));
        self.once(shows, call().arg("-vv").arg("--json"));
        self.once(shows, call())
    }

    /// As [`Watch::run`], for what can be done once only.
    pub(crate) fn once(&self, shows: Option<&str>, call: Call) -> Ended {
        let (name, listed, ended) = call.watched();
        self.clean(&format!("/proc/PID/cmdline of {name}"), &listed, None);
        self.clean(&format!("stdout of {name}"), &ended.stdout, shows);
        self.clean(&format!("stderr of {name}"), ended.stderr.as_bytes(), None);
        let words = name.split(' ').filter(|word| !word.starts_with('-')).take(2);
        self.ran.borrow_mut().extend(words.scan(String::new(), |path, word| {
            *path = format!("{path} {word}").trim().to_owned();
            Some(path.clone())
        }));
        ended
    }

    #[track_caller]
    pub(crate) fn clean(&self, place: &str, bytes: &[u8], but: Option<&str>) {
        if let Some(found) = self.needles.find(bytes, but) {
            panic!("{found} in {place}");
        }
    }

    /// The data folder, all of it but the root key and the configuration that the test wrote.
    pub(crate) fn files(&self) {
        for path in files(self.data.path()) {
            let name = path.file_name().unwrap();
            if name != "root.key" && name != "keyfold.toml" {
                self.clean(&path.display().to_string(), &fs::read(&path).unwrap(), None);
            }
        }
    }

    pub(crate) fn call(&self, arguments: &str) -> Call {
        self.data.call(arguments)
    }
}

/// A folder with secrets in it, and everything that is secret about it.
pub(crate) fn watch() -> Watch {
    let config = instances("accept = [\"kf1\", \"v1\", \"fernet\", { format = \"plaintext\", until = 2999-01-01 }]");
    let data = Data::new(&config);
    data.put("r1", &format!("{{\"admin_password\":\"{PASSWORD}\",\"connection_url\":\"redis://u:{PASSWORD}@h\"}}"));
    let mut needles = Needles::default();
    for (name, secret) in [
        ("password", PASSWORD),
        ("refused", REFUSED),
        ("typed", TYPED),
        ("not a key", NOT_A_KEY),
        ("misplaced", MISPLACED),
    ] {
        needles.add(name, secret.as_bytes());
    }
    for (name, byte) in [("master", 1), ("other master", 2), ("fernet", 3), ("other fernet", 4)] {
        needles.add(name, &[byte; 32]);
    }
    let watch = Watch { data, needles, ran: RefCell::default() };
    watch.with_keys()
}

impl Watch {
    /// Also what is secret in the keyring as it is now.
    pub(crate) fn with_keys(mut self) -> Self {
        let text = fs::read_to_string(self.data.file("root.key")).unwrap();
        let raw = base64_simd::STANDARD.decode_to_vec(text.trim()).unwrap();
        self.needles.add("root key", &raw);
        let root = keyfold_providers::open(&KeyUri::File(self.data.file("root.key"))).unwrap();
        let document = self.data.document();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let keyring = runtime.block_on(keyfold_core::keyring::document::open(&root, &document, 0)).unwrap();
        self.needles.add("audit seed", keyring.audit_seed().unwrap().expose());
        for entry in keyring.entries() {
            self.needles.add(&format!("key {}", entry.kid()), entry.material().raw().expose());
        }
        self
    }
}
