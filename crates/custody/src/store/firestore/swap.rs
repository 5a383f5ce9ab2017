//! Swaps: read, compare, write what differs, in two round trips for many documents.

use std::collections::HashSet;

use super::{
    change,
    client::{Client, Write},
    error::{self, code},
    path::Place,
    value,
};
use crate::store::{StoreError, Swap, Swapped};

/// The most documents of one call.
const MOST: usize = 500;

/// The most bytes, old and new, of one call: Firestore takes 10 MiB, and escapes make text longer.
const BYTES: usize = 4 << 20;

/// How often a document is looked at again that somebody wrote, or held, at that very moment.
const ROUNDS: usize = 5;

/// What is to be done with one document.
struct Task<'a> {
    /// Its place in the batch.
    at: usize,
    path: String,
    swap: &'a Swap,
}

/// Swaps in order; those of one document one after another.
pub(super) async fn run(client: &Client, place: &Place, batch: &[Swap]) -> Result<Vec<Swapped>, StoreError> {
    let mut results = vec![Swapped::Gone; batch.len()];
    let (mut wave, mut paths, mut bytes) = (Vec::new(), HashSet::new(), 0);
    for (at, swap) in batch.iter().enumerate() {
        // No document can have that key.
        let Some(path) = place.path(&swap.key) else { continue };
        let size = swap.old.len() + swap.new.len();
        if paths.contains(&path) || wave.len() == MOST || (bytes + size > BYTES && !wave.is_empty()) {
            at_once(client, std::mem::take(&mut wave), &mut results).await?;
            paths.clear();
            bytes = 0;
        }
        bytes += size;
        paths.insert(path.clone());
        wave.push(Task { at, path, swap });
    }
    at_once(client, wave, &mut results).await?;
    Ok(results)
}

/// Swaps of different documents.
async fn at_once(client: &Client, mut tasks: Vec<Task<'_>>, results: &mut [Swapped]) -> Result<(), StoreError> {
    for _ in 0..ROUNDS {
        if tasks.is_empty() {
            return Ok(());
        }
        let paths: Vec<&str> = tasks.iter().map(|task| task.path.as_str()).collect();
        let documents = client.get(&paths).await?;
        let (mut writes, mut written) = (Vec::new(), Vec::new());
        for (task, document) in tasks.into_iter().zip(documents) {
            let Some(document) = document else {
                results[task.at] = Swapped::Gone;
                continue;
            };
            if value::text(&document.fields).as_bytes() != task.swap.old.as_bytes() {
                results[task.at] = Swapped::Changed;
                continue;
            }
            let new = task.swap.new.as_str().unwrap_or_default();
            let change = change::between(document.fields, new)
                .map_err(|what| StoreError::invalid(format!("`{}`: {what}", task.swap.key)))?;
            if change.mask.is_empty() {
                results[task.at] = Swapped::Done;
                continue;
            }
            let (mask, fields) = (change.mask, change.fields);
            writes.push(Write { path: task.path.clone(), mask, fields, updated: document.updated });
            written.push(task);
        }
        tasks = Vec::new();
        if writes.is_empty() {
            return Ok(());
        }
        let answers = client.write(&writes).await?;
        let mut failure = None;
        for (task, answer) in written.into_iter().zip(answers) {
            match answer.code {
                code::OK => results[task.at] = Swapped::Done,
                code::NOT_FOUND => results[task.at] = Swapped::Gone,
                code::INVALID_ARGUMENT => results[task.at] = Swapped::Refused,
                // Written by somebody else, or gone, or held: looking again tells.
                code::FAILED_PRECONDITION | code::ABORTED => tasks.push(task),
                _ => failure = Some(error::of_write(&client.name, &answer)),
            }
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
    }
    // It holds what was read, and is being written all the time. The caller comes again.
    for task in tasks {
        results[task.at] = Swapped::Changed;
    }
    Ok(())
}
