//! The audit log in PostgreSQL: one statement for each append, so that it is there whole or not at all.

use async_trait::async_trait;
use keyfold_core::{audit::Tip, id::WriterId};

use super::{PostgresStore, unsigned};
use crate::{
    audit_log::stored::{AT_ONCE, Append, Known, Lines, SILENCE},
    store::StoreError,
};

const APPEND: &str = "
    WITH w AS (
        INSERT INTO keyfold.audit_writers AS w (writer, lines, tip, ends)
        SELECT $1, $2 + $5, $3, clock_timestamp() + $4::int8 * interval '1 millisecond'
        WHERE $2 = 0 OR EXISTS (SELECT 1 FROM keyfold.audit_writers WHERE writer = $1)
        ON CONFLICT (writer) DO UPDATE
            SET lines = excluded.lines, tip = excluded.tip, ends = excluded.ends, written = clock_timestamp()
            WHERE w.lines = $2
        RETURNING 1)
    INSERT INTO keyfold.audit_lines (writer, number, line)
    SELECT $1, $2 + u.n - 1, u.line FROM unnest($6::bytea[]) WITH ORDINALITY AS u (line, n)
    WHERE EXISTS (SELECT 1 FROM w)";

fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl PostgresStore {
    /// A place for the audit log there.
    #[must_use]
    pub fn audit(&self) -> crate::audit_log::Stored {
        crate::audit_log::Stored(std::sync::Arc::new(self.clone()))
    }

    fn writer(&self, text: &str) -> Result<WriterId, StoreError> {
        text.parse().map_err(|_| self.server().corrupt("an audit writer's id is not one"))
    }
}

#[async_trait]
impl Lines for PostgresStore {
    fn name(&self) -> String {
        self.server().name().to_owned()
    }

    async fn append(&self, append: &Append<'_>) -> Result<bool, StoreError> {
        let tip =
            serde_json::to_string(&append.tip).map_err(|_| StoreError::invalid("a chain's end cannot be written"))?;
        let query = sqlx::query(APPEND)
            .bind(append.writer.to_string())
            .bind(number(append.first))
            .bind(tip)
            .bind(i64::try_from(SILENCE.as_millis()).unwrap_or(i64::MAX))
            .bind(count(append.lines.len()))
            .bind(append.lines);
        let done = self.server().answer(query.execute(self.server().pool())).await?;
        Ok(done.rows_affected() == append.lines.len() as u64)
    }

    async fn lines(&self, writer: WriterId, from: u64, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let query = sqlx::query_scalar(
            "SELECT line FROM keyfold.audit_lines WHERE writer = $1 AND number >= $2 ORDER BY number LIMIT $3",
        )
        .bind(writer.to_string())
        .bind(number(from))
        .bind(count(limit));
        self.server().answer(query.fetch_all(self.server().pool())).await
    }

    async fn last(&self, writer: WriterId, most: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let query =
            sqlx::query_scalar("SELECT line FROM keyfold.audit_lines WHERE writer = $1 ORDER BY number DESC LIMIT $2")
                .bind(writer.to_string())
                .bind(count(most));
        let mut lines: Vec<Vec<u8>> = self.server().answer(query.fetch_all(self.server().pool())).await?;
        lines.reverse();
        Ok(lines)
    }

