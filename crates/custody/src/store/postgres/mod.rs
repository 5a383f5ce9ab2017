//! Records and system documents in a PostgreSQL database, in a schema called `keyfold` of its own.
//!
//! Several nodes work on it at once. Time is the server's; a commit is on its disk when it returns.

mod address;
mod audit;
pub(super) mod error;
mod own;
mod records;
mod schema;
pub(super) mod server;
mod system;

use std::sync::{Arc, atomic::AtomicU32};

use tokio::sync::Notify;

use self::server::Server;
use super::{CellName, DOC_CELL, StoreError, sqlite::OpenMode};

pub use address::{AddressError, PostgresAddress};

/// Records and system documents in a PostgreSQL database. Clones share its connections.
#[derive(Clone)]
pub struct PostgresStore {
    inner: Arc<Inner>,
}

struct Inner {
    server: Server,
    doc: CellName,
    written: Notify,
    puts: AtomicU32,
}

impl PostgresStore {
    /// Connects; makes the schema where there is none and `mode` says so.
    ///
    /// # Errors
    /// The server cannot be used, or the schema is missing, somebody else's, or of a newer Keyfold.
    pub async fn open(address: &PostgresAddress, mode: OpenMode) -> Result<Self, StoreError> {
        let server = Server::connect(address).await?;
        schema::prepare(&server, mode).await?;
        let doc = CellName::new(DOC_CELL)?;
        let inner = Inner { server, doc, written: Notify::new(), puts: AtomicU32::new(0) };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn server(&self) -> &Server {
        &self.inner.server
    }
}

/// PostgreSQL's integers are signed; revisions and counts are not, and never get that far.
fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}
