//! How long connections live.

use std::sync::Arc;
use std::time::Duration;

use overspill::command::Reply;
use overspill::doors::{self, Door, NoMember};
use overspill::service::{Batch, Replies, Service};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use crate::caller::request;
use crate::world::{PATIENCE, Server, World, until};

/// Answers once it is let.
#[derive(Clone)]
struct Slow {
    asked: Arc<Notify>,
    gate: Arc<Semaphore>,
}

impl Service for Slow {
    async fn execute(&self, batch: Batch) -> Replies {
        self.asked.notify_one();
        self.gate.acquire().await.unwrap().forget();
        batch.commands.iter().map(|_| Ok(Reply::Found(None))).collect()
    }
}

#[tokio::test]
async fn a_connection_takes_many_requests_also_at_once() {
    let world = World::serving(1000).await;
    let mut caller = world.caller();
    let mut all = Vec::new();
    for i in 0..100 {
        all.extend(request("PUT", &format!("/v1/kv/k{i}"), &[], format!("v{i}").as_bytes()));
        all.extend(request("GET", &format!("/v1/kv/k{i}"), &[], b""));
        all.extend(request("GET", "/none", &[], b""));
    }
    caller.send(&all).await;
    for i in 0..100 {
        assert_eq!(caller.response("PUT").await.unwrap().status, 204);
        assert_eq!(caller.response("GET").await.unwrap().text(), format!("v{i}"), "in their order");
        assert_eq!(caller.response("GET").await.unwrap().status, 404);
    }
}

#[tokio::test]
async fn a_connection_ends_when_it_is_asked_to() {
    let world = World::serving(100).await;
    let mut caller = world.caller();
    let last = caller.ask("GET", "/livez", &[("Connection", "close")], b"").await;
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert_eq!(caller.until_closed().await, b"");
    let mut caller = world.caller();
    caller.send("GET /livez HTTP/1.0\r\n\r\n").await;
    assert_eq!(caller.response("GET").await.unwrap().status, 200);
    assert_eq!(caller.until_closed().await, b"", "HTTP/1.0 keeps nothing alive");
}

#[tokio::test]
async fn a_client_that_has_said_all_is_still_answered() {
    let server = World::serving(100).await.listen(doors::Options::default()).await;
    let mut caller = server.caller().await;
    caller.send(request("PUT", "/v1/kv/k", &[], b"1")).await;
    tokio::io::AsyncWriteExt::shutdown(&mut caller.io).await.unwrap();
    assert_eq!(caller.response("PUT").await.unwrap().status, 204);
    assert_eq!(caller.until_closed().await, b"");
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_a_while() {
    let options = doors::Options { stall_max: Duration::from_millis(100), ..doors::Options::default() };
    let server = World::serving(100).await.listen(options).await;
    let mut caller = server.caller().await;
    assert_eq!(caller.get("/livez").await.status, 200);
    assert_eq!(caller.until_closed().await, b"");
}

#[tokio::test]
async fn on_shutdown_idle_connections_end_at_once_and_others_after_their_request() {
    let slow = Slow { asked: Arc::default(), gate: Arc::new(Semaphore::new(0)) };
    let door = Door::new(slow.clone(), NoMember, NoMember, doors::Options::default());
    let metrics = Arc::clone(&door.metrics);
    let server = Server::start(door).await;
    let (mut idle, mut busy) = (server.caller().await, server.caller().await);
    assert_eq!(idle.get("/livez").await.status, 200);
    busy.send(request("GET", "/v1/kv/k", &[], b"")).await;
    slow.asked.notified().await;
    server.stop.cancel();
    assert_eq!(idle.until_closed().await, b"");
    until("only the busy one is left", async || {
        metrics.encode(Vec::new()).contains("kv_connections{door=\"http\"} 1\n")
    })
    .await;
    slow.gate.add_permits(1);
    let last = busy.response("GET").await.unwrap();
    assert_eq!((last.status, last.header("connection")), (404, Some("close")));
    assert_eq!(busy.until_closed().await, b"");
    timeout(PATIENCE, server.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_does_not_end_holds_a_shutdown_only_so_long() {
    let slow = Slow { asked: Arc::default(), gate: Arc::new(Semaphore::new(0)) };
    let options = doors::Options { drain_timeout: Duration::from_millis(50), ..doors::Options::default() };
    let server = Server::start(Door::new(slow.clone(), NoMember, NoMember, options)).await;
    let mut busy = server.caller().await;
    busy.send(request("GET", "/v1/kv/k", &[], b"")).await;
    slow.asked.notified().await;
    server.stop.cancel();
    assert!(busy.response("GET").await.is_none());
    timeout(PATIENCE, server.ended).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_service_that_hangs_is_not_waited_for() {
    let slow = Slow { asked: Arc::default(), gate: Arc::new(Semaphore::new(0)) };
    let door = Door::new(slow, NoMember, NoMember, doors::Options::default());
    let mut caller = crate::world::connect(&doors::http::Http::new(&Arc::new(door)));
    let read = caller.get("/v1/kv/k").await;
    assert!(read.sentence(503).contains("in time") && read.header("retry-after").is_some());
    assert!(caller.put("/v1/kv/k", &[], "1").await.sentence(500).starts_with("outcome unknown"));
    assert!(caller.ask("DELETE", "/v1/kv/k", &[], b"").await.sentence(500).starts_with("outcome unknown"));
    assert_eq!(caller.get("/metrics").await.status, 200);
}
