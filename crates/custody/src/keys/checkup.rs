//! `doctor --keys`: what is reachable, which rights lack, how old each key is and what it still protects.

use std::time::Duration;

use keyfold_core::{
    error::Hint,
    keyring::{Entry, Origin, State},
    root::{RootError, RootKey},
};

use super::roots::{RECOVERY, prove};
use crate::{
    custody::Custody,
    doctor::{Finding, Weight},
    error::CustodyError,
};

/// Clocks further apart than this make tokens and signatures fail.
const SKEW: u64 = 60;
/// A token with less than this left is worth a word.
const SOON: u64 = 3600;
/// A key that has sealed for longer than this is worth a word.
const OLD: Duration = Duration::from_secs(400 * 86_400);
/// How many values of each collection are tried.
const SAMPLE: usize = 200;

fn finding(weight: Weight, what: &'static str, message: String, hint: Option<String>) -> Finding {
    Finding { weight, what, message, hint }
}

/// What is wrong with one root key, or that nothing is.
pub async fn root_findings(root: &dyn RootKey, now: u64) -> Vec<Finding> {
    let uri = root.uri();
    if uri.starts_with(RECOVERY) {
        let message = format!("{uri} opens this keyring; whether somebody still has it, only a restore can show");
        return vec![finding(Weight::Note, "recovery_key", message, Some("docs/recover.md says how to try it".into()))];
    }
    let mut findings = Vec::new();
    match prove(root).await {
        Ok(()) => findings.push(finding(Weight::Note, "root_key", format!("{uri} wraps and opens"), None)),
        Err(error) => findings.push(failed(&error)),
    }
    match root.tend().await {
        Ok(tended) => {
            let apart = tended.time.map_or(0, |time| time.0.abs_diff(now));
            if apart > SKEW {
                let message = format!("the clock here and the one at {uri} are {apart} s apart");
                let hint = "set the clocks; tokens and signed requests fail otherwise".to_owned();
                findings.push(finding(Weight::Warning, "clock_skew", message, Some(hint)));
            }
            if let Some(left) = tended.expires_in.filter(|left| *left < SOON) {
                let message = format!("what lets this process reach {uri} ends in {left} s");
                let hint = "long-lived processes renew it; a process that starts later needs a new one".to_owned();
                findings.push(finding(Weight::Note, "credential_ends", message, Some(hint)));
            }
        }
        // Said above already.
        Err(_) if findings.iter().any(|finding| finding.weight == Weight::Error) => {}
        Err(error) => findings.push(failed(&error)),
    }
    findings
}

/// A root key that does not do its work.
#[must_use]
pub fn failed(error: &RootError) -> Finding {
    let message = format!("{error}; what has the keyring open goes on, and a start would fail");
    finding(Weight::Error, "root_key", message, error.hint())
}

impl Custody {
    /// Looks at the root keys and the keys, and tries a sample of what is stored.
    ///
    /// # Errors
    /// The store.
    pub async fn check_keys(&self) -> Result<Vec<Finding>, CustodyError> {
        let keyring = self.keys.opening();
        let now = self.auditor.clock().now();
        let mut findings = Vec::new();
        for uri in keyring.roots() {
            match self.keys.store().other_root(uri) {
                Ok(root) => findings.extend(root_findings(&*root, now.0).await),
                Err(error) => findings.push(finding(Weight::Error, "root_key", error.to_string(), error.hint())),
            }
        }
        if keyring.roots().len() == 1 {
            let message = "one root key alone opens this keyring; where it is lost, everything is".to_owned();
            let hint = "keyfold keys add-recovery, or a second root key: keyfold keys add-root URI".to_owned();
            findings.push(finding(Weight::Warning, "single_root", message, Some(hint)));
        }
        let census = self.census().await?;
        for entry in keyring.entries() {
            findings.push(self.key_finding(entry, census.under(entry.kid())));
        }
        let tried = self.preflight(SAMPLE).await?;
        let weight = if tried.is_clean() { Weight::Note } else { Weight::Error };
        let hint = (!tried.is_clean()).then(|| "`keyfold verify` names what does not open".to_owned());
        findings.push(finding(weight, "preflight", tried.to_string(), hint));
        Ok(findings)
    }

    fn key_finding(&self, entry: &Entry, protects: u64) -> Finding {
        let now = self.auditor.clock().now();
        let (kid, state) = (entry.kid(), entry.state());
        if let Origin::Environment(place) = entry.origin() {
            let message =
                format!("key `{kid}` comes from {place} and protects {protects} values; no root key covers it");
            let hint = "keyfold keys import --from URI, then rotate to a fresh key".to_owned();
            return finding(Weight::Warning, "raw_key", message, Some(hint));
        }
        let days = |since: u64| now.0.saturating_sub(since) / 86_400;
        let (age, in_state) = (days(entry.created().0), days(entry.since().0));
        let message = format!("key `{kid}` is {age} days old, {state} for {in_state}, and protects {protects} values");
        let old = state == State::Primary && now.0.saturating_sub(entry.since().0) > OLD.as_secs();
        match state {
            _ if old => finding(Weight::Warning, "old_key", message, Some("keyfold keys maintain --once".into())),
            State::Active if protects == 0 => {
                finding(Weight::Note, "key", message, Some(format!("keyfold keys retire {kid}")))
            }
            State::Active => finding(Weight::Note, "key", message, Some("keyfold rotate".into())),
            State::Retired if protects > 0 => finding(
                Weight::Error,
                "key",
                message,
                Some(format!("keyfold keys activate {kid}, then keyfold rotate")),
            ),
            _ => finding(Weight::Note, "key", message, None),
        }
    }
}
