//! Servers that are away, silent, slow, or die in the middle of a commit; and what the tier in memory plays on demand.

use std::time::{Duration, Instant};

use overspill::cluster::FenceToken;
use overspill::record::Lsn;
use overspill::tier::memory::{CommitFault, MemoryTier};
use overspill::tier::mysql::{MySqlOptions, MySqlTier, TlsMode};
use overspill::tier::{Lane, SharedTier, TierError};
use sqlx::Executor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::harness::*;

fn is_unavailable<T: std::fmt::Debug>(outcome: &Result<T, TierError>) -> bool {
    matches!(outcome, Err(TierError::Unavailable(_)))
}

/// Options with short deadlines.
fn hasty(host: &str, port: u16) -> MySqlOptions {
    MySqlOptions {
        connect_timeout: Duration::from_millis(500),
        statement_timeout: Duration::from_millis(500),
        ..MySqlOptions::new(host, port)
    }
}

#[tokio::test]
async fn a_server_that_is_away_or_silent_is_unavailable_within_a_bound() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for port in [nobody, silent.local_addr().unwrap().port()] {
        let tier = MySqlTier::new(hasty("127.0.0.1", port));
        let tier = SharedTier::new(tier);
        let start = Instant::now();
        assert!(is_unavailable(&tier.prepare().await));
        assert!(is_unavailable(&tier.load(&[key("k")]).await));
        assert!(is_unavailable(&tier.flush(&shard(), Lane::FIRST, FenceToken(1), &[], Lsn(1)).await));
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_missing_folder_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let tier = SharedTier::new(overspill::tier::sqlite::SqliteTier::new(folder.path().join("missing/tier.db")));
    assert!(is_unavailable(&tier.prepare().await));
}

/// What a proxy does to the bytes that a client sends.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    Never,
    /// The connection breaks when the client has sent COMMIT; the server has got it.
    AfterCommit,
    /// The connection breaks instead of carrying COMMIT.
    BeforeCommit,
    /// COMMIT is carried, and nothing ever comes back.
    SilentAfterCommit,
    /// None; but a text of several statements is refused, as by a server that takes one at a time.
    SeveralStatements,
}

/// What a server says to a text that it does not understand, as the first packet of its answer.
const REFUSAL: &[u8] = b"\x1e\0\0\x01\xff\x28\x04#42000one statement, please";

/// A server behind a proxy that can be broken.
struct Proxy {
    port: u16,
    cut: tokio::sync::watch::Sender<Cut>,
    accept: tokio::task::JoinHandle<()>,
}

