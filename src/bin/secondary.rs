//! `secondary`: serves a shard from memory and spills what it evicts.

use std::process::ExitCode;

use overspill::config::{SecondaryArgs, fail, parse};
use overspill::node::{Secondary, run_until_signal};

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
        let secondary = Secondary::start(args.into_options().await?).await?;
        run_until_signal().await?;
        secondary.stop().await?;
        Ok(())
    };
    overspill::node::block_on(threads, run).map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
}
