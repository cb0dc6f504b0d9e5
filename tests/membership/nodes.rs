//! Whole nodes over real sockets and SQLite.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::world::{BOUND, SHARES_MAX, key, key_of, name, options, until};
use overspill::command::{Command, Condition, Reply};
use overspill::doors;
use overspill::node::{Primary, PrimaryOptions, Secondary, SecondaryOptions, TierChoice};
use overspill::record::Value;
use overspill::rpc::Client;
use overspill::service::{Batch, Error, Service};

const KEYS: usize = 60;

async fn secondary(port: u16, file: &Path) -> Secondary {
    let tier = TierChoice::Sqlite(file.to_path_buf());
    let options = SecondaryOptions {
        bind: "127.0.0.1".to_owned(),
        announce: None,
        port,
        tier,
        journal: None,
        shard: options(),
        door: doors::Options::default(),
    };
    Secondary::start(options).await.unwrap()
}

async fn primary(members: &[SocketAddr]) -> Primary {
    let secondaries = members.iter().map(|address| (name(&address.to_string()), address.to_string())).collect();
    let (bind, door) = ("127.0.0.1".to_owned(), doors::Options::default());
    Primary::start(PrimaryOptions { bind, port: 0, secondaries, accept_loss: false, door }).await.unwrap()
}

async fn ask(client: &Client, command: Command) -> Result<Reply, Error> {
    let batch = Batch { commands: vec![command], epoch: None, timeout: Duration::from_secs(2) };
    let replies = tokio::time::timeout(BOUND, client.execute(batch)).await.expect("an answer in bounded time");
    replies.into_iter().next().unwrap()
}

async fn put(client: &Client, i: usize, value: &str) -> Result<Reply, Error> {
    let value = Value::new(value.to_owned()).unwrap();
    ask(client, Command::Put { key: key(i), value, ttl: None, condition: Condition::Always }).await
}

async fn get(client: &Client, i: usize) -> Result<Option<String>, Error> {
    match ask(client, Command::Get { key: key(i) }).await? {
        Reply::Found(found) => Ok(found.map(|found| String::from_utf8(found.value.as_bytes().to_vec()).unwrap())),
        other => panic!("{other:?}"),
    }
}

async fn until_served(client: &Client) {
    for share in 0..SHARES_MAX {
        until("served", async || get(client, key_of(share, SHARES_MAX)).await.ok()).await;
    }
}

fn file_in(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("records.sqlite")
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_stop_cleanly_and_start_with_longer_and_shorter_lists() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(secondary(0, &file_in(&folder)).await);
    }
    let all: Vec<SocketAddr> = nodes.iter().map(Secondary::address).collect();
    let mut before: Option<String> = None;
    for members in [vec![0, 1], vec![0, 1, 2], vec![2], vec![1, 0]] {
        let listed: Vec<SocketAddr> = members.iter().map(|&i| all[i]).collect();
        let primary = primary(&listed).await;
        let client = Client::spawn(primary.address().to_string(), overspill::rpc::Options::default());
        until_served(&client).await;
        for i in 0..KEYS {
            assert_eq!(get(&client, i).await.unwrap(), before, "{members:?}");
        }
        let value = format!("{members:?}");
        for i in 0..KEYS {
            put(&client, i, &value).await.unwrap();
        }
        client.close().await;
        primary.stop().await;
        for node in nodes.drain(..) {
            node.stop().await.unwrap();
        }
        for address in &all {
            nodes.push(secondary(address.port(), &file_in(&folder)).await);
        }
        before = Some(value);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_later_and_one_that_comes_back_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (secondary(0, &file_in(&folder)).await, secondary(0, &file_in(&folder)).await);
    let listed = [a.address(), b.address()];
    b.stop().await.unwrap(); // its port is known, and nobody listens there
    let primary = primary(&listed).await;
    let client = Client::spawn(primary.address().to_string(), overspill::rpc::Options::default());
    let (of_a, of_b) = (key_of(0, 2), key_of(1, 2));
    until("the one that is there serves", async || put(&client, of_a, "one").await.ok()).await;
    assert!(matches!(get(&client, of_b).await, Err(Error::Unavailable(_))));
    let b = secondary(listed[1].port(), &file_in(&folder)).await;
    until("the late one serves", async || put(&client, of_b, "two").await.ok()).await;
    b.stop().await.unwrap();
    until("it is gone", async || get(&client, of_b).await.err()).await;
    assert_eq!(get(&client, of_a).await.unwrap().as_deref(), Some("one"));
    let _b = secondary(listed[1].port(), &file_in(&folder)).await;
    let found = until("it is back", async || get(&client, of_b).await.ok()).await;
    assert_eq!(found.as_deref(), Some("two"));
}
