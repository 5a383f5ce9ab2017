//! Google's Firestore. [`FirestoreStore`] works on records of other programs: documents of a collection, or of the collections
//! below several documents. [`FirestoreSystem`] keeps records and small documents of our own.
//!
//! A document reads as JSON text, its one cell. A swap reads the document again, compares, and writes the texts that differ
//! and nothing else, on condition that nobody wrote the document in between. Fields of every other type stay as they are.
//! Of other programs' documents nothing is ever created or deleted.
//!
//! The account needs `datastore.entities.get`, `.list` and `.update`, and `datastore.databases.get`; for our own also `.create` and
//! `.delete`.
//!
//! Not promised: that plaintext in requests and answers is wiped; that a negative zero keeps its sign in an array that is
//! written because a text in it changed, since the interface does not show that sign.

mod address;
mod audit;
mod change;
mod client;
mod error;
mod held;
mod own;
mod path;
mod swap;
mod system;
mod value;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;

pub use address::{FirestoreAddress, FirestoreAddressError};
pub use system::FirestoreSystem;

use self::{
    client::{Client, Document, Query},
    path::Place,
};
use super::{
    Cell, CellName, CellValue, CollectionId, DOC_CELL, Odd, Page, Partition, RecordKey, RecordStore, ScanCursor,
    StoreError, StoredRecord, Swap, Swapped, check_limit,
};
use crate::layout::place::Layout;

/// A page ends early once its documents take this much memory.
const PAGE_BYTES: usize = 8 << 20;

/// Documents are taken to be as large as they can be until some were seen.
const LARGE: usize = 1 << 20;

/// Where the parts of a collection begin, for ids of letters and digits as Firestore makes them.
const EDGES: [&str; 4] = ["", "F", "V", "k"];

/// Somebody's documents in a Firestore. Clones share its connections.
#[derive(Clone)]
pub struct FirestoreStore {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    places: HashMap<CollectionId, Place>,
    doc: CellName,
    /// The largest document of late, for guessing how many fit a page.
    largest: AtomicUsize,
}

impl FirestoreStore {
    /// Connects, for collections that lie there. Where the address names no emulator, the one that
    /// `FIRESTORE_EMULATOR_HOST` names is taken.
    ///
    /// # Errors
    /// A database that cannot be reached or refuses; a layout that is not of Firestore.
    pub async fn connect(
        address: &FirestoreAddress,
        layouts: HashMap<CollectionId, Layout>,
    ) -> Result<Self, StoreError> {
        let mut places = HashMap::new();
        for (id, layout) in layouts {
            let Layout::FirestoreDocument { path } = &layout else {
                return Err(StoreError::invalid(format!("the layout {} is not one of Firestore", layout.as_str())));
            };
            places.insert(id, Place::new(path)?);
        }
        let emulator = std::env::var("FIRESTORE_EMULATOR_HOST").ok();
        let client = Client::new(&address.clone().or_emulator(emulator.as_deref()))?;
        // Nothing is told from the answer but that there is one.
        client.get(&["keyfold/connects"]).await?;
        let inner = Inner { client, places, doc: CellName::new(DOC_CELL)?, largest: AtomicUsize::new(LARGE) };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn place(&self, collection: &CollectionId) -> Result<&Place, StoreError> {
        self.inner.places.get(collection).ok_or_else(|| {
            StoreError::invalid(format!("{} was opened without the collection `{collection}`", self.describe()))
        })
    }

    /// How many documents to fetch at once, so that they fit the page.
    fn chunk(&self, bytes: usize, limit: usize) -> usize {
        let largest = self.inner.largest.load(Ordering::Relaxed).max(1);
        (PAGE_BYTES.saturating_sub(bytes) / largest).clamp(1, limit)
    }

    /// Remembers a size at once where it is larger, and forgets it by and by.
    fn seen(&self, largest: usize) {
        let held = self.inner.largest.load(Ordering::Relaxed);
        self.inner.largest.store(largest.max(held / 8), Ordering::Relaxed);
    }

    fn record(&self, key: RecordKey, document: &Document) -> StoredRecord {
        let value = CellValue::from(value::text(&document.fields));
        StoredRecord { key, cells: vec![Cell { name: self.inner.doc.clone(), value }], revision: 0 }
    }
}

/// The number of a partition; the one of collections below several documents has none.
fn part(place: &Place, partition: &Partition) -> Option<usize> {
    if !place.is_one() {
        return (*partition == Partition::whole()).then_some(0);
    }
    let number = partition.as_str().strip_prefix("ids-")?;
    (0..EDGES.len()).find(|n| n.to_string() == number)
}

fn all(place: &Place) -> Query<'_> {
    Query {
        parent: place.parent(),
        collection: place.collection(),
        descendants: !place.is_one(),
        from: None,
        to: None,
        limit: 0,
    }
}

