//! Connections to a server: bounded in number and time, with the session settings that everything here relies on.

use std::{future::Future, time::Duration};

use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{PostgresAddress, error};
use crate::store::StoreError;

/// How long making a connection, or waiting for a free one, may take.
const CONNECT: Duration = Duration::from_secs(15);

/// How long one answer may take: a little longer than the server itself allows a statement.
const ANSWER: Duration = Duration::from_secs(75);

/// A connection that rested for longer is asked whether it lives before it is used.
const RESTED: Duration = Duration::from_secs(1);

/// The most connections at once.
const CONNECTIONS: u32 = 8;

/// What every session is set to. Keys are spelled as text, so what decides the spelling is fixed; a policy that would hide
/// rows is an error instead; and a commit is on the disk when it returns.
const SESSION: &str = "
    SET default_transaction_isolation = 'read committed';
    SET bytea_output = 'hex';
    SET IntervalStyle = 'iso_8601';
    SET row_security = off;
    SET statement_timeout = '60s';
    SET lock_timeout = '30s';
    SET idle_in_transaction_session_timeout = '120s';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
";

/// A server's database, as everything here uses it. Clones share the connections.
#[derive(Clone)]
pub(in crate::store) struct Server {
    name: String,
    pool: PgPool,
}

impl Server {
    /// Connects once, so that a wrong address is an error now and not a wait later.
    pub(in crate::store) async fn connect(address: &PostgresAddress) -> Result<Self, StoreError> {
        let name = address.to_string();
        let options: PgConnectOptions = address.options.clone().disable_statement_logging();
        let first = async {
            let mut first = PgConnection::connect_with(&options).await?;
            sqlx::raw_sql(SESSION).execute(&mut first).await?;
            first.close().await
        };
        match tokio::time::timeout(CONNECT, first).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(error::classify(&name, e)),
            Err(_) => return Err(late(&name, "it did not answer in 15 seconds")),
        }
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(CONNECT)
            .test_before_acquire(false)
            .before_acquire(|connection, about| {
                Box::pin(async move {
                    Ok(about.idle_for < RESTED
                        || tokio::time::timeout(CONNECT, connection.ping()).await.is_ok_and(|ping| ping.is_ok()))
                })
            })
            .after_connect(|connection, _| {
                Box::pin(async move { sqlx::raw_sql(SESSION).execute(connection).await.map(|_| ()) })
            })
            .connect_lazy_with(options);
        Ok(Self { name, pool })
    }

    pub(in crate::store) fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::store) fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub(in crate::store) async fn acquire(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        self.pool.acquire().await.map_err(|e| self.error(e))
    }

    /// Waits for an answer, and no longer than for a while.
    pub(in crate::store) async fn answer<T>(
        &self,
        question: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        self.patient(question).await.map_err(|e| self.error(e))
    }

    /// As [`Server::answer`], with the driver's error.
    pub(in crate::store) async fn patient<T>(
        &self,
        question: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        match tokio::time::timeout(ANSWER, question).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in 75 seconds")))
            }
        }
    }

    pub(in crate::store) fn error(&self, e: sqlx::Error) -> StoreError {
        error::classify(&self.name, e)
    }

    pub(in crate::store) fn corrupt(&self, what: impl Into<String>) -> StoreError {
        StoreError::Corrupt { store: self.name.clone(), what: what.into(), source: None }
    }
}

fn late(name: &str, what: &str) -> StoreError {
    StoreError::Unavailable { store: name.into(), what: what.into(), retry: true, source: None }
}
