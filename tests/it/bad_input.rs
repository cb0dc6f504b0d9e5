//! What nobody should send, and peers that do not behave.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::support::PATIENCE;
use crate::support::cluster::Cluster;

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends bytes and reads to the end of the connection.
fn answer_to(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(port);
    let _ = stream.write_all(bytes); // it may have been closed in the middle
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return answer,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return answer,
            Err(error) => panic!("the node neither answers nor closes: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_answered_or_closed_while_others_are_served_and_memory_stays() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    client.put("bob", "bob@gmail.com").await.unwrap();
    let nodes = [(&cluster.primary, cluster.port), (&cluster.secondaries[0], cluster.secondary_ports()[0])];
    let mut random = StdRng::seed_from_u64(1);
    for (process, port) in nodes {
        let before = process.resident_bytes();
        for _ in 0..200 {
            let mut bytes = vec![0; random.random_range(1..2000)];
            random.fill_bytes(&mut bytes);
            if bytes[0] == 0 {
                bytes[1..4].fill(0xff); // else it may be a frame that is only begun
            }
            answer_to(port, &bytes);
        }
        let huge_frame = [&[0xff; 4][..], &[0; 64]].concat();
        answer_to(port, &huge_frame);
        let wrong_hello = [&[0, 0, 0, 8][..], b"OVERSPIL"].concat();
        answer_to(port, &wrong_hello);
        let text = answer_to(port, b"hello?\r\n");
        assert!(text.starts_with(b"-ERR"), "a person gets a line: {}", text.escape_ascii());

        // Half a frame, each announcing almost 16 MiB; silence; and nobody reading.
        let mut idle: Vec<TcpStream> = (0..500).map(|_| connect(port)).collect();
        for stream in &mut idle {
            stream.write_all(&[0, 0xff, 0xff, 0xff, 1]).unwrap();
        }
        assert_eq!(client.get("bob").await.unwrap().as_deref(), Some("bob@gmail.com"));
        let grown = process.resident_bytes().saturating_sub(before);
        assert!(grown < 64 << 20, "memory grew by {grown} bytes");
        drop(idle);
    }
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_idle_connections_do_not_keep_others_out() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    let idle: Vec<TcpStream> = (0..2000).map(|_| connect(cluster.port)).collect();
    for i in 0..50 {
        client.put(&format!("k{i}"), "v").await.unwrap();
        assert_eq!(client.get(&format!("k{i}")).await.unwrap().as_deref(), Some("v"));
    }
    drop(idle);
    let late = tokio::time::timeout(Duration::from_secs(30), client.get("k1")).await.unwrap();
    assert_eq!(late.unwrap().as_deref(), Some("v"));
    cluster.stop();
}
