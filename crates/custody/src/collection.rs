//! Collections: where secrets are inside records, what they are sealed as, and what a reader accepts.

use keyfold_core::{
    accept::Accept,
    context::{Context, ContextDigest, ContextError},
    envelope::{Format, Reading},
};

use crate::{
    layout::path::FieldPath,
    store::{CollectionId, RecordKey},
};

/// One collection, as configured.
#[derive(Debug, Clone)]
pub struct Collection {
    /// The display name, used on the command line. Changing it changes nothing that is stored.
    pub name: String,
    /// The immutable id, part of every field's context.
    pub id: CollectionId,
    /// The fields that hold secrets.
    pub fields: Vec<FieldPath>,
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
        Ok(self.context(deployment, record, pointer)?.digest())
    }
}
