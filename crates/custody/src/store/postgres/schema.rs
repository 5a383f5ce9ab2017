//! The tables, their version, and the refusal of what is somebody else's, or of a Keyfold that is too new.
//!
//! Changes expand first and contract in a later release, as those of the SQLite file do.

use sqlx::{Connection as _, PgConnection};

use super::{OpenMode, server::Server, unsigned};
use crate::store::StoreError;

/// Takes the schema from one version to the next. Steps are added and never changed.
struct Step {
    sql: &'static str,
    /// The oldest version of which a build can still work on the schema after this step: unchanged by one that expands.
    oldest: u64,
}

const STEPS: &[Step] = &[
    Step { sql: FIRST, oldest: 1 },
    // A build that knows only the first version asks for no `oldest`, and fits.
    Step { sql: "ALTER TABLE keyfold.schema_version ADD COLUMN oldest bigint NOT NULL DEFAULT 1", oldest: 1 },
    Step { sql: AUDIT, oldest: 1 },
];

const FIRST: &str = r#"
    CREATE TABLE keyfold.counters (name text PRIMARY KEY, value bigint NOT NULL);
    INSERT INTO keyfold.counters (name, value) VALUES ('system', 0), ('system_forgotten', 0);
    CREATE SEQUENCE keyfold.revisions;

    CREATE TABLE keyfold.records (
        collection text COLLATE "C" NOT NULL,
        id text COLLATE "C" NOT NULL,
        revision bigint NOT NULL,
        doc text COLLATE "C" NOT NULL,
        PRIMARY KEY (collection, id)
    );

    -- A null value is a deleted document: it stays for a while, so that who waits for a change learns of it.
    CREATE TABLE keyfold.system (
        key text COLLATE "C" PRIMARY KEY,
        value bytea,
        version bigint NOT NULL UNIQUE,
        expires_at timestamptz
    );
    CREATE INDEX system_expiry ON keyfold.system (expires_at) WHERE expires_at IS NOT NULL;
"#;

const AUDIT: &str = r#"
    -- The audit log: who wrote, until when it counts as alive (null where it is closed), and what it wrote.
    CREATE TABLE keyfold.audit_writers (
        writer text COLLATE "C" PRIMARY KEY,
        lines bigint NOT NULL,
        tip text NOT NULL,
        ends timestamptz,
        written timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE INDEX audit_open ON keyfold.audit_writers (ends) WHERE ends IS NOT NULL;
    CREATE TABLE keyfold.audit_lines (
        writer text COLLATE "C" NOT NULL,
        number bigint NOT NULL,
        line bytea NOT NULL,
        PRIMARY KEY (writer, number)
    );
    CREATE TABLE keyfold.audit_notes (number bigint PRIMARY KEY, note text NOT NULL);
"#;

/// Any number, as long as nobody else locks it: "Kfld".
const LOCK: i64 = 0x4b66_6c64;

/// Brings the schema to this build's version. Whoever gets the lock first does it; the others find it done.
pub(super) async fn prepare(server: &Server, mode: OpenMode) -> Result<(), StoreError> {
    let known = STEPS.len() as u64;
    let too_new = |found| StoreError::SchemaTooNew { store: server.name().into(), found, known };
    let mut connection = server.acquire().await?;
    match found(server, &mut connection).await? {
        Some(version) if version == known => return Ok(()),
        Some(version) if version > known => {
            let oldest = sqlx::query_scalar("SELECT oldest FROM keyfold.schema_version").fetch_one(&mut *connection);
            // Where a newer Keyfold has expanded it, what it added is left alone.
            let fits = unsigned(server.answer(oldest).await?) <= known;
            return if fits { Ok(()) } else { Err(too_new(version)) };
        }
        None if mode == OpenMode::Existing => {
            let (store, what) = (server.name().into(), "it has no schema `keyfold` yet".into());
            let hint = "`keyfold init` with the same address makes it; if it was there, restore the database";
            return Err(StoreError::Unsuitable { store, what, hint });
        }
        _ => {}
    }
    let mut tx = server.answer(connection.begin()).await?;
    server.answer(sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx)).await?;
    let version = match found(server, &mut tx).await? {
        Some(version) => version,
        None => {
            let make = "CREATE SCHEMA keyfold; CREATE TABLE keyfold.schema_version (version bigint NOT NULL);
                        INSERT INTO keyfold.schema_version VALUES (0);";
            server.answer(sqlx::raw_sql(make).execute(&mut *tx)).await?;
            0
        }
    };
    let Some(steps) = usize::try_from(version).ok().and_then(|done| STEPS.get(done..)) else {
        return Err(too_new(version));
    };
    for step in steps {
        server.answer(sqlx::raw_sql(step.sql).execute(&mut *tx)).await?;
    }
    let done = i64::try_from(known).unwrap_or(i64::MAX);
    let oldest = steps.iter().map(|step| step.oldest).max().unwrap_or(1);
    let update = sqlx::query("UPDATE keyfold.schema_version SET version = $1, oldest = greatest(oldest, $2)");
    let update = update.bind(done).bind(i64::try_from(oldest).unwrap_or(i64::MAX));
    server.answer(update.execute(&mut *tx)).await?;
    server.answer(tx.commit()).await
}

/// The version of the schema; `None` where there is none at all.
async fn found(server: &Server, connection: &mut PgConnection) -> Result<Option<u64>, StoreError> {
    let (schema, table): (bool, bool) = server
        .answer(
            sqlx::query_as(
                "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = 'keyfold'),
                        to_regclass('keyfold.schema_version') IS NOT NULL",
            )
            .fetch_one(&mut *connection),
        )
        .await?;
    match (schema, table) {
        (false, _) => Ok(None),
        (true, false) => Err(StoreError::Foreign {
            store: server.name().into(),
            what: "its schema `keyfold` is another program's".into(),
        }),
        (true, true) => {
            let version = sqlx::query_scalar("SELECT version FROM keyfold.schema_version").fetch_one(connection);
            server.answer(version).await.map(|version| Some(unsigned(version)))
        }
    }
}
