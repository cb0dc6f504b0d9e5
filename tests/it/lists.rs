//! Starts with another list of secondaries.

use overspill::service::Error;

use crate::support::client::Client;
use crate::support::cluster::{primary, secondary};
use crate::support::database::Database;
use crate::support::process::Process;
use crate::support::{eventually, free_port};

const KEYS: usize = 300;

fn name(i: usize) -> String {
    format!("user:{i}")
}

async fn put_all(client: &Client, value: &str) {
    for i in 0..KEYS {
        client.stored(&name(i), value).await;
    }
}

async fn assert_all(client: &Client, value: &str) {
    for i in 0..KEYS {
        assert_eq!(client.served(&name(i)).await.as_deref(), Some(value), "{}", name(i));
    }
}

struct Nodes {
    port: u16,
    ports: Vec<u16>,
    database: Database,
    data: tempfile::TempDir,
}

impl Nodes {
    async fn new() -> Self {
        let (database, data) = (Database::create().await, tempfile::TempDir::new().unwrap());
        Self { port: free_port(), ports: (0..3).map(|_| free_port()).collect(), database, data }
    }

    fn secondary(&self, i: usize) -> Process {
        secondary(self.port, self.ports[i], self.data.path(), &[self.database.url(), "50".to_owned()])
    }

    fn primary(&self, members: &[usize], options: &[&str]) -> Process {
        let ports: Vec<u16> = members.iter().map(|&i| self.ports[i]).collect();
        primary(self.port, &ports, options)
    }

    fn client(&self) -> Client {
        Client::of(self.port)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_and_a_shorter_list_just_work_when_all_stopped_cleanly_or_are_there() {
    let nodes = Nodes::new().await;
    let client = nodes.client();
    let (a, b) = (nodes.secondary(0), nodes.secondary(1));
    let mut first = nodes.primary(&[0, 1], &[]);
    client.until_served().await;
    put_all(&client, "one").await;
    assert!(first.stop().success());
    // Longer, with the old members alive: they spill what moves.
    let mut c = nodes.secondary(2);
    let mut second = nodes.primary(&[0, 1, 2], &[]);
    client.until_served().await;
    assert_all(&client, "one").await;
    put_all(&client, "two").await;
    assert!(second.stop().success());
    assert!(c.stop().success());
    // Shorter: one stopped cleanly, one is still there and not in the list.
    let _third = nodes.primary(&[1], &[]);
    client.until_served().await;
    assert_all(&client, "two").await;
    put_all(&client, "three").await;
    assert_all(&client, "three").await;
    drop((a, b));
    nodes.database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_of_a_member_that_was_killed_and_left_out_are_refused_until_the_loss_is_accepted() {
    let nodes = Nodes::new().await;
    let client = nodes.client();
    let (_a, mut b) = (nodes.secondary(0), nodes.secondary(1));
    let mut first = nodes.primary(&[0, 1], &[]);
    client.until_served().await;
    put_all(&client, "one").await;
    b.kill();
    assert!(first.stop().success());
    let mut second = nodes.primary(&[0], &[]);
    let gone = format!("127.0.0.1:{}", nodes.ports[1]);
    let mut served = 0;
    for i in 0..KEYS {
        let answer = eventually("an answer that lasts", async || match client.get(&name(i)).await {
            Ok(value) => Some(Ok(value)),
            Err(Error::Unavailable(reason)) if reason.contains("--accept-loss") => Some(Err(reason)),
            Err(Error::Unavailable(_)) => None,
            Err(other) => panic!("{other}"),
        })
        .await;
        match answer {
            Ok(value) => {
                assert_eq!(value.as_deref(), Some("one"));
                served += 1;
            }
            Err(reason) => assert!(reason.contains(&gone), "{reason}"),
        }
    }
    assert!((KEYS / 4..KEYS * 3 / 4).contains(&served), "{served} of {KEYS} are served");
    assert!(second.stop().success());
    let _third = nodes.primary(&[0], &["--accept-loss"]);
    client.until_served().await;
    put_all(&client, "two").await;
    assert_all(&client, "two").await;
    nodes.database.drop_it().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_primaries_with_one_list_serve_side_by_side_and_one_with_another_is_refused() {
    let nodes = Nodes::new().await;
    let (_a, _b) = (nodes.secondary(0), nodes.secondary(1));
    let mut first = nodes.primary(&[0, 1], &[]);
    let beside = free_port();
    let _second = primary(beside, &nodes.ports[..2], &[]);
    let (client, other) = (nodes.client(), Client::of(beside));
    client.until_served().await;
    other.until_served().await;
    put_all(&client, "one").await;
    assert_all(&other, "one").await;
    let stranger_port = free_port();
    let mut stranger = primary(stranger_port, &nodes.ports[1..2], &[]);
    let stranger_client = Client::of(stranger_port);
    eventually("the stranger is refused", async || match stranger_client.get("user:1").await {
        Err(Error::Unavailable(reason)) if reason.contains("another primary") => Some(()),
        Err(Error::Unavailable(_)) => None,
        other => panic!("{other:?}"),
    })
    .await;
    assert!(first.stop().success());
    assert_all(&other, "one").await;
    assert!(stranger.stop().success());
    nodes.database.drop_it().await;
}
