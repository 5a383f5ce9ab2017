//! Rows of another program's tables, in PostgreSQL or an SQLite file: the layout `sql-columns`.
//!
//! A record is a row, named by its key; a cell is a declared column. Only the swapped columns are written, so a time stamp
//! that the program itself keeps stays as it is; triggers that the program defined do run. Nothing about the database is
//! changed: no table, no journal mode, no setting that outlives the session.
//!
//! Text and `json` stay byte for byte; `jsonb` keeps values. A column that holds bytes, such as a pickled object, a key that
//! cannot be spelled, and a value that is not text are reported as odd and never written.

mod address;
mod key;
mod postgres;
mod sqlite;
mod table;

use std::{collections::HashMap, sync::Arc};

pub use address::SqlAddress;
pub use postgres::PostgresRows;
pub use sqlite::SqliteRows;

use super::{CollectionId, RecordStore, StoreError};
use crate::layout::place::Layout;

/// A page ends early once its cells take this much memory.
const PAGE_BYTES: usize = 8 << 20;

/// Opens a database in which collections of the layout `sql-columns` lie.
///
/// # Errors
/// The database cannot be used, or a layout does not fit it: [`StoreError::Layout`] with all that does not.
pub async fn connect(
    address: &SqlAddress,
    layouts: HashMap<CollectionId, Layout>,
) -> Result<Arc<dyn RecordStore>, StoreError> {
    Ok(match address {
        SqlAddress::Postgres(address) => Arc::new(PostgresRows::connect(address, layouts).await?),
        SqlAddress::Sqlite(path) => Arc::new(SqliteRows::open(path, layouts).await?),
    })
}
