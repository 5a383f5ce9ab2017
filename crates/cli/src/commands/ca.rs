//! `keyfold ca`: whom to trust behind the proxy's CONNECT.

use keyfold_custody::access::{Permit, op::Manage};
use keyfold_server::proxy::authority_pem;
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    folder,
    invocation::Invocation,
    output,
    remote::Remote,
};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  keyfold ca > keyfold.pem\n  curl --cacert keyfold.pem --proxy http://127.0.0.1:8741 …\n  \
                  keyfold ca | sudo tee /usr/local/share/ca-certificates/keyfold.crt && sudo update-ca-certificates\n\n\
                  Who trusts it trusts this deployment for every name. `keyfold run` sets it up for one command, without \
                  touching the machine."
)]
pub(crate) struct Args {}

pub(crate) async fn run(_: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    let pem = match Remote::of(invocation)? {
        Some(remote) => remote.authority().await?,
        None => {
            folder::with(invocation, "ca", async |opened| {
                // The first who asks makes it.
                let _permit: Permit<Manage> = opened.permit()?;
                Ok(authority_pem(&opened.custody).await?)
            })
            .await?
        }
    };
    if invocation.json() {
        output::json(&json!({ "pem": pem }))?;
    } else {
        output::data(pem.as_bytes())?;
    }
    Ok(Exit::Done)
}
