//! The client: coalescing, timeouts, and servers that are away, die, hang or speak another version.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{SinkExt, StreamExt};
use overspill::cluster::{ControlError, Member};
use overspill::command::{Command, Reply};
use overspill::doors;
use overspill::record::Value;
use overspill::rpc::frames::{Frames, STALL_MAX, frame};
use overspill::rpc::hello;
use overspill::rpc::{Client, Options, Role};
use overspill::service::{Error, Service};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    LONG, Memory, SECOND, Server, ask, batch, found, found_bytes, get, key, linked, put, until, within,
};

/// A peer that says hello and then does what the test wants.
async fn accept_and_greet(listener: &TcpListener) -> Frames<TcpStream> {
    let (stream, _) = listener.accept().await.unwrap();
    let mut frames = Frames::new(stream, 1 << 20, STALL_MAX);
    hello::accept(&mut frames, Role::Secondary, SECOND).await.unwrap();
    frames
}

async fn listen() -> (TcpListener, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::spawn(listener.local_addr().unwrap().to_string(), Options::default());
    (listener, client)
}

/// An address where nobody listens now.
async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn callers_that_wait_share_calls_and_get_their_own_answers() {
    let service = Memory::gated(0);
    let server = Server::start(Arc::clone(&service));
    let client = server.client_with(Options { calls_in_flight_max: 2, ..Options::default() });
    for i in 0..100 {
        service.records.lock().insert(key(format!("k{i}")), value_of(i));
    }
    let blocking = tokio::spawn({
        let client = client.clone();
        async move { ask(&client, get("k0"), LONG).await }
    });
    until("a call is held up", || service.calls() == 1).await;
    let callers = join_all((0..100).map(|i| ask(&client, get(format!("k{i}")), LONG)));
    let release = async {
        until("a second call has taken along who waits", || service.commands.load(Ordering::SeqCst) > 1).await;
        service.gate.add_permits(1000);
    };
    let (replies, ()) = tokio::join!(callers, release);
    for (i, reply) in replies.into_iter().enumerate() {
        assert_eq!(reply, Ok(Reply::Found(Some(found(value_of(i))))));
    }
    blocking.await.unwrap().unwrap();
    assert!(service.calls() <= 5, "{} calls for 101 callers", service.calls());
}

