//! `/v1/kv` and `/store`: what is stored and read, conditions, times to live, and what errors become.

use overspill::record::{Epoch, VALUE_BYTES_MAX};
use overspill::service::Error;

use crate::world::{Refusing, World, until};

#[tokio::test]
async fn values_are_stored_read_and_deleted_as_they_are() {
    let world = World::serving(100).await;
    let mut caller = world.caller();
    let bytes: Vec<u8> = (0..=255).collect();
    for (path, value) in [("/v1/kv/a", &b"1"[..]), ("/v1/kv/a/b%2Fc%00%ff/", &bytes), ("/v1/kv/empty", b"")] {
        caller.get(path).await.sentence(404);
        let stored = caller.put(path, &[("Content-Type", "text/whatever")], value).await;
        assert_eq!((stored.status, stored.body.as_slice()), (204, &b""[..]), "{stored:?}");
        let found = caller.get(path).await;
        assert_eq!((found.status, found.body.as_slice()), (200, value), "{found:?}");
        assert_eq!(found.header("content-type"), Some("application/octet-stream"));
        assert_eq!(found.header("cache-control"), Some("no-cache"));
        assert_eq!(found.header("etag"), stored.header("etag"));
        assert_eq!(found.header("overspill-ttl"), None);
        let head = caller.ask("HEAD", path, &[], b"").await;
        assert_eq!((head.status, head.header("etag")), (200, found.header("etag")));
        assert_eq!(head.header("content-length"), Some(value.len().to_string().as_str()));
        assert_eq!(caller.ask("DELETE", path, &[], b"").await.status, 204);
        caller.ask("DELETE", path, &[], b"").await.sentence(404);
    }
}

#[tokio::test]
async fn one_key_is_one_key_however_it_is_written() {
    let world = World::serving(100).await;
    let mut caller = world.caller();
    caller.put("/v1/kv/a/b", &[], "slash").await;
    assert_eq!(caller.get("/v1/kv/%61%2fb").await.text(), "slash");
    assert_eq!(caller.get("http://somewhere/v1/kv/a/b").await.text(), "slash");
    assert!(caller.get("/v1/kv/a?b").await.sentence(400).contains("%3F"));
    assert!(caller.get("/v1/kv/").await.sentence(400).contains("empty"));
    assert!(caller.get("/v1/kv/%zz").await.sentence(400).contains('%'));
    assert!(caller.get(&format!("/v1/kv/{}", "k".repeat(1025))).await.sentence(400).contains("1024"));
}

#[tokio::test]
async fn entity_tags_are_versions_and_guard_reads_and_writes() {
    let world = World::serving(100).await;
    let mut caller = world.caller();
    let first = caller.put("/v1/kv/k", &[("If-None-Match", "*")], "1").await;
    let first = (first.status, first.header("etag").unwrap().to_owned());
    assert_eq!(first.0, 204);
    assert!(first.1.starts_with("\"1.") && first.1.ends_with('"'), "{}", first.1);

    let again = caller.put("/v1/kv/k", &[("If-None-Match", "*")], "2").await;
    assert!(again.sentence(412).contains("the version 1."), "{again:?}");
    assert_eq!(again.header("etag"), Some(first.1.as_str()));

    let second = caller.put("/v1/kv/k", &[("If-Match", &first.1)], "2").await;
    assert_eq!(second.status, 204);
    let second = second.header("etag").unwrap().to_owned();
    let outdated = caller.put("/v1/kv/k", &[("If-Match", &first.1)], "3").await;
    assert_eq!((outdated.status, outdated.header("etag")), (412, Some(second.as_str())));
    let missing = caller.put("/v1/kv/none", &[("If-Match", &first.1)], "3").await;
    assert!(missing.sentence(412).contains("no such key") && missing.header("etag").is_none());

    let unchanged = caller.ask("GET", "/v1/kv/k", &[("If-None-Match", &format!("\"x\", {second}"))], b"").await;
    assert_eq!((unchanged.status, unchanged.header("etag")), (304, Some(second.as_str())));
    assert_eq!(caller.ask("HEAD", "/v1/kv/k", &[("If-None-Match", "*")], b"").await.status, 304);
    assert_eq!(caller.ask("GET", "/v1/kv/k", &[("If-None-Match", &first.1)], b"").await.text(), "2");
    assert_eq!(caller.ask("GET", "/v1/kv/k", &[("If-Match", &second)], b"").await.text(), "2");
    caller.ask("GET", "/v1/kv/k", &[("If-Match", &first.1)], b"").await.sentence(412);
    caller.ask("GET", "/v1/kv/none", &[("If-Match", &first.1)], b"").await.sentence(404);
}

