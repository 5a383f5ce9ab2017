//! Everything a use case works with, put together once by the composition root.

use std::{collections::HashMap, sync::Arc};

use keyfold_core::{audit::Event, secret::Secret};

use crate::{
    auditor::Auditor,
    broker::{Lender, Lent},
    collection::Collection,
    config::Config,
    error::CustodyError,
    keys::{LiveKeyring, Usage},
    store::{CollectionId, OwnRecords, RecordStore, SystemStore},
};

/// One process's hold on a deployment.
pub struct Custody {
    /// The records of our own layout.
    pub records: Arc<dyn OwnRecords>,
    /// Where the records of foreign layouts lie, by collection.
    pub foreign: HashMap<CollectionId, Arc<dyn RecordStore>>,
    /// Our small documents.
    pub system: Arc<dyn SystemStore>,
    /// The keyring, followed.
    pub keys: Arc<LiveKeyring>,
    /// How often raw master keys sealed.
    pub usage: Usage,
    /// The audit log.
    pub auditor: Auditor,
    /// The configuration.
    pub config: Config,
}

impl Custody {
    /// The collection of that name.
    ///
    /// # Errors
    /// Not configured, or configured beyond its accept floor.
    pub fn collection(&self, name: &str) -> Result<&Collection, CustodyError> {
        let collection = self.config.collection(name).ok_or_else(|| {
            let known: Vec<_> = self.config.collections.keys().map(String::as_str).collect();
            CustodyError::NotFound {
                what: format!("no collection `{name}` is configured"),
                hint: if known.is_empty() {
                    "add [collections.NAME] to keyfold.toml".into()
                } else {
                    format!("configured: {}", known.join(", "))
                },
            }
        })?;
        self.within_floor(collection)?;
        Ok(collection)
    }

    /// The store that holds a collection's records.
    ///
    /// # Errors
    /// A foreign layout of which no store was named.
    pub fn store_of(&self, collection: &Collection) -> Result<Arc<dyn RecordStore>, CustodyError> {
        if !collection.layout.is_foreign() {
            return Ok(Arc::clone(&self.records) as Arc<dyn RecordStore>);
        }
        self.foreign.get(&collection.id).cloned().ok_or_else(|| CustodyError::NotFound {
            what: format!(
                "no store is known for collection `{}`, whose layout is {}",
                collection.name,
                collection.layout.as_str()
            ),
            hint: "name it with --store, or as `store` of the collection in keyfold.toml".into(),
        })
    }

    /// Refuses a configuration that would accept what the authenticated keyring document no longer allows.
    ///
    /// # Errors
    /// A rule beyond the floor.
    pub fn within_floor(&self, collection: &Collection) -> Result<(), CustodyError> {
        let keyring = self.keys.opening();
        let Some(floor) = keyring.floor(collection.id.as_str()) else { return Ok(()) };
        match collection.accept.beyond(floor).first() {
            None => Ok(()),
            Some(rule) => Err(keyfold_core::keyring::edit::EditError::Loosens {
                collection: collection.name.clone(),
                rule: rule.to_string(),
            }
            .into()),
        }
    }

    /// Signs the last checkpoint of this process and strikes it off the list of live ones.
    ///
    /// # Errors
    /// The audit log or the store.
    pub async fn close(&self) -> Result<(), CustodyError> {
        // What cannot be written has been said; the log is closed all the same.
        let _ = self.auditor.tell_refusals(true).await;
        let closed = self.auditor.sink().close(self.keys.opening().generation()).await;
        self.keys.close().await?;
        Ok(closed?)
    }
}

#[async_trait::async_trait]
impl Lender for Custody {
    async fn lend(&self, lent: &Lent, intent: &Event) -> Result<Secret, CustodyError> {
        self.lent(self.collection(&lent.collection)?, &lent.record, (&lent.field, intent)).await
    }
}
