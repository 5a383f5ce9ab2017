//! The tables, their version, and the refusal of files that are somebody else's, or of a Keyfold that is too new.
//!
//! A change comes in two releases, so that nodes of two neighbouring ones can share a file. The first *expands*: it adds what the
//! new code needs, with defaults that the old code can leave alone. A later one *contracts*: it takes away what only the old code
//! used, and says by `oldest` that the old code no longer fits.

use std::path::Path;

use sqlx::{Connection, SqliteConnection};

use super::{OpenMode, error, unsigned};
use crate::store::StoreError;

/// Marks the file as ours for `file(1)` and for us: "Kfld".
const APPLICATION_ID: i64 = 0x4b66_6c64;

/// Takes the schema from one version to the next. Steps are added and never changed.
struct Step {
    sql: &'static str,
    /// The oldest version of which a build can still work on the file after this step: unchanged by one that expands.
    oldest: u64,
}

const STEPS: &[Step] = &[
    Step { sql: FIRST, oldest: 1 },
    // A build that knows only the first version asks for no `oldest`, and fits.
    Step { sql: "ALTER TABLE schema_version ADD COLUMN oldest INTEGER NOT NULL DEFAULT 1;", oldest: 1 },
];

const FIRST: &str = "
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
";

/// The newest version that this build knows.
pub(super) fn known_version() -> u64 {
    STEPS.len() as u64
}

/// Whether a file is a Keyfold store.
pub(in crate::store) async fn is_ours(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let id: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(connection).await?;
    Ok(id == APPLICATION_ID)
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
        let oldest: i64 =
            sqlx::query_scalar("SELECT oldest FROM schema_version").fetch_one(&mut *tx).await.map_err(failed)?;
        if unsigned(oldest) <= known_version() {
            // A newer Keyfold has expanded it; what it added is left alone.
            return Ok(());
        }
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
        sqlx::raw_sql(step.sql).execute(&mut *tx).await.map_err(failed)?;
    }
    let oldest = steps.iter().map(|step| step.oldest).max().unwrap_or(1);
    sqlx::query("UPDATE schema_version SET version = ?1, oldest = max(oldest, ?2)")
        .bind(i64::try_from(STEPS.len()).unwrap_or(i64::MAX))
        .bind(i64::try_from(oldest).unwrap_or(i64::MAX))
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
    use super::*;
    use crate::store::{Expect, SystemStore, sqlite::SqliteStore};

    async fn raw(path: &Path, sql: &str) {
        let mut connection = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    #[test]
    fn the_application_id_spells_kfld() {
        assert_eq!(APPLICATION_ID, 1_265_003_620);
        assert_eq!(&u32::try_from(APPLICATION_ID).unwrap().to_be_bytes(), b"Kfld");
    }

    async fn works(store: &SqliteStore, key: &str) {
        store.put(key, b"new", Expect::Absent, None).await.unwrap();
        assert_eq!(store.get(key).await.unwrap().unwrap().value, b"new");
        assert_eq!(store.get("kept").await.unwrap().unwrap().value, b"old");
    }

    #[tokio::test]
    async fn every_version_since_the_first_is_brought_to_this_one_with_what_it_holds() {
        for version in 1..=STEPS.len() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("kf.db");
            std::fs::write(&path, "").unwrap();
            raw(&path, "PRAGMA journal_mode = WAL; PRAGMA application_id = 1265003620;
                        CREATE TABLE schema_version (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL) STRICT;
                        INSERT INTO schema_version (one, version) VALUES (1, 0);").await;
            for step in &STEPS[..version] {
                raw(&path, step.sql).await;
            }
            raw(&path, &format!("UPDATE schema_version SET version = {version}")).await;
            raw(&path, "INSERT INTO system (key, value, version) VALUES ('kept', CAST('old' AS BLOB), 1); UPDATE counters SET value = 1 WHERE name = 'system'").await;
            let store = SqliteStore::open(&path, OpenMode::Existing).await.unwrap();
            works(&store, "a").await;
            store.close().await;
        }
    }

    #[tokio::test]
    async fn a_node_works_on_while_a_newer_one_expands_the_schema_and_also_starts_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kf.db");
        let running = SqliteStore::open(&path, OpenMode::Create).await.unwrap();
        running.put("kept", b"old", Expect::Absent, None).await.unwrap();
        // What the next release would do: a column with a default, a table, an index.
        raw(
            &path,
            "ALTER TABLE system ADD COLUMN owner TEXT NOT NULL DEFAULT ''; CREATE TABLE later (a INTEGER) STRICT;
                    ALTER TABLE records ADD COLUMN later TEXT; CREATE INDEX system_owner ON system (owner);
                    UPDATE schema_version SET version = version + 1",
        )
        .await;
        works(&running, "a").await;
        let started = SqliteStore::open(&path, OpenMode::Existing).await.unwrap();
        works(&started, "b").await;
        // And what the one after it would do, once every node is new.
        raw(&path, "UPDATE schema_version SET version = version + 1, oldest = version + 1").await;
        let refused = SqliteStore::open(&path, OpenMode::Existing).await.map(drop);
        assert!(matches!(refused, Err(StoreError::SchemaTooNew { .. })), "{refused:?}");
        running.close().await;
        started.close().await;
    }
}
