//! `secondary`: serves a shard from memory and spills what it evicts.

use std::process::ExitCode;

use anyhow::bail;
use overspill::config::{SecondaryArgs, fail, parse};
use overspill::node::{Hangups, Secondary, StopSignals, block_on, traced};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: SecondaryArgs = match parse(std::env::args_os()) {
        Ok(args) => args,
        Err(code) => return code,
    };
    let threads = args.threads;
    let run = async move {
        args.log.init()?;
        traced("overspill-secondary", run(args)).await
    };
    block_on(threads, run).map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
}

async fn run(args: SecondaryArgs) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    let hangups = Hangups::listen()?;
    let options = args.into_options().await?;
    hangups.reload(options.door.tls.clone());
    let secondary = Secondary::start(options).await?;
    tokio::select! {
        () = signals.next() => {}
        reason = secondary.failed() => bail!("{reason}"),
    }
    tokio::select! {
        stopped = secondary.stop() => Ok(stopped.map(|_| ())?),
        () = signals.next() => bail!("told to stop a second time, before everything was spilled"),
    }
}
