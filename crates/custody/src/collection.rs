//! Collections: where secrets are inside records, what they are sealed as, and what a reader accepts.

use keyfold_core::{
    accept::Accept,
    context::{Context, ContextDigest, ContextError},
    envelope::{Format, Reading},
};

use crate::{
    layout::{
        path::FieldPath,
        place::{CellSpec, Layout},
    },
    store::{CollectionId, RecordKey},
};

/// One collection, as configured.
#[derive(Debug, Clone)]
pub struct Collection {
    /// The display name, used on the command line. Changing it changes nothing that is stored.
    pub name: String,
    /// The immutable id, part of every field's context.
    pub id: CollectionId,
    /// How its records are stored.
    pub layout: Layout,
    /// The store they are in, as `store` in keyfold.toml gives it; where absent, the one that was named for the run, or the data
    /// folder.
    pub store: Option<String>,
    /// The fields that hold secrets.
    pub fields: Vec<FieldPath>,
    /// The cells that the fields lie in.
    pub cells: Vec<CellSpec>,
    /// Fields of the document that are looked at and counted, and never changed: their readers take what stands there for the
    /// secret itself. What `fields` names too is a secret.
    pub reported: Vec<FieldPath>,
    /// What new secrets are sealed as.
    pub format: Format,
    /// What a reader accepts.
    pub accept: Accept,
    /// How strictly spellings are taken.
    pub reading: Reading,
    /// The tenant, part of every field's context where there is one.
    pub tenant: Option<String>,
}

impl Collection {
    /// The context that binds a field of a record to its place.
    ///
    /// # Errors
    /// Entries over the limits of the encoding.
    pub fn context(&self, deployment: &str, record: &RecordKey, pointer: &str) -> Result<Context, ContextError> {
        let context = Context::empty()
            .with("deployment", deployment)?
            .with("collection", self.id.as_str())?
            .with("record", record.as_str())?
            .with("field", pointer)?;
        match &self.tenant {
            Some(tenant) => context.with("tenant", tenant.as_str()),
            None => Ok(context),
        }
    }

    /// The digest of [`Collection::context`].
    ///
    /// # Errors
    /// As there.
    pub fn digest(&self, deployment: &str, record: &RecordKey, pointer: &str) -> Result<ContextDigest, ContextError> {
        let entries = [
            ("collection", self.id.as_str().as_bytes()),
            ("deployment", deployment.as_bytes()),
            ("field", pointer.as_bytes()),
            ("record", record.as_str().as_bytes()),
            ("tenant", self.tenant.as_deref().unwrap_or_default().as_bytes()),
        ];
        ContextDigest::of_sorted(if self.tenant.is_some() { &entries } else { &entries[..4] })
    }
}
