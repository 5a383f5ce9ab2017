//! Documents by the thousand: sealed on threads of their own, announced, and stored, all at once, in order and in bounded memory.

use std::sync::Arc;

use keyfold_core::{
    audit::{Action, Event, Name},
    keyring::Entry,
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    access::{Permit, op::Seal},
    collection::Collection,
    custody::Custody,
    error::CustodyError,
    records::{Batch, Incoming, Intake, prepare_batch},
    store::{Inserted, OnExisting},
};

/// Batches that are sealed while another is stored.
const AHEAD: usize = 2;

/// What is stored, and how.
#[derive(Clone, Copy)]
pub struct Import<'a> {
    /// Where.
    pub collection: &'a Collection,
    /// What happens to declared fields.
    pub intake: Intake,
    /// What happens where a record is there already.
    pub on_existing: OnExisting,
}

type Preparing = JoinHandle<Result<Batch, CustodyError>>;

impl Custody {
    /// Stores batches of documents, each in one transaction with one event, and tells `stored` of each.
    ///
    /// # Errors
    /// A document that cannot be sealed, the store, the audit log. The batches before it are stored; nothing of it is.
    pub async fn import(
        &self,
        permit: &Permit<Seal>,
        import: Import<'_>,
        batches: mpsc::Receiver<Vec<Incoming>>,
        stored: impl FnMut(&[Inserted]),
    ) -> Result<(), CustodyError> {
        let (sealing, sealed) = mpsc::channel(AHEAD);
        let (ready, announced) = mpsc::channel(1);
        let (first, second, third) = futures::join!(
            self.seal_ahead(import, batches, sealing),
            self.announce(permit, import, sealed, ready),
            self.store(import, announced, stored)
        );
        // Where a later stage failed, those before it ended for that.
        third?;
        second?;
        first
    }

    async fn seal_ahead(
        &self,
        import: Import<'_>,
        mut batches: mpsc::Receiver<Vec<Incoming>>,
        sealing: mpsc::Sender<Preparing>,
    ) -> Result<(), CustodyError> {
        let collection = Arc::new(import.collection.clone());
        while let Some(incoming) = batches.recv().await {
            let keyring = self.keys.sealing().await?;
            let (collection, now) = (Arc::clone(&collection), self.auditor.clock().now());
            let work = move || prepare_batch(keyring, &collection, incoming, import.intake, now);
            if sealing.send(tokio::task::spawn_blocking(work)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn announce(
        &self,
        permit: &Permit<Seal>,
        import: Import<'_>,
        mut sealed: mpsc::Receiver<Preparing>,
        ready: mpsc::Sender<(Batch, Event)>,
    ) -> Result<(), CustodyError> {
        while let Some(preparing) = sealed.recv().await {
            let batch =
                preparing.await.map_err(|_| CustodyError::invalid("a sealing thread failed", "run again"))??;
            self.reserve(&batch.keyring, batch.wraps).await?;
            let mut event = self.auditor.about(permit.actor(), Action::RecordImport, import.collection)?;
            event.first = batch.records.first().map(|record| Name::abridge(record.key.as_str()));
            event.last = batch.records.last().map(|record| Name::abridge(record.key.as_str()));
            event.count = u64::try_from(batch.records.len()).ok();
            event.kid = batch.keyring.primary(import.collection.format).map(Entry::kid);
            let _durable = self.auditor.intent(&event).await?;
            if let Err(unsent) = ready.send((batch, event)).await {
                self.untold(&unsent.0.1).await;
                break;
            }
        }
        Ok(())
    }

    async fn store(
        &self,
        import: Import<'_>,
        mut announced: mpsc::Receiver<(Batch, Event)>,
        mut stored: impl FnMut(&[Inserted]),
    ) -> Result<(), CustodyError> {
        while let Some((batch, event)) = announced.recv().await {
            let Batch { records, keyring, .. } = batch;
            let inserted = async {
                self.keys.confirm(&keyring).await?;
                Ok(self.records.insert(&import.collection.id, records, import.on_existing).await?)
            };
            let inserted = inserted.await;
            // Held until here: until the batch is stored, this process still seals under that generation.
            drop(keyring);
            let told = self.auditor.outcome(&event, &inserted).await;
            match inserted {
                Ok(inserted) => stored(&inserted),
                Err(error) => {
                    announced.close();
                    while let Some((_, event)) = announced.recv().await {
                        self.untold(&event).await;
                    }
                    return Err(error);
                }
            }
            told?;
        }
        Ok(())
    }

    /// Says of something whose intent is out that it was not done, because what came before it failed.
    pub(crate) async fn untold(&self, event: &Event) {
        let not = Err::<(), _>(CustodyError::invalid("not done: what came before it failed", "run again"));
        if let Err(error) = self.auditor.outcome(event, &not).await {
            tracing::warn!(%error, "an outcome could not be written to the audit log");
        }
    }
}
