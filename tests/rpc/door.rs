//! The door against peers that are slow, broken or hostile; and its shutdown.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use overspill::cluster::{ControlError, Member};
use overspill::command::{Command, Reply};
use overspill::doors::Options;
use overspill::record::{Epoch, KEY_BYTES_MAX, Value};
use overspill::rpc::frames::{Frames, STALL_MAX, frame};
use overspill::service::{Error, Replies, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    LONG, Memory, SECOND, Server, ask, batch, connect, execute, execute_within, get, greeted, key, linked, more_of,
    put, status, until, within,
};

fn start(options: Options) -> Server {
    Server::start_at("127.0.0.1:0".parse().unwrap(), Memory::open(), options)
}

/// Everything until the other side closes.
async fn read_out(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = within("close", stream.read_to_end(&mut bytes)).await;
    bytes
}

#[tokio::test]
async fn requests_have_the_documented_format() {
    let server = start(Options::default());
    let mut frames = greeted(&server).await;
    frames.send(execute(5, &[put("k", "v"), get("absent")])).await.unwrap();
    let answer = frames.next().await.unwrap().unwrap();
    // Request 5, ok, method 0, two replies: ok Stored(1.1), ok Found(None); nothing more.
    assert_eq!(answer[..], [5, 0, 0, 2, 0, 1, 1, 1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn redis_clients_are_answered_on_the_same_port() {
    let server = start(Options::default());
    for hello in ["PING\r\n", "*1\r\n$4\r\nPING\r\n"] {
        let mut stream = connect(&server).await;
        stream.write_all(hello.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(String::from_utf8(read_out(stream).await).unwrap(), "+PONG\r\n");
    }
}

#[tokio::test]
async fn a_client_of_another_version_is_told_both() {
    let server = start(Options::default());
    let mut frames = Frames::new(connect(&server).await, 1024, STALL_MAX);
    frames.send(frame(b"OVSP\0\x07\0\0")).await.unwrap();
    let answer = frames.next().await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&answer[8..]);
    assert_eq!(answer[..8], *b"OVSP\x01\x03\0\x02");
    assert!(text.contains("version 3") && text.contains("version 7"), "{text}");
    assert!(within("close", frames.next()).await.is_none());
}

#[tokio::test]
async fn garbage_is_closed_and_others_are_served() {
    let server = start(Options::default());
    let client = server.client();
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    };
    for round in 0..200 {
        let mut stream = connect(&server).await;
        let mut bytes: Vec<u8> = (0..random()).map(|_| random()).collect();
        bytes.insert(0, 0);
        if round % 2 == 0 {
            // A good hello, and garbage in a good frame.
            bytes =
                [&frame(&[&b"OVSP\0\x03\0\0"[..], &[7; 32]].concat())[..], &frame(&[0xff; 9]), &frame(&bytes)].concat();
        }
        // It may be closed before all is written.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        read_out(stream).await;
        ask(&client, put("k", "v"), LONG).await.unwrap();
    }
}

#[tokio::test]
async fn an_announcement_of_too_much_is_closed_before_and_after_the_hello() {
    let server = start(Options::default());
    let mut stream = connect(&server).await;
    stream.write_all(&[0, 0xff, 0xff, 0xff]).await.unwrap();
    let answer = read_out(stream).await;
    assert!(String::from_utf8_lossy(&answer).contains("no hello"), "{answer:?}");

    let mut stream = greeted(&server).await.into_inner();
    stream.write_all(&[0xff; 4]).await.unwrap();
    assert!(read_out(stream).await.is_empty());
}

#[tokio::test]
async fn a_key_over_the_limit_closes_the_connection() {
    let server = start(Options::default());
    let mut frames = greeted(&server).await;
    let (method, key) = (0u8, serde_bytes_of(KEY_BYTES_MAX + 1));
    let get_of_long_key = (0u8, 1u64, 1000u32, None::<()>, method, None::<Epoch>, 1000u32, [(0u8, key)].to_vec());
    frames.send(frame(&postcard::to_stdvec(&get_of_long_key).unwrap())).await.unwrap();
    assert!(!matches!(within("close", frames.next()).await, Some(Ok(_))));
}

fn serde_bytes_of(len: usize) -> bytes::Bytes {
    vec![b'k'; len].into()
}

#[tokio::test]
async fn the_silent_and_the_slow_are_closed() {
    let options = Options {
        sniff_timeout: SECOND / 10,
        hello_timeout: SECOND / 10,
        stall_max: SECOND / 10,
        ..Options::default()
    };
    let server = start(options);
    let idle = greeted(&server).await;
    assert!(read_out(connect(&server).await).await.is_empty(), "silent");
    let mut stream = connect(&server).await;
    stream.write_all(&[0]).await.unwrap();
    assert!(read_out(stream).await.is_empty(), "no hello");
    let mut stream = greeted(&server).await.into_inner();
    stream.write_all(&[0, 0, 1, 0, 1, 2, 3]).await.unwrap();
    assert!(read_out(stream).await.is_empty(), "half a frame");

    // Between two frames one may be idle.
    let mut idle = idle;
    idle.send(execute(1, &[Command::Count])).await.unwrap();
    assert!(within("answer", idle.next()).await.unwrap().is_ok());
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_there_is_room_again_after() {
    let server = start(Options { connections_max: 2, ..Options::default() });
    let (first, second) = (greeted(&server).await, greeted(&server).await);
    for _ in 0..10 {
        assert!(read_out(connect(&server).await).await.is_empty());
    }
    drop(first);
    let client = server.client();
    linked(&client, true).await;
    ask(&client, put("k", "v"), LONG).await.unwrap();
    drop(second);
}

#[tokio::test]
async fn only_so_many_requests_of_a_connection_are_taken_at_once() {
    let service = Memory::gated(0);
    let options = Options { requests_max: 3, ..Options::default() };
    let server = Server::start_at("127.0.0.1:0".parse().unwrap(), Arc::clone(&service), options);
    let mut frames = greeted(&server).await;
    for id in 0..10 {
        frames.send(execute(id, &[get("k")])).await.unwrap();
    }
    // Another connection is not held up, and by then the first one's requests would have been taken.
    let mut other = greeted(&server).await;
    other.send(execute(0, &[get("k")])).await.unwrap();
    until("both are served", || service.calls() == 4).await;
    service.gate.add_permits(100);
    for _ in 0..10 {
        within("answer", frames.next()).await.unwrap().unwrap();
    }
    assert_eq!(service.calls(), 11);
}

const MIB: usize = 1 << 20;

/// `count` gets of 1 MiB each.
fn large_gets(service: &Memory, count: usize) -> Vec<Command> {
    let name = |i| format!("k{i}");
    for i in 0..count {
        service.records.lock().insert(key(name(i)), Value::new(vec![7; MIB]).unwrap());
    }
    (0..count).map(|i| get(name(i))).collect()
}

/// A server on which a connection may hold one answer of 10 MiB or so, but not two.
fn start_with_little_room(service: &Arc<Memory>) -> Server {
    let options = Options { answers_bytes_max: 32 * MIB, ..Options::default() };
    Server::start_at("127.0.0.1:0".parse().unwrap(), Arc::clone(service), options)
}

/// The next answer to an `execute` or a `more`: the request's number, replies, and the token for the rest.
async fn next_answer(frames: &mut Frames<TcpStream>) -> (u64, Replies, Option<u64>) {
    let frame = within("answer", frames.next()).await.unwrap().unwrap();
    let (id, _ok, _method, replies, more): (u64, u8, u8, Replies, Option<u64>) = postcard::from_bytes(&frame).unwrap();
    (id, replies, more)
}

#[tokio::test]
async fn a_connection_with_answers_not_fetched_executes_nothing_more_but_hands_out_the_rest() {
    let service = Memory::open();
    let (gets, server) = (large_gets(&service, 10), start_with_little_room(&service));
    let mut frames = greeted(&server).await;
    frames.send(execute(1, &gets)).await.unwrap();
    let (_, replies, more) = next_answer(&mut frames).await;
    for id in 2..6 {
        frames.send(execute(id, &gets)).await.unwrap();
    }
    frames.send(status(9)).await.unwrap();
    let answer = within("status", frames.next()).await.unwrap().unwrap();
    assert_eq!(answer[0], 9, "control calls go on");
    assert_eq!(service.calls(), 1);

    let (mut count, mut more) = (replies.len(), more);
    for id in 10.. {
        if let Some(token) = more {
            frames.send(more_of(id, token)).await.unwrap();
        }
        if count == 5 * gets.len() {
            break;
        }
        let (_, replies, token) = next_answer(&mut frames).await;
        assert!(replies.iter().all(Result::is_ok));
        (count, more) = (count + replies.len(), token);
    }
    assert_eq!(service.calls(), 5);
}

#[tokio::test]
async fn who_waits_for_his_own_answers_to_be_fetched_is_told_in_time_and_nothing_is_done() {
    let service = Memory::open();
    let (gets, server) = (large_gets(&service, 12), start_with_little_room(&service));
    let mut frames = greeted(&server).await;
    frames.send(execute(1, &gets)).await.unwrap();
    next_answer(&mut frames).await;
    frames.send(execute_within(2, 200, &[put("new", "v"), get("new")])).await.unwrap();
    let (id, replies, more) = next_answer(&mut frames).await;
    assert!(matches!(&replies[..], [Err(Error::Unavailable(_)), Err(Error::Unavailable(_))]), "{replies:?}");
    assert_eq!((id, more, service.calls()), (2, None, 1));
    assert!(!service.records.lock().contains_key(&key("new")));
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_makes_way() {
    let service = Memory::open();
    let (gets, server) = (large_gets(&service, 12), start_with_little_room(&service));
    let mut frames = greeted(&server).await;
    frames.send(execute_within(1, 100, &gets)).await.unwrap();
    let (_, _, more) = next_answer(&mut frames).await;
    frames.send(execute(2, &gets)).await.unwrap();
    assert_eq!(next_answer(&mut frames).await.0, 2, "the rest of the first was dropped");
    frames.send(more_of(3, more.unwrap())).await.unwrap();
    let (id, replies, more) = next_answer(&mut frames).await;
    assert_eq!((id, replies, more), (3, Vec::new(), None));
}

#[tokio::test]
async fn others_get_less_while_a_connection_holds_much_and_all_again_when_it_is_closed() {
    let service = Memory::open();
    let (gets, server) = (large_gets(&service, 12), start_with_little_room(&service));
    let mut deaf = greeted(&server).await;
    deaf.send(execute(1, &gets)).await.unwrap();
    next_answer(&mut deaf).await;
    let client = server.client();
    let cut = client.execute(batch(gets.clone(), LONG)).await;
    assert_eq!(cut.iter().flatten().count(), 11, "half of the room, 32 MiB less the rest of 9");
    assert_eq!(cut[11], Err(Error::ReplyTooLarge));
    ask(&client, put("k", "v"), LONG).await.unwrap();

    drop(deaf);
    within("room", async { while client.execute(batch(gets.clone(), LONG)).await.iter().any(Result::is_err) {} }).await;
}

#[tokio::test]
async fn a_batch_of_more_than_its_limit_is_refused() {
    let service = Memory::open();
    let server = Server::start(Arc::clone(&service));
    let mut frames = greeted(&server).await;
    frames.send(execute(1, &[put("a", vec![0; MIB]), put("b", "v")])).await.unwrap();
    let (_, replies, _) = next_answer(&mut frames).await;
    assert!(matches!(&replies[..], [Err(Error::Invalid(_)), Err(Error::Invalid(_))]), "{replies:?}");
    assert_eq!(service.calls(), 0);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_answers_that_are_not_fetched() {
    let service = Memory::open();
    let (gets, server) = (large_gets(&service, 12), start_with_little_room(&service));
    let mut frames = greeted(&server).await;
    frames.send(execute(1, &gets)).await.unwrap();
    next_answer(&mut frames).await;
    frames.send(execute(2, &gets)).await.unwrap();
    frames.send(status(9)).await.unwrap();
    within("status", frames.next()).await.unwrap().unwrap();
    let begun = Instant::now();
    server.stop();
    let (id, replies, _) = next_answer(&mut frames).await;
    assert!(id == 2 && replies.iter().all(Result::is_err), "{replies:?}");
    assert!(within("close", frames.next()).await.is_none());
    assert!(begun.elapsed() < Options::default().drain_timeout / 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn shutdown_finishes_what_was_begun_and_takes_no_more() {
    let service = Memory::gated(0);
    let server = Server::start(Arc::clone(&service));
    let client = server.client();
    let call = tokio::spawn({
        let client = client.clone();
        async move { ask(&client, put("k", "v"), LONG).await }
    });
    until("the call has arrived", || service.calls() == 1).await;
    let idle = connect(&server).await;
    server.stop();
    assert!(read_out(idle).await.is_empty());
    service.gate.add_permits(10);
    assert!(matches!(within("answer", call).await.unwrap(), Ok(Reply::Stored(_))));
    linked(&client, false).await;
    assert!(matches!(ask(&client, get("k"), SECOND).await, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let service = Memory::gated(0);
    let options = Options { drain_timeout: SECOND / 10, ..Options::default() };
    let server = Server::start_at("127.0.0.1:0".parse().unwrap(), Arc::clone(&service), options);
    let client = server.client();
    let call = tokio::spawn(async move { client.execute(batch(vec![put("k", "v")], LONG)).await });
    until("the call has arrived", || service.calls() == 1).await;
    server.stop();
    let replies = tokio::time::timeout(Duration::from_secs(5), call).await.unwrap().unwrap();
    assert!(matches!(replies[..], [Err(Error::Unknown(_))]), "{replies:?}");
}

#[tokio::test]
async fn a_primary_is_no_member() {
    let server = start(Options::default());
    let refused = ControlError::Refused("this is a primary".into());
    assert_eq!(server.client().status().await, Err(refused));
}
