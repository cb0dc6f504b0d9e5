//! `kv`: the shell, on a running primary or on a cluster inside itself.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use overspill::config::{KvArgs, Target, fail, parse};
use overspill::node::{LocalCluster, block_on};
use overspill::rpc::{Client, Options};
use overspill::shell::{Shell, ShellOptions, Status, Streams, Style};
use tokio::time::timeout;

/// How long the first prompt waits for the connection.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: KvArgs = match parse(std::env::args_os()) {
        Ok(args) => args,
        Err(code) => return code,
    };
    match block_on(2, run(args)) {
        Ok(status) => status.into(),
        Err(error) => {
            fail(&error);
            Status::Failed.into()
        }
    }
}

async fn run(args: KvArgs) -> anyhow::Result<Status> {
    args.logging().init()?;
    let (target, command) = args.target()?;
    match target {
        Target::Node(node) => {
            node.check_resolves("HOST").await?;
            talk(&args, node.to_string(), command).await
        }
        Target::Local => {
            let cluster = LocalCluster::start(args.local()).await?;
            let secondaries: Vec<String> = cluster.secondaries().map(|address| address.to_string()).collect();
            eprintln!(
                "A cluster in this process: primary {}, secondaries {}; records in {}. `help` lists the commands.",
                cluster.address(),
                secondaries.join(" and "),
                cluster.file().display(),
            );
            cluster.until_served(args.timeout).await?;
            let status = talk(&args, cluster.address().to_string(), command).await;
            cluster.stop().await?;
            status
        }
    }
}

/// Runs the command, or a conversation, or the lines of standard input.
async fn talk(args: &KvArgs, address: String, command: Vec<OsString>) -> anyhow::Result<Status> {
    let client = Client::spawn(address, Options::default());
    let mut link = client.link();
    // A shell that begins before it is connected says so.
    let _ = timeout(CONNECT_PATIENCE, link.wait_for(|&is_up| is_up)).await.is_ok();
    let link = Some(link);
    let shell = Shell::new(client, ShellOptions { timeout: args.timeout, history: args.history_file(), link });
    if command.is_empty() {
        shell.run_stdio().await
    } else {
        shell.run_one(command, Streams::stdio(Style::of_stdout())).await
    }
}