#[async_trait]
impl RecordStore for FirestoreStore {
    fn describe(&self) -> String {
        self.inner.client.name.clone()
    }

    async fn partitions(&self, collection: &CollectionId) -> Result<Vec<Partition>, StoreError> {
        if !self.place(collection)?.is_one() {
            return Ok(vec![Partition::whole()]);
        }
        (0..EDGES.len()).map(|n| Ok(Partition::new(format!("ids-{n}"))?)).collect()
    }

    async fn estimate(&self, collection: &CollectionId) -> Result<Option<u64>, StoreError> {
        match self.inner.client.count(&all(self.place(collection)?)).await {
            Ok(count) => Ok(Some(count)),
            // Counting very many takes longer than Firestore waits.
            Err(StoreError::Unavailable { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn scan(
        &self,
        collection: &CollectionId,
        partition: &Partition,
        after: Option<&ScanCursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let place = self.place(collection)?;
        check_limit(limit)?;
        let part = part(place, partition)
            .ok_or_else(|| StoreError::invalid(format!("{} has no partition `{partition}`", self.describe())))?;
        let mut query = all(place);
        if place.is_one() {
            let edge = |id: &&str| place.edge(id);
            query.from = EDGES.get(part).filter(|id| !id.is_empty()).map(edge).map(|path| (path, true));
            query.to = EDGES.get(part + 1).map(edge);
        }
        if let Some(cursor) = after {
            query.from = Some((path::parse_cursor(cursor.as_str()), false));
        }
        let mut page = Page { records: Vec::new(), odd: Vec::new(), next: None };
        let mut bytes = 0;
        loop {
            query.limit = self.chunk(bytes, limit - page.records.len());
            let documents = self.inner.client.list(&mut query).await?;
            let (last, mut largest) = (documents.len() < query.limit, 0);
            let mut documents = documents.into_iter();
            while bytes < PAGE_BYTES
                && let Some(document) = documents.next()
            {
                let path = self.inner.client.path(&document)?;
                let mut size = path.len();
                if let Some(ids) = place.ids(path) {
                    let spelling = path::spell(&ids);
                    match RecordKey::new(&spelling) {
                        Ok(key) => {
                            let record = self.record(key, &document);
                            size += record.cells.iter().map(|cell| cell.value.len()).sum::<usize>();
                            page.records.push(record);
                        }
                        Err(error) => page.odd.push(Odd {
                            record: spelling.chars().take(100).collect(),
                            what: format!("its path cannot be a record's key: {error}"),
                            hint: "give the document shorter ids".into(),
                        }),
                    }
                }
                bytes += size;
                largest = largest.max(size);
                query.from = Some((path.to_owned(), false));
            }
            self.seen(largest);
            if last && documents.len() == 0 {
                return Ok(page);
            }
            if page.records.len() >= limit || bytes >= PAGE_BYTES {
                let cursor = query.from.take().map(|(path, _)| ScanCursor::new(path::cursor(&path)));
                page.next = cursor.transpose()?;
                return Ok(page);
            }
        }
    }

    async fn read(&self, collection: &CollectionId, key: &RecordKey) -> Result<Option<StoredRecord>, StoreError> {
        let Some(path) = self.place(collection)?.path(key) else { return Ok(None) };
        let document = self.inner.client.get(&[&path]).await?.pop().flatten();
        Ok(document.map(|document| self.record(key.clone(), &document)))
    }

    async fn swap(&self, collection: &CollectionId, batch: Vec<Swap>) -> Result<Vec<Swapped>, StoreError> {
        let place = self.place(collection)?;
        for swap in &batch {
            if swap.cell != self.inner.doc {
                return Err(StoreError::invalid(format!("a document has no cell `{}`, only `{DOC_CELL}`", swap.cell)));
            }
            if swap.new.as_str().is_none() {
                return Err(StoreError::invalid("a document cannot hold what is not text"));
            }
        }
        swap::run(&self.inner.client, place, &batch).await
    }
}
