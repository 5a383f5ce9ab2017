//! `keyfold init`

use crate::{
    failure::{Exit, Failure},
    folder,
    invocation::Invocation,
    output,
};

#[derive(clap::Args)]
#[command(
    after_help = "The root key is made in DIR/root.key (0600) unless KEYFOLD_ROOT_KEY or `root_key` in the configuration \
                  names another: file:, env:, pkcs11:, aws-kms://, gcp-kms:// or hcvault://. Copy a file away: without it \
                  nothing opens again. Run again, the command changes nothing."
)]
pub(crate) struct Args {}

pub(crate) async fn run(_: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    let made = folder::init(invocation).await?;
    if invocation.json() {
        output::json(&made)?;
        return Ok(Exit::Done);
    }
    if made.existed {
        let joined = if made.joined { "joined" } else { "nothing to do:" };
        output::line(&format!("data folder   {} ({joined} deployment {})", made.folder, made.deployment))?;
        return Ok(Exit::Done);
    }
    output::line(&format!("data folder   {}", made.folder))?;
    output::line(&format!("root key      {} (copy it away: without it nothing opens again)", made.root_key))?;
    if let Some(system) = &made.system {
        output::line(&format!("system store  {system}"))?;
    }
    output::line(&format!("deployment    {}", made.deployment))?;
    output::line(&format!("first key     {}", made.kid))?;
    output::line("next          say where your secrets are in keyfold.toml, then `keyfold records put`")?;
    Ok(Exit::Done)
}
