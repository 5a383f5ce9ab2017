//! Scripts: by their hash, and with their text to a server that does not hold them.

use redis::{Cmd, Script, Value};

use super::{link::Link, node::Effect, reply};
use crate::store::StoreError;

/// A script and the hash that servers know it by.
pub(super) struct Code {
    text: &'static str,
    script: Script,
}

impl Code {
    pub(super) fn new(text: &'static str) -> Self {
        Self { text, script: Script::new(text) }
    }

    /// Runs it once for each key. `arguments` adds the number of keys, the keys and the arguments of one run.
    pub(super) async fn run(
        &self,
        link: &Link,
        keys: &[Vec<u8>],
        arguments: &(dyn Fn(usize, &mut Cmd) + Sync),
    ) -> Result<Vec<Value>, StoreError> {
        let by_hash = |n| {
            let mut command = Cmd::new();
            command.arg("EVALSHA").arg(self.script.get_hash());
            arguments(n, &mut command);
            command
        };
        let mut values = link.each(keys, &by_hash, Effect::Some).await?;
        let missing: Vec<_> = (0..keys.len()).filter(|n| reply::is_no_script(&values[*n])).collect();
        if !missing.is_empty() {
            let again: Vec<_> = missing.iter().map(|n| keys[*n].clone()).collect();
            let by_text = |n: usize| {
                let mut command = Cmd::new();
                command.arg("EVAL").arg(self.text);
                arguments(missing[n], &mut command);
                command
            };
            let answers = link.each(&again, &by_text, Effect::Some).await?;
            missing.iter().zip(answers).for_each(|(n, answer)| values[*n] = answer);
        }
        Ok(values)
    }

    /// Runs it once, on keys of one slot.
    pub(super) async fn run_one(
        &self,
        link: &Link,
        keys: &[Vec<u8>],
        arguments: impl Fn(&mut Cmd) + Sync + Send,
    ) -> Result<Value, StoreError> {
        let whole = |_: usize, command: &mut Cmd| {
            command.arg(keys.len());
            for key in keys {
                command.arg(key);
            }
            arguments(command);
        };
        let mut values = self.run(link, &keys[..1], &whole).await?;
        values.pop().unwrap_or_default().extract_error().map_err(|error| link.error(error))
    }
}
