//! `primary`: maps keys to secondaries and passes commands on to them.

use std::process::ExitCode;

use overspill::config::{PrimaryArgs, fail, parse};
use overspill::node::{Hangups, Primary, StopSignals, block_on, traced};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: PrimaryArgs = match parse(std::env::args_os()) {
        Ok(args) => args,
        Err(code) => return code,
    };
    let threads = args.threads;
    let run = async move {
        args.log.init()?;
        traced("overspill-primary", run(args)).await
    };
    block_on(threads, run).map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
}

async fn run(args: PrimaryArgs) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    let hangups = Hangups::listen()?;
    let options = args.into_options().await?;
    hangups.reload(options.door.tls.clone());
    let primary = Primary::start(options).await?;
    signals.next().await;
    primary.stop().await;
    Ok(())
}