#[tokio::test]
async fn a_condition_that_can_not_be_kept_is_refused_and_nothing_is_done() {
    let world = World::serving(100).await;
    let mut caller = world.caller();
    let version = caller.put("/v1/kv/k", &[], "1").await.header("etag").unwrap().to_owned();
    for headers in [
        [("If-Match", "*")].as_slice(),
        &[("If-Match", "1.1")],
        &[("If-None-Match", &version)],
        &[("If-Match", &version), ("If-None-Match", "*")],
    ] {
        caller.put("/v1/kv/k", headers, "2").await.sentence(400);
    }
    caller.ask("DELETE", "/v1/kv/k", &[("If-Match", &version)], b"").await.sentence(400);
    caller.ask("DELETE", "/v1/kv/k", &[("If-None-Match", "*")], b"").await.sentence(400);
    assert_eq!(caller.get("/v1/kv/k").await.text(), "1");
}

#[tokio::test]
async fn a_value_lives_as_long_as_its_header_says() {
    let world = World::serving(100).await;
    let mut caller = world.caller();
    for ttl in ["3600", "1h", "59m 60s"] {
        assert_eq!(caller.put("/v1/kv/k", &[("Overspill-TTL", ttl)], "1").await.status, 204);
        let found = caller.get("/v1/kv/k").await;
        let left = found.header("overspill-ttl").unwrap().to_owned();
        let ms: u64 = left.strip_suffix("ms").unwrap().parse().unwrap();
        assert!((3_590_000..=3_600_000).contains(&ms), "{left}");
        assert_eq!(caller.put("/v1/kv/other", &[("Overspill-TTL", &left)], "1").await.status, 204, "as it was told");
        let unchanged = caller.ask("GET", "/v1/kv/k", &[("If-None-Match", "*")], b"").await;
        assert!(unchanged.status == 304 && unchanged.header("overspill-ttl").is_some());
    }
    caller.put("/v1/kv/k", &[], "1").await;
    assert_eq!(caller.get("/v1/kv/k").await.header("overspill-ttl"), None, "an earlier expiry is forgotten");
    for ttl in ["0", "soon", "-1", "200y"] {
        caller.put("/v1/kv/k", &[("Overspill-TTL", ttl)], "2").await.sentence(400);
    }
    caller.put("/v1/kv/k", &[("Overspill-TTL", "20ms")], "2").await;
    until("it is gone", async || world.caller().get("/v1/kv/k").await.status == 404).await;
}

#[tokio::test]
async fn the_largest_value_is_stored_and_one_byte_more_is_not() {
    let world = World::serving(100).await;
    let mut caller = world.caller();
    let mut value = vec![7; VALUE_BYTES_MAX];
    assert_eq!(caller.put("/v1/kv/k", &[], &value).await.status, 204);
    let found = caller.get("/v1/kv/k").await;
    assert!(found.status == 200 && found.body == value);
    value.push(7);
    let head = format!("PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", value.len());
    caller.send(head).await;
    let refused = caller.response("PUT").await.unwrap();
    assert!(refused.sentence(413).contains("8388608"), "{refused:?}");
    assert_eq!(refused.header("connection"), Some("close"));
    drop(caller);
    let mut caller = world.caller();
    assert_eq!(caller.get("/v1/kv/k").await.body.len(), VALUE_BYTES_MAX);
}