impl Proxy {
    async fn new(server: String) -> Self {
        Self::on(server, TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn on(server: String, listener: TcpListener) -> Self {
        let port = listener.local_addr().unwrap().port();
        let (cut, cuts) = tokio::sync::watch::channel(Cut::Never);
        let accept = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let upstream = TcpStream::connect(&server).await.unwrap();
                connections.spawn(carry(client, upstream, cuts.clone()));
            }
        });
        Self { port, cut, accept }
    }

    /// Breaks every connection and listens no more.
    async fn stop(self) -> u16 {
        self.accept.abort();
        let _ = self.accept.await;
        self.port
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, cuts: tokio::sync::watch::Receiver<Cut>) {
    let (mut from_client, mut from_server) = ([0; 65536], [0; 65536]);
    let mut silent = false;
    loop {
        tokio::select! {
            n = client.read(&mut from_client) => {
                let Ok(n @ 1..) = n else { return };
                let bytes = &from_client[..n];
                let is_several = bytes.get(4) == Some(&3) && bytes.windows(2).any(|w| w == b"; ");
                if is_several && *cuts.borrow() == Cut::SeveralStatements {
                    if client.write_all(REFUSAL).await.is_err() {
                        return;
                    }
                    continue;
                }
                // A query packet, not the word in a session setting.
                let cut = if bytes.windows(7).any(|w| w == b"\x03COMMIT") { *cuts.borrow() } else { Cut::Never };
                if cut == Cut::BeforeCommit || server.write_all(bytes).await.is_err() {
                    return;
                }
                if cut == Cut::AfterCommit {
                    // The server's answer proves that it has committed; it goes nowhere.
                    let _ = server.read(&mut from_server).await;
                    return;
                }
                silent |= cut == Cut::SilentAfterCommit;
            }
            n = server.read(&mut from_server) => {
                let Ok(n @ 1..) = n else { return };
                if !silent && client.write_all(&from_server[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The test server, reached through a proxy that can read what is sent.
async fn proxied(database: &Database) -> (Proxy, SharedTier) {
    let options = &database.options;
    let proxy = Proxy::new(format!("{}:{}", options.host, options.port)).await;
    let through = MySqlOptions { tls: TlsMode::Off, port: proxy.port, host: "127.0.0.1".into(), ..options.clone() };
    let through = MySqlOptions { statement_timeout: Duration::from_secs(1), ..through };
    (proxy, SharedTier::new(MySqlTier::new(through)))
}

/// A flush sends two statements at once: who refuses that is not to be used, and says so before there is something to flush.
#[tokio::test]
async fn a_server_that_takes_one_statement_at_a_time_is_found_out_when_a_connection_is_set_up() {
    let Some(database) = mysql() else { return };
    let place = Place::MySql(database);
    drop(owned(&place).await);
    let Place::MySql(database) = &place else { unreachable!() };
    let (proxy, tier) = proxied(database).await;
    proxy.cut.send_replace(Cut::SeveralStatements);
    for refused in [tier.prepare().await.map(drop), tier.load(&[key("k")]).await.map(drop)] {
        let Err(TierError::Unavailable(reason)) = refused else { panic!("{refused:?}") };
        assert!(reason.contains("one statement, please"), "{reason}");
    }
    proxy.cut.send_replace(Cut::Never);
    assert_eq!(load_one(&tier, "k").await, None);
}

/// R26
#[tokio::test]
async fn a_connection_that_breaks_at_commit_leaves_the_outcome_unknown() {
    let Some(database) = mysql() else { return };
    let place = Place::MySql(database);
    let direct = owned(&place).await;
    let Place::MySql(database) = &place else { unreachable!() };
    let (proxy, tier) = proxied(database).await;
    for (cut, k, written) in
        [(Cut::AfterCommit, "a", true), (Cut::BeforeCommit, "b", false), (Cut::SilentAfterCommit, "c", true)]
    {
        proxy.cut.send_replace(cut);
        let outcome = tier.flush(&shard(), Lane::FIRST, FenceToken(1), &[set(k, "v", (1, 1))], Lsn(1)).await;
        assert!(matches!(outcome, Err(TierError::OutcomeUnknown(_))), "{outcome:?}");
        proxy.cut.send_replace(Cut::Never);
        assert_eq!(load_one(&direct, k).await.is_some(), written);
        // And the tier goes on with a new connection.
        write(&tier, &[set(k, "again", (1, 2))]).await;
        assert_eq!(load_one(&tier, k).await, Some(record(k, "again", (1, 2))));
    }
}

#[tokio::test]
async fn a_server_that_went_away_and_came_back_is_used_again() {
    let Some(database) = mysql() else { return };
    let place = Place::MySql(database);
    drop(owned(&place).await);
    let Place::MySql(database) = &place else { unreachable!() };
    let (proxy, tier) = proxied(database).await;
    write(&tier, &[set("k", "v", (1, 1))]).await;
    let port = proxy.stop().await;
    assert!(is_unavailable(&tier.load(&[key("k")]).await));
    assert!(is_unavailable(&tier.flush(&shard(), Lane::FIRST, FenceToken(1), &[set("k", "v", (1, 2))], Lsn(1)).await));
    let server = format!("{}:{}", database.options.host, database.options.port);
    let _back = Proxy::on(server, TcpListener::bind(("127.0.0.1", port)).await.unwrap());
    assert_eq!(load_one(&tier, "k").await, Some(record("k", "v", (1, 1))));
    write(&tier, &[set("k", "v", (1, 3))]).await;
}

/// R5, sqlx issue 563.
#[tokio::test]
async fn a_statement_that_ran_out_of_time_or_was_dropped_takes_its_connection_with_it() {
    let Some(mut database) = mysql() else { return };
    database.options.statement_timeout = Duration::from_millis(700);
    database.options.connections_max = 1;
    let place = Place::MySql(database);
    let tier = owned(&place).await;
    let Place::MySql(database) = &place else { unreachable!() };
    write(&tier, &[set("k", "v", (1, 1))]).await;
    let mut holder = database.connect().await;
    holder.execute("START TRANSACTION").await.unwrap();
    holder.execute("UPDATE fences SET flushes = flushes + 1").await.unwrap();
    for _ in 0..3 {
        let late = tier.flush(&shard(), Lane::FIRST, FenceToken(1), &[set("k", "late", (1, 2))], Lsn(1)).await;
        assert!(is_unavailable(&late), "{late:?}");
        assert_eq!(load_one(&tier, "k").await, Some(record("k", "v", (1, 1))));
        let dropped =
            async { tier.flush(&shard(), Lane::FIRST, FenceToken(1), &[set("k", "late", (1, 2))], Lsn(1)).await };
        assert!(tokio::time::timeout(Duration::from_millis(50), dropped).await.is_err());
        assert_eq!(load_one(&tier, "k").await, Some(record("k", "v", (1, 1))));
    }
    holder.execute("ROLLBACK").await.unwrap();
    write(&tier, &[set("k", "v", (1, 3))]).await;
    assert_eq!(load_one(&tier, "k").await, Some(record("k", "v", (1, 3))));
}

#[tokio::test]
async fn after_closing_nothing_is_served() {
    for place in real_places() {
        let tier = owned(&place).await;
        tier.close().await;
        tier.close().await;
        assert!(is_unavailable(&tier.load(&[key("k")]).await));
    }
}

#[tokio::test]
async fn a_row_that_the_server_refuses_fails_its_batch_alone() {
    let Some(database) = mysql() else { return };
    let place = Place::MySql(database);
    let tier = owned(&place).await;
    let Place::MySql(database) = &place else { unreachable!() };
    let check = "ALTER TABLE records ADD CONSTRAINT no_poison CHECK (kv_value <> 'poison')";
    database.connect().await.execute(check).await.unwrap();
    let batch = [set("good", "v", (1, 1)), set("bad", "poison", (1, 1))];
    let refused = tier.flush(&shard(), Lane::FIRST, FenceToken(1), &batch, Lsn(1)).await;
    assert!(matches!(refused, Err(TierError::Rejected(_))), "{refused:?}");
    assert_eq!(scan_all(&tier).await, []);
    write(&tier, &batch[..1]).await;
}

#[tokio::test]
async fn a_missing_table_is_nobodys_fault_but_the_databases() {
    let Some(database) = mysql() else { return };
    let place = Place::MySql(database);
    let tier = owned(&place).await;
    let Place::MySql(database) = &place else { unreachable!() };
    database.connect().await.execute("DROP TABLE records").await.unwrap();
    assert!(is_unavailable(&tier.flush(&shard(), Lane::FIRST, FenceToken(1), &[set("k", "v", (1, 1))], Lsn(1)).await));
    assert!(is_unavailable(&tier.load(&[key("k")]).await));
}

#[tokio::test]
async fn the_tier_in_memory_fails_as_it_is_told() {
    let memory = MemoryTier::new();
    let tier = owned(&Place::Memory(memory.clone())).await;
    let flush = |k: &'static str| {
        let tier = tier.clone();
        async move { tier.flush(&shard(), Lane::FIRST, FenceToken(1), &[set(k, "v", (1, 1))], Lsn(5)).await }
    };
    memory.fail_next(1);
    assert!(is_unavailable(&flush("a").await));
    memory.set_down(true);
    assert!(is_unavailable(&tier.load(&[key("a")]).await));
    memory.set_down(false);
    memory.fail_next_commit(CommitFault::UnknownLost);
    assert!(matches!(flush("a").await, Err(TierError::OutcomeUnknown(_))));
    assert_eq!(memory.row(&key("a")), None);
    memory.fail_next_commit(CommitFault::UnknownApplied);
    assert!(matches!(flush("a").await, Err(TierError::OutcomeUnknown(_))));
    assert!(memory.row(&key("a")).is_some());
    memory.poison(key("b"));
    assert!(matches!(flush("b").await, Err(TierError::Rejected(_))));
    memory.cure(&key("b"));
    assert_eq!(flush("b").await, Ok(()));
    memory.hold_flushes();
    let held = tokio::spawn(flush("c"));
    tokio::task::yield_now().await;
    assert!(!held.is_finished() && memory.row(&key("c")).is_none());
    memory.release_flushes();
    assert_eq!(held.await.unwrap(), Ok(()));
    assert_eq!((memory.flushes(), memory.loads()), (6, 1));
}
