//! The tables, their version, and the refusal of files that are somebody else's or a newer Keyfold's.

use std::path::Path;

use sqlx::{Connection, SqliteConnection};

use super::{OpenMode, error, unsigned};
use crate::store::StoreError;

/// Marks the file as ours for `file(1)` and for us: "Kfld".
const APPLICATION_ID: i64 = 0x4b66_6c64;

/// Each step takes the schema from its index to the next version. Steps are added and never changed.
const STEPS: &[&str] = &["
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO counters (name, value) VALUES ('records', 0), ('system', 0), ('system_forgotten', 0);

    CREATE TABLE records (
        collection TEXT NOT NULL,
        id TEXT NOT NULL,
        revision INTEGER NOT NULL,
        doc TEXT NOT NULL,
        PRIMARY KEY (collection, id)
    ) STRICT, WITHOUT ROWID;

    -- A null value is a deleted document: it stays for a while, so that who waits for a change learns of it.
    CREATE TABLE system (
        key TEXT PRIMARY KEY,
        value BLOB,
        version INTEGER NOT NULL,
        expires_at INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX system_version ON system (version);
    CREATE INDEX system_expiry ON system (expires_at) WHERE expires_at IS NOT NULL;
"];

/// The newest version that this build knows.
pub(super) fn known_version() -> u64 {
    STEPS.len() as u64
}

/// Refuses what is not ours before anything is written to it.
pub(super) async fn check(path: &Path, connection: &mut SqliteConnection, mode: OpenMode) -> Result<(), StoreError> {
    let failed = |e| error::classify(path, e);
    // One transaction, so that both answers come from one moment.
    let mut tx = connection.begin().await.map_err(failed)?;
    let id: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *tx).await.map_err(failed)?;
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *tx).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    let foreign = |what: &str| Err(StoreError::Foreign { store: error::name(path), what: what.into() });
    match (id, tables, mode) {
        (APPLICATION_ID, _, _) | (0, 0, OpenMode::Create) => Ok(()),
        (0, 0, OpenMode::Existing) => foreign("it is an empty database"),
        _ => foreign("it is another program's database"),
    }
}

/// Brings the file to this build's version. Whoever gets the lock first does it; the others find it done.
pub(super) async fn migrate(path: &Path, connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let failed = |e| error::classify(path, e);
    let version = version(connection).await.map_err(failed)?;
    if version == known_version() {
        return Ok(());
    }
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    let found = self::version(&mut tx).await.map_err(failed)?;
    let Some(steps) = usize::try_from(found).ok().and_then(|done| STEPS.get(done..)) else {
        return Err(StoreError::SchemaTooNew { store: error::name(path), found, known: known_version() });
    };
    if found == 0 {
        sqlx::raw_sql(
            "
            CREATE TABLE schema_version (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL) STRICT;
            INSERT INTO schema_version (one, version) VALUES (1, 0);
            PRAGMA application_id = 1265003620;
        ",
        )
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    }
    for step in steps {
        sqlx::raw_sql(*step).execute(&mut *tx).await.map_err(failed)?;
    }
    sqlx::query("UPDATE schema_version SET version = ?1")
        .bind(i64::try_from(STEPS.len()).unwrap_or(i64::MAX))
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    tx.commit().await.map_err(failed)
}

/// The version of the file; 0 where it has no tables yet.
async fn version(connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE name = 'schema_version'")
        .fetch_one(&mut *connection)
        .await?;
    if tables == 0 {
        return Ok(0);
    }
    sqlx::query_scalar("SELECT version FROM schema_version").fetch_one(connection).await.map(unsigned)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_application_id_spells_kfld() {
        assert_eq!(super::APPLICATION_ID, 1_265_003_620);
        assert_eq!(&u32::try_from(super::APPLICATION_ID).unwrap().to_be_bytes(), b"Kfld");
    }
}