    async fn writers(&self) -> Result<Vec<Known>, StoreError> {
        // Lines whose writer was struck out are part of the log too. From one writer to the next in the index, past their lines.
        let query = sqlx::query_as(
            "WITH RECURSIVE l AS (
                 (SELECT writer FROM keyfold.audit_lines ORDER BY writer LIMIT 1)
                 UNION ALL
                 SELECT (SELECT a.writer FROM keyfold.audit_lines a WHERE a.writer > l.writer ORDER BY a.writer LIMIT 1)
                 FROM l WHERE l.writer IS NOT NULL)
             SELECT l.writer, coalesce(floor(extract(epoch FROM w.written) * 1000)::int8, 0)
             FROM l LEFT JOIN keyfold.audit_writers w USING (writer) WHERE l.writer IS NOT NULL",
        );
        let rows: Vec<(String, i64)> = self.server().answer(query.fetch_all(self.server().pool())).await?;
        rows.into_iter().map(|(writer, written)| Ok(Known { writer: self.writer(&writer)?, written })).collect()
    }

    async fn beat(&self, writer: WriterId) -> Result<(), StoreError> {
        let query = sqlx::query(
            "UPDATE keyfold.audit_writers SET ends = clock_timestamp() + $2::int8 * interval '1 millisecond'
             WHERE writer = $1 AND ends IS NOT NULL",
        )
        .bind(writer.to_string())
        .bind(i64::try_from(SILENCE.as_millis()).unwrap_or(i64::MAX));
        self.server().answer(query.execute(self.server().pool())).await.map(drop)
    }

    async fn dead(&self) -> Result<Vec<Tip>, StoreError> {
        let query =
            sqlx::query_scalar("SELECT tip FROM keyfold.audit_writers WHERE ends <= clock_timestamp() LIMIT $1")
                .bind(count(AT_ONCE));
        let tips: Vec<String> = self.server().answer(query.fetch_all(self.server().pool())).await?;
        let parse = |tip: &String| {
            serde_json::from_str(tip).map_err(|_| self.server().corrupt("the end of an audit chain is not readable"))
        };
        tips.iter().map(parse).collect()
    }

    async fn close(&self, tips: &[Tip]) -> Result<(), StoreError> {
        let (writers, lines): (Vec<_>, Vec<_>) =
            tips.iter().map(|tip| (tip.writer.to_string(), number(tip.size + 1))).unzip();
        let query = sqlx::query(
            "UPDATE keyfold.audit_writers w SET ends = NULL
             FROM unnest($1::text[], $2::int8[]) AS c (writer, lines) WHERE w.writer = c.writer AND w.lines = c.lines",
        )
        .bind(writers)
        .bind(lines);
        self.server().answer(query.execute(self.server().pool())).await.map(drop)
    }

    async fn cut(&self, writer: WriterId, was: &[u8], cut: &[u8]) -> Result<bool, StoreError> {
        let query =
            sqlx::query("UPDATE keyfold.audit_lines SET line = $3 WHERE writer = $1 AND number = 1 AND line = $2")
                .bind(writer.to_string())
                .bind(was)
                .bind(cut);
        Ok(self.server().answer(query.execute(self.server().pool())).await?.rows_affected() == 1)
    }

    async fn forget(&self, writer: WriterId, last: u64) -> Result<(), StoreError> {
        let query = sqlx::query("DELETE FROM keyfold.audit_lines WHERE writer = $1 AND number BETWEEN 2 AND $2")
            .bind(writer.to_string())
            .bind(number(last));
        self.server().answer(query.execute(self.server().pool())).await.map(drop)
    }

    async fn notes(&self, from: u64, limit: usize) -> Result<Vec<(u64, String)>, StoreError> {
        let query =
            sqlx::query_as("SELECT number, note FROM keyfold.audit_notes WHERE number >= $1 ORDER BY number LIMIT $2")
                .bind(number(from))
                .bind(count(limit));
        let rows: Vec<(i64, String)> = self.server().answer(query.fetch_all(self.server().pool())).await?;
        Ok(rows.into_iter().map(|(number, note)| (unsigned(number), note)).collect())
    }

    async fn last_note(&self) -> Result<Option<(u64, String)>, StoreError> {
        let query = sqlx::query_as("SELECT number, note FROM keyfold.audit_notes ORDER BY number DESC LIMIT 1");
        let row: Option<(i64, String)> = self.server().answer(query.fetch_optional(self.server().pool())).await?;
        Ok(row.map(|(number, note)| (unsigned(number), note)))
    }

    async fn add_note(&self, place: u64, note: &str) -> Result<bool, StoreError> {
        let query = sqlx::query(
            "INSERT INTO keyfold.audit_notes (number, note) SELECT $1, $2
             WHERE $1 = 1 + (SELECT coalesce(max(number), 0) FROM keyfold.audit_notes) ON CONFLICT (number) DO NOTHING",
        )
        .bind(number(place))
        .bind(note);
        Ok(self.server().answer(query.execute(self.server().pool())).await?.rows_affected() == 1)
    }
}
