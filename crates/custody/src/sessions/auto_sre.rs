//! Auto SRE's sessions, where its agent framework keeps them: read, never changed here.

use keyfold_core::{
    accept::Accept,
    context::Context,
    envelope::{Format, Reading},
    keyring::Reader,
    secret::Secret,
};
use serde::Deserialize;
use zeroize::Zeroize;

use crate::{collection::Collection, custody::Custody, error::CustodyError};

const PAGE: usize = 200;

/// A session of Auto SRE with a token in it.
pub struct Found {
    /// Where it lies.
    pub source: String,
    /// Whose it says it is.
    pub email: String,
    /// The token.
    pub token: Secret,
}

/// A session that cannot be taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Where it lies.
    pub source: String,
    /// Why, in one line, without anything of the token.
    pub why: String,
}

#[derive(Deserialize)]
struct State {
    #[serde(rename = "_user_access_token")]
    token: Option<String>,
    user_email: Option<String>,
}

impl Drop for State {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

/// Visits every session in a store of Auto SRE's. Those without a token are passed over.
///
/// # Errors
/// The store, and those of `visit`.
pub async fn visit<E: From<CustodyError>>(
    custody: &Custody,
    collection: &Collection,
    mut visit: impl AsyncFnMut(Result<Found, Skipped>) -> Result<(), E>,
) -> Result<(), E> {
    let store = custody.store_of(collection)?;
    let failed = |error: crate::store::StoreError| E::from(CustodyError::from(error));
    for partition in store.partitions(&collection.id).await.map_err(failed)? {
        let mut after = None;
        loop {
            let page = store.scan(&collection.id, &partition, after.as_ref(), PAGE).await.map_err(failed)?;
            for odd in page.odd {
                visit(Err(Skipped { source: format!("{}/{}", collection.id, odd.record), why: odd.what })).await?;
            }
            for record in &page.records {
                for cell in &record.cells {
                    let source = format!("{}/{}", collection.id, record.key);
                    let found = match cell.value.as_str() {
                        Some(text) => read(custody, source, text),
                        None => Some(Err(Skipped { source, why: "its state is not text".into() })),
                    };
                    if let Some(found) = found {
                        visit(found).await?;
                    }
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    Ok(())
}

fn read(custody: &Custody, source: String, text: &str) -> Option<Result<Found, Skipped>> {
    let skipped = |source: String, why: &str| Some(Err(Skipped { source, why: why.to_owned() }));
    let Ok(mut state) = serde_json::from_str::<State>(text) else {
        return skipped(source, "its state is not a JSON object");
    };
    let mut sealed = state.token.take()?;
    let email = state.user_email.take();
    let accept = Accept::only(Format::Fernet);
    let reader = Reader { accept: &accept, today: jiff::civil::Date::MIN, reading: Reading::Strict, max_age: None };
    let opened = custody.keys.opening().open(&sealed, &Context::empty().digest(), &reader);
    sealed.zeroize();
    match (opened, email) {
        (Err(error), _) => skipped(source, &error.to_string()),
        (Ok(_), None) => skipped(source, "it does not say whose it is (`user_email`)"),
        (Ok(opened), Some(email)) => Some(Ok(Found { source, email, token: opened.secret })),
    }
}