#[tokio::test]
async fn a_body_in_chunks_is_one_value_and_has_the_same_bound() {
    let world = World::serving(100).await;
    let mut caller = world.caller();
    let head = "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    caller.send(format!("{head}3\r\nabc\r\n")).await;
    tokio::task::yield_now().await;
    caller.send("2\r\nde\r\n0\r\n\r\n").await;
    assert_eq!(caller.response("PUT").await.unwrap().status, 204);
    assert_eq!(caller.get("/v1/kv/k").await.text(), "abcde");

    caller.send(head).await;
    let (mut reader, mut writer) = tokio::io::split(caller.io);
    let sent = tokio::spawn(async move {
        let chunk = [format!("{:x}\r\n", 1 << 16).into_bytes(), vec![7; 1 << 16], b"\r\n".to_vec()].concat();
        let mut sent = 0;
        while tokio::io::AsyncWriteExt::write_all(&mut writer, &chunk).await.is_ok() {
            sent += 1 << 16;
        }
        sent
    });
    let mut read = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut read).await.unwrap();
    assert!(read.starts_with(b"HTTP/1.1 413 "), "{}", read.escape_ascii());
    assert!(sent.await.unwrap() < 4 * VALUE_BYTES_MAX, "it is not read for ever");
}

#[tokio::test]
async fn the_routes_of_the_seeds_are_kept() {
    let world = World::serving(100).await;
    let mut caller = world.caller();
    // As `curl -d` sends it.
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let set = caller.ask("POST", "/store/set", &[form], br#"{"key":"name","value":"J\u00fcrgen"}"#).await;
    assert_eq!((set.status, set.text()), (200, r#"{"key":"name","value":"Jürgen"}"#));
    let got = caller.get("/store/get/name").await;
    assert_eq!((got.status, got.text()), (200, r#"{"key":"name","value":"Jürgen"}"#));
    assert_eq!(caller.get("/v1/kv/name").await.text(), "Jürgen");
    caller.get("/store/get/none").await.sentence(404);
    for body in ["", "{}", "[]", r#"{"key":"a"}"#, r#"{"key":1,"value":"a"}"#, r#"{"key":"","value":"a"}"#] {
        caller.ask("POST", "/store/set", &[], body.as_bytes()).await.sentence(400);
    }
    caller.put("/v1/kv/raw", &[], [0xff]).await;
    assert!(caller.get("/store/get/raw").await.sentence(406).contains("/v1/kv"));
    caller.get("/store/get/%ff").await.sentence(406);
}

#[tokio::test]
async fn an_error_says_whether_to_try_again() {
    let text = || "because".to_owned();
    let wrong_shard = Error::WrongShard { epoch: Epoch(3), reason: text() };
    for (error, status, retry_after) in [
        (Error::Invalid(text()), 400, None),
        (Error::Busy(text()), 429, Some("1")),
        (Error::Unavailable(text()), 503, Some("1")),
        (wrong_shard, 503, Some("1")),
        (Error::ReplyTooLarge, 503, Some("1")),
        (Error::Unknown(text()), 500, None),
    ] {
        let service = Refusing::with(error.clone());
        let mut caller = service.caller();
        let answers = [
            caller.get("/v1/kv/k").await,
            caller.put("/v1/kv/k", &[], "1").await,
            caller.ask("DELETE", "/v1/kv/k", &[], b"").await,
            caller.get("/store/get/k").await,
            caller.ask("POST", "/store/set", &[], br#"{"key":"k","value":"v"}"#).await,
            caller.get("/v1/stats").await,
        ];
        for answer in answers {
            assert_eq!(answer.sentence(status), error.to_string());
            assert_eq!(answer.header("retry-after"), retry_after);
        }
        assert_eq!(service.asked.lock().len(), 6, "each is asked once");
    }
    let mut caller = Refusing::with(Error::Invalid("two\r\nlines".to_owned())).caller();
    assert_eq!(caller.get("/v1/kv/k").await.sentence(400), "two  lines");
}
