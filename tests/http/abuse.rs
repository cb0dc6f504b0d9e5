//! Those who mean no good, or know no better. Whatever they do: they are answered or closed, and others are served.

use std::time::{Duration, Instant};

use overspill::doors;

use crate::world::{Server, World, until};

const BRIEF: Duration = Duration::from_millis(100);

async fn hasty() -> Server {
    let options = doors::Options { sniff_timeout: BRIEF, stall_max: BRIEF, ..doors::Options::default() };
    World::serving(100).await.listen(options).await
}

async fn still_serves(server: &Server) {
    assert_eq!(server.caller().await.get("/livez").await.status, 200);
}

#[tokio::test]
async fn half_a_request_line_and_silence_is_closed() {
    let server = hasty().await;
    for opener in ["", "G", "GET /v1/kv/a", "GET /v1/kv/a HTTP/1.1\r"] {
        let (mut caller, started) = (server.caller().await, Instant::now());
        caller.send(opener).await;
        assert_eq!(caller.until_closed().await, b"", "{opener}");
        assert!(started.elapsed() >= BRIEF - Duration::from_millis(20), "{opener}: it had its time");
    }
    let metrics = server.caller().await.get("/metrics").await;
    assert!(metrics.text().contains("kv_connections_refused_total{reason=\"silent\"} 4\n"), "{}", metrics.text());
    assert!(metrics.text().contains("kv_connections_accepted_total{door=\"http\"} 1\n"), "{}", metrics.text());
}

#[tokio::test]
async fn half_a_head_and_half_a_body_and_silence_are_closed() {
    let server = hasty().await;
    let mut caller = server.caller().await;
    caller.send("GET /v1/kv/a HTTP/1.1\r\nHost: a\r\nX: ").await;
    assert_eq!(caller.until_closed().await, b"");
    let mut caller = server.caller().await;
    caller.send("PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345").await;
    let answer = caller.response("PUT").await.unwrap();
    answer.sentence(408);
    assert_eq!(answer.header("connection"), Some("close"));
    drop(caller);
    let mut caller = server.caller().await;
    assert_eq!(caller.get("/v1/kv/a").await.status, 404, "half a value is none");
}

#[tokio::test]
async fn giant_heads_are_refused() {
    let server = World::serving(100).await.listen(doors::Options::default()).await;
    let many = "X-Header: 1\r\n".repeat(200);
    let large = format!("X-Header: {}\r\n", "x".repeat(40 * 1024));
    let endless = "X-Header: ".to_owned() + &"x".repeat(300 * 1024);
    for (head, statuses) in [
        (format!("GET /livez HTTP/1.1\r\n{many}\r\n"), [431, 431]),
        (format!("GET /livez HTTP/1.1\r\n{large}\r\n"), [431, 431]),
        (format!("GET /livez HTTP/1.1\r\n{endless}"), [431, 431]),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(40 * 1024)), [414, 431]),
        (format!("GET /{}", "x".repeat(300 * 1024)), [414, 431]),
    ] {
        let mut caller = server.caller().await;
        let _ = tokio::io::AsyncWriteExt::write_all(&mut caller.io, head.as_bytes()).await; // it may be closed meanwhile
        let answer = caller.response("GET").await.unwrap();
        assert!(statuses.contains(&answer.status), "{answer:?}");
        caller.until_closed().await;
    }
    still_serves(&server).await;
}

#[tokio::test]
async fn requests_that_are_none_are_refused() {
    let server = World::serving(100).await.listen(doors::Options::default()).await;
    for head in [
        "GET /a b HTTP/1.1\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost\r\n\r\n",
        "GET /livez HTTP/1.1\r\nA\0: b\r\n\r\n",
        "GET \u{1} HTTP/1.1\r\n\r\n",
        "PUT /v1/kv/a HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        "PUT /v1/kv/a HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "PUT /v1/kv/a HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "PUT /v1/kv/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut caller = server.caller().await;
        caller.send(head).await;
        let answer = caller.response("GET").await.unwrap();
        assert_eq!(answer.status, 400, "{head}");
        caller.until_closed().await;
    }
    let mut caller = server.caller().await;
    assert_eq!(caller.get("/v1/kv/a").await.status, 404, "nothing was stored");
}

#[tokio::test]
async fn a_request_can_not_be_smuggled_in_the_body_of_another() {
    let server = World::serving(100).await.listen(doors::Options::default()).await;
    let mut caller = server.caller().await;
    let hidden = "PUT /v1/kv/hidden HTTP/1.1\r\nContent-Length: 1\r\n\r\n1";
    caller
        .send(format!(
            "PUT /v1/kv/a HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
        ))
        .await;
    caller.response("PUT").await.unwrap();
    caller.until_closed().await;
    let mut caller = server.caller().await;
    assert_eq!(caller.get("/v1/kv/hidden").await.status, 404);
}

#[tokio::test]
async fn a_client_that_asks_and_does_not_read_is_closed_and_takes_no_more_room() {
    let world = World::serving(100).await;
    world.caller().put("/v1/kv/large", &[], vec![7; 1 << 20]).await;
    let options = doors::Options {
        stall_max: Duration::from_millis(300),
        answers_bytes_max: 32 << 20,
        ..doors::Options::default()
    };
    let server = world.listen(options).await;
    let mut greedy = Vec::new();
    for _ in 0..64 {
        let mut caller = server.caller().await;
        for _ in 0..32 {
            caller.send("GET /v1/kv/large HTTP/1.1\r\nHost: a\r\n\r\n").await;
        }
        greedy.push(caller);
    }
    let started = Instant::now();
    still_serves(&server).await;
    assert!(started.elapsed() < Duration::from_secs(2));
    until("all of them are closed", async || {
        let metrics = server.caller().await.get("/metrics").await;
        metrics.text().contains("kv_connections{door=\"http\"} 1\n")
    })
    .await;
    for mut caller in greedy {
        // What was on its way is read, and then it ends.
        let read = caller.until_closed().await;
        assert!(read.len() < 32 << 20, "{}", read.len());
    }
    let large = server.caller().await.get("/v1/kv/large").await;
    assert_eq!((large.status, large.body.len()), (200, 1 << 20), "there is room again");
}

#[tokio::test]
async fn too_many_connections_are_counted_and_closed() {
    let options = doors::Options { connections_max: 2, ..doors::Options::default() };
    let server = World::serving(100).await.listen(options).await;
    let (mut first, mut second) = (server.caller().await, server.caller().await);
    assert_eq!((first.get("/livez").await.status, second.get("/livez").await.status), (200, 200));
    assert_eq!(server.caller().await.until_closed().await, b"");
    let metrics = first.get("/metrics").await;
    assert!(metrics.text().contains("kv_connections_refused_total{reason=\"too_many\"} 1\n"), "{}", metrics.text());
}