/// While calls are under way, what comes waits until it is as much as they are.
#[tokio::test]
async fn callers_that_come_while_others_wait_for_answers_travel_together() {
    let memory = Memory::gated(0);
    let server = Server::start(Arc::clone(&memory));
    let client = server.client();
    linked(&client, true).await;
    // Nobody's patience ends while something is ready to run.
    tokio::time::pause();
    let mut askers = Vec::new();
    for (i, calls) in [1, 2, 2, 3].into_iter().enumerate() {
        let client = client.clone();
        askers.push(tokio::spawn(async move { ask(&client, get(format!("k{i}")), LONG).await }));
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        while memory.calls() < calls {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::resume();
    assert_eq!((memory.calls(), memory.commands.load(Ordering::SeqCst)), (3, 4));
    // Nothing is answered, and yet nobody waits for long.
    let client = client.clone();
    askers.push(tokio::spawn(async move { ask(&client, get("more"), LONG).await }));
    while memory.calls() < 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    memory.gate.add_permits(100);
    for asker in askers {
        assert_eq!(asker.await.unwrap(), Ok(Reply::Found(None)));
    }
}

/// On a runtime with one thread, which runs a task that is woken by another before all others.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn callers_that_are_ready_at_once_travel_together() {
    let memory = Memory::gated(0);
    let server = Server::start(Arc::clone(&memory));
    let client = server.client();
    linked(&client, true).await;
    let asking = tokio::spawn(async move {
        let ask_one = |i| {
            let client = client.clone();
            tokio::spawn(async move { ask(&client, get(format!("k{i}")), LONG).await })
        };
        let askers: Vec<_> = (0..10).map(ask_one).collect();
        join_all(askers).await
    });
    until("a call has arrived", || memory.calls() > 0).await;
    assert_eq!((memory.calls(), memory.commands.load(Ordering::SeqCst)), (1, 10));
    memory.gate.add_permits(100);
    for answered in asking.await.unwrap() {
        assert_eq!(answered.unwrap(), Ok(Reply::Found(None)));
    }
}

fn value_of(i: usize) -> Value {
    Value::new(format!("value of {i}")).unwrap()
}

#[tokio::test]
async fn a_peer_that_is_down_is_unavailable_at_once_and_served_when_it_comes() {
    let address = free_address().await;
    let client = Client::spawn(address.to_string(), Options::default());
    let begun = Instant::now();
    for command in [get("k"), put("k", "v"), Command::Count] {
        let error = ask(&client, command, LONG).await.unwrap_err();
        assert_eq!(error, Error::Unavailable(format!("{address}: connection refused; retrying")));
    }
    let error = client.status().await.unwrap_err();
    assert_eq!(error, ControlError::Unreachable(format!("{address}: connection refused; retrying")));
    assert!(begun.elapsed() < 2 * SECOND, "{:?}", begun.elapsed());

    let _server = Server::start_at(address, Memory::open(), doors::Options::default());
    linked(&client, true).await;
    ask(&client, put("k", "v"), LONG).await.unwrap();
}

#[tokio::test]
async fn a_call_made_during_the_first_attempt_waits_for_its_outcome() {
    let (listener, client) = listen().await;
    let call = tokio::spawn(async move { ask(&client, put("k", "v"), LONG).await });
    let (stream, _) = listener.accept().await.unwrap();
    assert!(!call.is_finished());
    drop((stream, listener));
    assert!(matches!(within("answer", call).await.unwrap(), Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn a_name_that_is_unknown_is_said_to_be() {
    let client = Client::spawn("no-such-host.invalid:1", Options::default());
    let error = ask(&client, get("k"), LONG).await.unwrap_err().to_string();
    assert!(error.contains("no-such-host.invalid:1") && error.contains("retrying"), "{error}");
}

#[tokio::test]
async fn when_the_peer_dies_reads_are_unavailable_and_writes_unknown_and_it_may_come_back() {
    let service = Memory::gated(1);
    let server = Server::start(Arc::clone(&service));
    let client = server.client();
    ask(&client, put("k", "v"), LONG).await.unwrap();
    let commands = vec![get("k"), put("k", "w"), Command::Count, Command::Delete { key: key("k") }];
    let call = {
        let client = client.clone();
        tokio::spawn(async move { client.execute(batch(commands, LONG)).await })
    };
    until("the call has arrived", || service.calls() == 2).await;
    let address = server.kill();
    let replies = within("answer", call).await.unwrap();
    assert!(
        matches!(
            &replies[..],
            [Err(Error::Unavailable(_)), Err(Error::Unknown(_)), Err(Error::Unavailable(_)), Err(Error::Unknown(_))]
        ),
        "{replies:?}"
    );
    linked(&client, false).await;

    let again = Memory::open();
    let _server = Server::start_at(address, Arc::clone(&again), doors::Options::default());
    linked(&client, true).await;
    ask(&client, put("k", "x"), LONG).await.unwrap();
    assert_eq!(ask(&client, get("k"), LONG).await, found_bytes("x"));
    assert_eq!(again.calls(), 2, "nothing was sent again");
}

#[tokio::test]
async fn timeouts_are_kept_when_the_server_never_answers() {
    let service = Memory::gated(0);
    let server = Server::start(Arc::clone(&service));
    let client = server.client();
    linked(&client, true).await;
    let begun = Instant::now();
    let replies = client.execute(batch(vec![get("k"), put("k", "v")], SECOND / 5)).await;
    assert!(matches!(&replies[..], [Err(Error::Unavailable(_)), Err(Error::Unknown(_))]), "{replies:?}");
    assert!(begun.elapsed() >= SECOND / 5 && begun.elapsed() < 2 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_never_left_the_queue_is_not_unknown() {
    let service = Memory::gated(0);
    let server = Server::start(Arc::clone(&service));
    let client = server.client_with(Options { calls_in_flight_max: 1, ..Options::default() });
    let blocking = {
        let client = client.clone();
        tokio::spawn(async move { ask(&client, put("a", "1"), LONG).await })
    };
    until("the only call is on its way", || service.calls() == 1).await;
    let waiting = ask(&client, put("b", "2"), SECOND / 5).await;
    assert!(matches!(waiting, Err(Error::Unavailable(_))), "{waiting:?}");
    service.gate.add_permits(10);
    blocking.await.unwrap().unwrap();
    ask(&client, put("c", "3"), LONG).await.unwrap();
    assert_eq!(ask(&client, get("b"), LONG).await, Ok(Reply::Found(None)));
}

#[tokio::test]
async fn a_full_queue_makes_callers_wait_until_their_timeout() {
    let service = Memory::gated(0);
    let server = Server::start(Arc::clone(&service));
    let client = server.client_with(Options { queue_bytes_max: 1000, ..Options::default() });
    let blocking = {
        let client = client.clone();
        tokio::spawn(async move { ask(&client, put("a", vec![0; 2000]), LONG).await })
    };
    until("the queue is full", || service.calls() == 1).await;
    let waiting = ask(&client, put("b", "2"), SECOND / 5).await;
    assert!(matches!(waiting, Err(Error::Unavailable(_))), "{waiting:?}");
    assert_eq!(service.calls(), 1);
    service.gate.add_permits(10);
    blocking.await.unwrap().unwrap();
    ask(&client, put("b", "2"), LONG).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_goes_away_disturbs_nobody() {
    let service = Memory::gated(0);
    let server = Server::start(Arc::clone(&service));
    let client = server.client();
    let call = |i: usize| {
        let client = client.clone();
        async move { ask(&client, put(format!("k{i}"), "v"), LONG).await }
    };
    let callers: Vec<_> = (0..20).map(|i| tokio::spawn(call(i))).collect();
    until("calls are on their way", || service.calls() >= 1).await;
    for caller in callers.iter().step_by(2) {
        caller.abort();
    }
    service.gate.add_permits(1000);
    for caller in callers.into_iter().skip(1).step_by(2) {
        within("answer", caller).await.unwrap().unwrap();
    }
}

/// What two that wait are told, the second of which comes later and waits for a shorter time.
async fn wait_in_vain(client: &Client) -> [String; 2] {
    let is_shorter_over = AtomicBool::new(false);
    let longer = async {
        let reply = ask(client, put("k", "v"), SECOND / 10).await;
        assert!(is_shorter_over.load(Ordering::SeqCst), "the shorter time is over first");
        reply
    };
    let shorter = async {
        let reply = ask(client, put("k", "v"), SECOND / 20).await;
        is_shorter_over.store(true, Ordering::SeqCst);
        reply
    };
    <[_; 2]>::from(tokio::join!(biased; longer, shorter)).map(|reply| reply.unwrap_err().to_string())
}

#[tokio::test]
async fn who_waits_for_a_connection_is_answered_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = Client::spawn(address.to_string(), Options { hello_timeout: LONG, ..Options::default() });
    let _silent = listener.accept().await.unwrap();
    let expected = ["100ms", "50ms"].map(|within| format!("unavailable: {address}: no answer within {within}"));
    assert_eq!(wait_in_vain(&client).await, expected);
}

#[tokio::test]
async fn who_waits_for_room_in_the_queue_is_answered_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = Client::spawn(address.to_string(), Options { queue_bytes_max: 1, ..Options::default() });
    let _hung = accept_and_greet(&listener).await;
    let expected = [
        format!("outcome unknown: {address}: no answer within 100ms"),
        format!("unavailable: {address}: no answer within 50ms"),
    ];
    assert_eq!(wait_in_vain(&client).await, expected);
}

#[tokio::test]
async fn a_peer_that_hangs_is_given_up_and_called_anew() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = Options { silence_max: SECOND / 10, ..Options::default() };
    let client = Client::spawn(address.to_string(), options);
    let hung = accept_and_greet(&listener).await;
    assert!(matches!(ask(&client, put("k", "v"), SECOND / 10).await, Err(Error::Unknown(_))));
    // Its call has one more second to show that it lives.
    let second = within("another connection", accept_and_greet(&listener)).await;
    drop((hung, second));
}

#[tokio::test]
async fn a_server_of_another_version_makes_calls_say_so() {
    let (listener, client) = listen().await;
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut frames = Frames::new(stream, 1024, STALL_MAX);
        assert_eq!(frames.next().await.unwrap().unwrap()[..8], *b"OVSP\0\x03\0\0");
        frames.send(frame(b"OVSP\0\x07\0\x02")).await.unwrap();
        frames
    };
    let (error, _open) = tokio::join!(ask(&client, get("k"), LONG), server);
    let Err(Error::Unavailable(error)) = error else { panic!("{error:?}") };
    assert!(error.contains("version 3") && error.contains("version 7"), "{error}");
}

#[tokio::test]
async fn a_server_of_another_kind_makes_calls_say_so() {
    let (listener, client) = listen().await;
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream
    };
    let (error, _open) = tokio::join!(ask(&client, get("k"), LONG), server);
    assert!(error.unwrap_err().to_string().contains("does not speak the Overspill RPC"));
}

#[tokio::test]
async fn garbage_for_an_answer_ends_the_connection_and_not_the_client() {
    let (listener, client) = listen().await;
    let call = tokio::spawn({
        let client = client.clone();
        async move { ask(&client, put("k", "v"), LONG).await }
    });
    let mut frames = accept_and_greet(&listener).await;
    frames.next().await.unwrap().unwrap();
    frames.send(frame(&[0xff; 100])).await.unwrap();
    assert!(matches!(within("answer", call).await.unwrap(), Err(Error::Unknown(_))));
    within("another connection", accept_and_greet(&listener)).await;
}

#[tokio::test]
async fn close_ends_calls_and_the_driver() {
    let service = Memory::gated(0);
    let server = Server::start(Arc::clone(&service));
    let client = server.client();
    let call = tokio::spawn({
        let client = client.clone();
        async move { ask(&client, put("k", "v"), LONG).await }
    });
    until("the call has arrived", || service.calls() == 1).await;
    within("close", client.close()).await;
    assert!(matches!(within("answer", call).await.unwrap(), Err(Error::Unknown(_))));
    assert!(matches!(ask(&client, put("k", "v"), LONG).await, Err(Error::Unavailable(_))));
    assert!(matches!(client.status().await, Err(ControlError::Unreachable(_))));
}

#[tokio::test]
async fn a_dropped_client_closes_its_connection() {
    let (listener, client) = listen().await;
    let mut frames = accept_and_greet(&listener).await;
    linked(&client, true).await;
    drop(client);
    assert!(within("end", frames.next()).await.is_none());
}

#[tokio::test]
async fn calls_heal_while_the_server_dies_again_and_again() {
    let mut address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut client: Option<Client> = None;
    for _ in 0..5 {
        let server = Server::start_at(address, Memory::open(), doors::Options::default());
        let client = client.get_or_insert_with(|| server.client());
        linked(client, true).await;
        let calls = (0..50).map(|i| ask(client, put(format!("k{i}"), "v"), LONG));
        assert!(join_all(calls).await.iter().all(Result::is_ok));
        address = server.kill();
        linked(client, false).await;
        let error = within("answer", ask(client, get("k"), Duration::from_secs(5))).await;
        assert!(matches!(error, Err(Error::Unavailable(_))), "{error:?}");
    }
}
