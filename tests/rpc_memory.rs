//! What idle and hostile peers cost in memory. A binary of its own: it measures its whole process.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::time::Duration;

use futures::SinkExt;
use overspill::command::{Command, Reply};
use overspill::doors::Options;
use overspill::record::{VALUE_BYTES_MAX, Value};
use overspill::rpc::frames::{FRAME_BYTES_MAX, Frames, STALL_MAX};
use overspill::rpc::{Role, hello};
use overspill::service::{Batch, Replies, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Mutex;

use crate::support::{LONG, Memory, Server, ask, connect, execute, found, get, greeted, key, put, within};

#[path = "rpc/support.rs"]
#[expect(dead_code)]
mod support;

const MIB: usize = 1024 * 1024;

/// One test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Resident bytes of this process.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn two_thousand_idle_peers_cost_little_whatever_they_announce() {
    let _alone = ALONE.lock().await;
    let options =
        Options { sniff_timeout: LONG * 10, hello_timeout: LONG * 10, stall_max: LONG * 10, ..Options::default() };
    let server = Server::start_at("127.0.0.1:0".parse().unwrap(), Memory::open(), options);
    let client = server.client();
    ask(&client, put("k", "v"), LONG).await.unwrap();
    let before = resident_bytes();
    let mut idle: Vec<TcpStream> = Vec::new();
    for i in 0..2000 {
        let mut stream = if i % 2 == 0 { connect(&server).await } else { greeted(&server).await.into_inner() };
        match i % 4 {
            0 => {}
            1 => stream.write_all(&[&(FRAME_BYTES_MAX as u32).to_be_bytes()[..], b"beginning"].concat()).await.unwrap(),
            2 => stream.write_all(&[0, 0, 3]).await.unwrap(),
            _ => stream.write_all(&[0]).await.unwrap(),
        }
        idle.push(stream);
    }
    for i in 0..100 {
        ask(&client, put(format!("k{i}"), "v"), LONG).await.unwrap();
    }
    let grown = resident_bytes().saturating_sub(before);
    println!("2,000 idle peers: {} KiB", grown / 1024);
    assert!(grown < 48 * MIB, "{grown}");
    // All were kept until now.
    assert!(
        idle.iter().all(|stream| stream.try_read(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock))
    );
}

#[tokio::test]
async fn a_client_that_stops_reading_is_closed_and_costs_little_meanwhile() {
    let _alone = ALONE.lock().await;
    let service = Memory::open();
    // They fit a frame: what the server keeps of longer answers would not be stuck in the middle of being written.
    let gets: Vec<Command> = (0..3).map(|i| get(format!("k{i}"))).collect();
    for i in 0..3 {
        service.records.lock().insert(key(format!("k{i}")), Value::new(vec![i; MIB]).unwrap());
    }
    let options = Options { stall_max: Duration::from_secs(2), ..Options::default() };
    let server = Server::start_at("127.0.0.1:0".parse().unwrap(), Arc::clone(&service), options);
    let client = server.client();
    ask(&client, put("k", "v"), LONG).await.unwrap();

    let before = resident_bytes();
    let mut stalled: Vec<Frames<TcpStream>> = Vec::new();
    for _ in 0..8 {
        let mut frames = greeted(&server).await;
        // 24 GiB of answers, if they were made.
        for id in 0..1000 {
            frames.send(execute(id, &gets)).await.unwrap();
        }
        stalled.push(frames);
    }
    for i in 0..100 {
        ask(&client, put(format!("other{i}"), "v"), LONG).await.unwrap();
    }
    let grown = resident_bytes().saturating_sub(before);
    println!("8 peers that don't read: {} KiB", grown / 1024);
    assert!(grown < 100 * MIB, "{grown}");
    assert!(service.calls() < 8 * 100 + 200, "{}", service.calls());

    for frames in stalled {
        let mut stream = frames.into_inner();
        // It must be closed without our reading: a write fails then.
        within("the server gives up", async {
            while stream.write_all(&[0]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        let _ = stream.read(&mut [0]).await;
    }
    ask(&client, get("k"), LONG).await.unwrap();
}

/// Makes what it answers anew each time, as a primary does.
struct Copies;

impl Service for Copies {
    async fn execute(&self, batch: Batch) -> Replies {
        let answer = |bytes| Ok(Reply::Found(Some(found(Value::new(vec![1; bytes]).unwrap()))));
        let bytes = |command: &Command| match command.key() {
            _ if command.is_write() => 1,
            Some(key) if key.as_bytes() == b"large" => VALUE_BYTES_MAX,
            Some(_) | None => MIB,
        };
        batch.commands.iter().map(|command| answer(bytes(command))).collect()
    }
}

/// A peer whose socket holds little: what it does not read stays with the server.
async fn greeted_with_small_buffer(server: &Server) -> Frames<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let mut frames = Frames::new(socket.connect(server.address).await.unwrap(), FRAME_BYTES_MAX, STALL_MAX);
    hello::offer(&mut frames, Role::Client, LONG).await.unwrap();
    frames
}

#[tokio::test]
async fn many_that_do_not_read_cost_no_more_than_the_door_may_hold_and_others_are_served() {
    let _alone = ALONE.lock().await;
    const ANSWERS_BYTES_MAX: usize = 64 * MIB;
    let options = Options { answers_bytes_max: ANSWERS_BYTES_MAX, ..Options::default() };
    let server = Server::start_at("127.0.0.1:0".parse().unwrap(), Copies, options);
    let client = server.client();
    ask(&client, put("k", "v"), LONG).await.unwrap();
    // 11 GiB of answers in many frames each, if they were made; and one frame for each peer that its socket does not hold.
    for (gets, requests) in [((0..16).map(|i| get(format!("k{i}"))).collect(), 14), (vec![get("large")], 1)] {
        let before = resident_bytes();
        let (mut deaf, mut most) = (Vec::new(), 0);
        for _ in 0..50 {
            let mut frames = greeted_with_small_buffer(&server).await;
            for id in 0..requests {
                frames.send(execute(id, &gets)).await.unwrap();
            }
            deaf.push(frames);
            ask(&client, put("k", "v"), LONG).await.unwrap();
            most = most.max(resident_bytes().saturating_sub(before));
        }
        println!("50 peers that don't read {} values: {} KiB", gets.len(), most / 1024);
        assert!(most < ANSWERS_BYTES_MAX + 64 * MIB, "{most}");
        drop(deaf);
        within("room again", async { while ask(&client, get("large"), LONG).await.is_err() {} }).await;
    }
}
