//! Dependencies point downward. This holds the directions that `docs/design.md` draws, as cargo itself resolves them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What each crate of the workspace may name in its manifest, of the workspace. A new crate needs a line here.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("keyfold-core", &[]),
    ("keyfold-providers", &["keyfold-core"]),
    ("keyfold-custody", &["keyfold-core"]),
    ("keyfold-server", &["keyfold-core", "keyfold-custody"]),
    ("keyfold-python", &["keyfold-core", "keyfold-providers"]),
    ("keyfold", &["keyfold-core", "keyfold-providers", "keyfold-custody", "keyfold-server"]),
];

/// A runtime, a socket, a file or a clock comes with any of these.
const NOT_IN_THE_CORE: &[&str] = &[
    "async-io",
    "async-std",
    "axum",
    "hyper",
    "libsqlite3-sys",
    "mio",
    "redis",
    "reqwest",
    "rusqlite",
    "rustls",
    "smol",
    "socket2",
    "sqlx",
    "sqlx-core",
    "tokio",
    "tracing-subscriber",
];

/// A second cryptographic or TLS library, however deep in the tree.
const NOWHERE: &[&str] = &["boring", "native-tls", "openssl", "openssl-sys", "ring", "rusqlite"];

/// What takes minutes to build is asked for by a feature, and never in the default set.
const NOT_BY_DEFAULT: &[&str] = &[
    "aws-config",
    "aws-sdk-kms",
    "aws-sdk-secretsmanager",
    "cryptoki",
    "google-cloud-auth",
    "google-cloud-kms-v1",
    "google-cloud-secretmanager-v1",
];

/// HTTP is spoken in one crate.
const ONLY_IN_THE_SERVER: &[&str] = &["axum", "hyper", "tower-http", "utoipa"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn cargo(arguments: &[&str]) -> String {
    let out = Command::new(env!("CARGO")).args(arguments).arg("--locked").current_dir(root()).output().unwrap();
    assert!(out.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Normal and build dependencies of each workspace crate, by name.
fn manifests() -> BTreeMap<String, BTreeSet<String>> {
    let metadata: serde_json::Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps"])).unwrap();
    let direct = |package: &serde_json::Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let shipped = dependencies.filter(|d| d["kind"].as_str() != Some("dev"));
        shipped.map(|d| d["name"].as_str().unwrap().to_owned()).collect()
    };
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages.map(|p| (p["name"].as_str().unwrap().to_owned(), direct(p))).collect()
}

fn tree(arguments: &[&str]) -> BTreeSet<String> {
    let fixed = ["tree", "--prefix", "none", "--format", "{p}", "--edges", "normal,build"];
    let listing = cargo(&[&fixed, arguments].concat());
    listing
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_crate_depends_only_on_those_below_it() {
    let manifests = manifests();
    let known: BTreeSet<_> = MAY_DEPEND_ON.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(known, manifests.keys().cloned().collect(), "a crate came or went without its line in the drawing");
    for (name, allowed) in MAY_DEPEND_ON {
        for dependency in manifests[*name].intersection(&known) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn the_core_carries_no_runtime_and_no_driver() {
    let tree = tree(&["--package", "keyfold-core", "--all-features"]);
    assert!(tree.contains("aws-lc-rs"), "the listing is not what this test takes it for");
    for name in NOT_IN_THE_CORE {
        assert!(!tree.contains(*name), "keyfold-core brings {name}");
    }
}

#[test]
fn the_core_reads_no_file_socket_clock_or_environment() {
    let mut pending = vec![root().join("crates/core/src")];
    let mut files = 0;
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        files += 1;
        let text = fs::read_to_string(&path).unwrap();
        let shipped = text.split("#[cfg(test)]").next().unwrap();
        for word in
            ["std::fs", "std::net", "std::env", "std::process", "std::io::std", "SystemTime::now", "Instant::now"]
        {
            let line = shipped.lines().position(|line| line.contains(word) && !line.trim_start().starts_with("//"));
            assert!(line.is_none(), "{}:{}: {word}", path.display(), line.unwrap() + 1);
        }
    }
    assert!(files > 5, "found {files} files only");
}

#[test]
fn one_cryptographic_and_one_tls_library_whatever_the_features_and_the_system() {
    let tree = tree(&["--workspace", "--all-features", "--target", "all"]);
    assert!(tree.contains("aws-lc-rs"), "the listing is not what this test takes it for");
    for name in NOWHERE {
        assert!(
            !tree.contains(*name),
            "{name} is in the tree: cargo tree --workspace --all-features --target all -i {name}"
        );
    }
}

#[test]
fn a_default_build_compiles_no_cloud_sdk_and_a_full_one_does() {
    let default = tree(&["--package", "keyfold"]);
    let full = tree(&["--package", "keyfold", "--features", "full"]);
    for name in NOT_BY_DEFAULT {
        assert!(!default.contains(*name), "{name} is in the default build");
        assert!(full.contains(*name), "{name} is not in the full build");
    }
    for name in NOWHERE {
        assert!(!full.contains(*name), "{name} is in the full build");
    }
}

#[test]
fn http_is_spoken_in_the_server_only() {
    for (name, dependencies) in manifests() {
        for http in ONLY_IN_THE_SERVER {
            assert!(name == "keyfold-server" || !dependencies.contains(*http), "{name} depends on {http}");
        }
    }
}
