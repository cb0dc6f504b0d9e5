//! `kv`: the shell, on a running primary or on a cluster inside itself; and tools.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use overspill::check;
use overspill::clock::SystemClock;
use overspill::config::{BenchArgs, CheckArgs, HostPort, KvArgs, Target, Tool, fail, parse};
use overspill::node::{LocalCluster, StopSignals, block_on};
use overspill::progress::Progress;
use overspill::rpc::Client;
use overspill::shell::{Shell, ShellOptions, Status, Streams, Style};
use overspill::transfer::{self, Context, Failure};
use tokio_util::sync::CancellationToken;

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
        Ok(code) => code,
        Err(error) => {
            fail(&error);
            Status::Failed.into()
        }
    }
}

async fn run(args: KvArgs) -> anyhow::Result<ExitCode> {
    args.logging().init()?;
    match &args.tool {
        None => shell(args).await.map(ExitCode::from),
        Some(Tool::Check(CheckArgs { dir })) => {
            let (verdict, text) = check::check(dir, &mut check::tell_on_stderr());
            print!("{text}");
            Ok(verdict.into())
        }
        Some(Tool::Bench(bench)) => load(bench).await,
        Some(Tool::Export(export)) => {
            let context = context(&args, &export.node, export.patience.patience).await?;
            let client = connect(&args, export.node.to_string()).await?;
            let done = transfer::export(client, export.options(), context).await;
            Ok(tell(done.map(|exported| (transfer::Status::Done, exported.to_string()))))
        }
        Some(Tool::Import(import)) => {
            let context = context(&args, &import.node, import.patience.patience).await?;
            let client = connect(&args, import.node.to_string()).await?;
            let done = transfer::import(client, import.options(), context).await;
            Ok(tell(done.map(|imported| (imported.status(), imported.to_string()))))
        }
    }
}

/// Runs the plan until it is done or somebody asks to stop; then the figures are of what was done.
async fn load(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    args.node.check_resolves("HOST:PORT").await?;
    let (plan, stop) = (args.plan()?, stop_on_signals()?);
    let mut progress = Progress::stderr("requests");
    progress.begin("bench", plan.requests(), 0);
    let work = move || {
        let mut told = 0;
        plan.run(&stop, |answered| {
            progress.advance(answered - told, 0);
            told = answered;
        })
    };
    let report = tokio::task::spawn_blocking(work).await??;
    if args.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    Ok(ExitCode::SUCCESS)
}

/// On standard error: the records may be on standard output.
fn tell(done: Result<(transfer::Status, String), Failure>) -> ExitCode {
    let (status, text) = match done {
        Ok(done) => done,
        Err(Failure::Unfinished(reason)) => (transfer::Status::Unfinished, reason),
        Err(failure) => (failure.status(), format!("error: {failure}")),
    };
    eprintln!("{text}");
    status.into()
}

async fn context(args: &KvArgs, node: &HostPort, patience: Duration) -> anyhow::Result<Context> {
    node.check_resolves("HOST:PORT").await?;
    let (stop, progress) = (stop_on_signals()?, Progress::stderr("records"));
    Ok(Context { clock: SystemClock::shared(), stop, progress, timeout: args.timeout, patience })
}

/// Cancelled by the first signal to stop. The second ends the process as one that did not finish: whoever asks twice does not want to
/// wait for what is being finished.
fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let (mut signals, stop) = (StopSignals::listen()?, CancellationToken::new());
    let stopping = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        stopping.cancel();
        signals.next().await;
        std::process::exit(transfer::Status::Unfinished as i32);
    });
    Ok(stop)
}

async fn shell(args: KvArgs) -> anyhow::Result<Status> {
    let (target, command) = args.target()?;
    match target {
        Target::Node(node) => {
            node.check_resolves("HOST").await?;
            talk(&args, node.to_string(), command).await
        }
        Target::Local => {
            let cluster = LocalCluster::start(args.local()?).await?;
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

/// A client that is connected if the node could be reached soon. A shell that begins before it is says so.
async fn connect(args: &KvArgs, address: String) -> anyhow::Result<Client> {
    let client = Client::spawn(address, args.client()?);
    client.until_connected(CONNECT_PATIENCE).await.map_err(|reason| anyhow!("{reason}"))?;
    Ok(client)
}

/// Runs the command, or a conversation, or the lines of standard input.
async fn talk(args: &KvArgs, address: String, command: Vec<OsString>) -> anyhow::Result<Status> {
    let client = connect(args, address).await?;
    let link = Some(client.link());
    let shell = Shell::new(client, ShellOptions { timeout: args.timeout, history: args.history_file(), link });
    if command.is_empty() {
        shell.run_stdio().await
    } else {
        shell.run_one(command, Streams::stdio(Style::of_stdout())).await
    }
}
