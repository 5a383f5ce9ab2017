//! On what grounds a call is made: who asks, with which proof, for what. They are looked at again for as long as it goes on.

use std::{sync::Arc, time::Duration};

use keyfold_custody::access::{Place, authorize_at, op};

use super::{Proxy, proof::Proof};
use crate::{
    auth::{Caller, Peer},
    problem::Problem,
};

/// How often.
const AGAIN: Duration = Duration::from_secs(5);

/// Who asks.
pub(super) struct Asker {
    pub(super) caller: Caller,
    pub(super) proof: Proof,
    peer: Peer,
}

impl Asker {
    /// Of a proof that has to stand.
    ///
    /// # Errors
    /// As [`Proof::caller`].
    pub(super) async fn of(proxy: &Proxy, proof: Proof, peer: Peer) -> Result<Self, Problem> {
        Ok(Self { caller: proof.caller(proxy, &peer).await?, proof, peer })
    }
}

/// The grounds of a call.
pub(super) struct Grounds {
    pub(super) proxy: Arc<Proxy>,
    pub(super) asker: Asker,
    pub(super) destination: String,
    pub(super) method: String,
    pub(super) path: String,
}

impl Grounds {
    /// Resolves once they are gone: the proof does not hold any more, or the grant. Gives the word for it.
    pub(super) async fn gone(&self) -> &'static str {
        loop {
            tokio::time::sleep(AGAIN).await;
            if let Err(problem) = self.hold().await {
                return problem.code();
            }
        }
    }

    async fn hold(&self) -> Result<(), Problem> {
        let caller = self.asker.proof.known(&self.proxy, &self.asker.peer).await?;
        let place = Place::Destination(&self.destination, Some((&self.method, &self.path)));
        authorize_at::<op::Use>(&caller.subject, &place)?;
        Ok(())
    }
}
