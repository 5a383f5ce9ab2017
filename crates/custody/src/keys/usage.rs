//! Counting wraps with random nonces under a raw master key (NIST SP 800-38D §8.3).
//!
//! Blocks are reserved before they are used, so that a crash counts too much and never too little. Other programs that hold
//! the same key are not seen: the count is a lower bound.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use keyfold_core::{
    envelope::redis_sre_v1::{MAX_WRAPS, WARN_WRAPS},
    error::Code,
    id::KeyId,
};

use crate::{
    error::CustodyError,
    store::{Expect, Put, SystemStore},
};

/// How many wraps are reserved at once.
const BLOCK: u64 = 1024;

/// The counters of a deployment.
pub struct Usage {
    system: Arc<dyn SystemStore>,
    left: Mutex<HashMap<KeyId, u64>>,
}

impl Usage {
    /// In a system store.
    #[must_use]
    pub fn new(system: Arc<dyn SystemStore>) -> Self {
        Self { system, left: Mutex::new(HashMap::new()) }
    }

    fn key(kid: KeyId) -> String {
        format!("usage/{kid}")
    }

    fn take(&self, kid: KeyId, wraps: u64) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let here = left.entry(kid).or_insert(0);
        let enough = *here >= wraps;
        if enough {
            *here -= wraps;
        }
        enough
    }

    /// Reserves `wraps` wraps under `kid` before they are made.
    ///
    /// # Errors
    /// `key_usage_exhausted` at 2^32; the store.
    pub async fn reserve(&self, kid: KeyId, wraps: u64) -> Result<(), CustodyError> {
        self.reserve_in_blocks(kid, wraps, BLOCK).await
    }

    /// As [`Usage::reserve`], and no more than that: for a process that ends right after, and would leave the rest of a block
    /// counted and unused.
    ///
    /// # Errors
    /// As [`Usage::reserve`].
    pub async fn reserve_just(&self, kid: KeyId, wraps: u64) -> Result<(), CustodyError> {
        self.reserve_in_blocks(kid, wraps, wraps).await
    }

    async fn reserve_in_blocks(&self, kid: KeyId, wraps: u64, block: u64) -> Result<(), CustodyError> {
        if self.take(kid, wraps) {
            return Ok(());
        }
        let block = wraps.max(block);
        loop {
            let doc = self.system.get(&Self::key(kid)).await?;
            let (count, expect) = match &doc {
                None => (0, Expect::Absent),
                Some(doc) => (parse(kid, &doc.value)?, Expect::Version(doc.version)),
            };
            let next = count.saturating_add(block);
            if next > MAX_WRAPS {
                return Err(CustodyError::Invalid {
                    what: format!("key `{kid}` has sealed {count} v1 values; 2^32 is the most that is safe"),
                    hint: "create and promote a new key, then `keyfold rotate`".into(),
                    code: Some(Code::KeyUsageExhausted),
                });
            }
            if next > WARN_WRAPS && count <= WARN_WRAPS {
                tracing::warn!(%kid, count, "a master key has sealed over 2^31 v1 values; rotate it soon");
            }
            if let Put::Stored { .. } =
                self.system.put(&Self::key(kid), next.to_string().as_bytes(), expect, None).await?
            {
                let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
                *left.entry(kid).or_insert(0) += block - wraps;
                return Ok(());
            }
        }
    }

    /// How many wraps were reserved so far.
    ///
    /// # Errors
    /// The store, or a counter that is none.
    pub async fn count(&self, kid: KeyId) -> Result<u64, CustodyError> {
        let doc = self.system.get(&Self::key(kid)).await?;
        doc.map_or(Ok(0), |doc| parse(kid, &doc.value))
    }
}

fn parse(kid: KeyId, value: &[u8]) -> Result<u64, CustodyError> {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
        CustodyError::invalid(
            format!("the usage counter of key `{kid}` is damaged"),
            "promote a new key: how often this one sealed is unknown",
        )
    })
}
