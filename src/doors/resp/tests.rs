use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::ReadBuf;
use tokio::net::{TcpListener, TcpStream};

use super::super::{NoMember, Options};
use super::*;
use crate::command::Found;
use crate::record::{Value, Version};

/// Behind the door of a test: has nothing, and tells the node to stop when it is asked.
struct Stopper(CancellationToken);

impl Service for Stopper {
    async fn execute(&self, batch: Batch) -> Replies {
        self.0.cancel();
        vec![Err(Error::Unavailable("nobody is here".to_owned())); batch.commands.len()]
    }
}

/// A client that has always sent more by the time it is looked at.
struct Flood;

impl AsyncRead for Flood {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buffer.put_slice(b"PING\r\n");
        Poll::Ready(Ok(()))
    }
}

/// Has a value of 100 KiB for every key, at once. Counts the batches.
#[derive(Default)]
struct Large(AtomicUsize);

impl Service for Large {
    async fn execute(&self, batch: Batch) -> Replies {
        self.0.fetch_add(1, Ordering::Relaxed);
        batch.commands.iter().map(|command| Ok(self.answer_now(command).unwrap())).collect()
    }

    fn answer_now(&self, _: &Command) -> Option<Reply> {
        let value = Value::new(vec![b'v'; 100 << 10]).unwrap();
        Some(Reply::Found(Some(Found { value, version: Version::new(1, 1), expires_at: None })))
    }
}

fn door<S: Service>(service: S) -> Arc<Door<S, NoMember>> {
    Arc::new(Door::new(service, NoMember, NoMember, Options::default()))
}

#[tokio::test]
async fn a_client_that_never_pauses_does_not_hold_up_a_stop() {
    let (budget, stop) = (Budget::new(1 << 20), CancellationToken::new());
    let stream = tokio::io::join(Flood, tokio::io::sink());
    let served = tokio::spawn(serve(
        stream,
        SocketAddr::from(([127, 0, 0, 1], 1)),
        door(Stopper(stop.clone())),
        budget,
        stop.clone(),
    ));
    tokio::task::yield_now().await;
    assert!(!served.is_finished());
    stop.cancel();
    timeout(Duration::from_secs(5), served).await.expect("it ends").unwrap().unwrap();
}

/// Its last answers would be gone if it were cut off with something unread.
#[tokio::test]
async fn whoever_is_stopped_while_he_sends_sees_the_end_of_the_answers_and_no_reset() {
    const SENT: usize = 4_000;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    client.write_all(&b"GET k\r\n".repeat(SENT)).await.unwrap();
    let (budget, stop) = (Budget::new(1 << 20), CancellationToken::new());
    let served = tokio::spawn(serve(stream, peer, door(Stopper(stop.clone())), budget, stop.clone()));
    let mut answers = String::new();
    client.read_to_string(&mut answers).await.expect("the end");
    assert!(answers.ends_with("\r\n") && (1..SENT).contains(&answers.lines().count()), "{answers}");
    drop(client);
    served.await.unwrap().unwrap();
}

/// What the door of `Large` answers, and how many batches and GETs were made for it.
async fn answers(requests: &[u8], room: usize) -> (String, usize, String) {
    let (mut client, stream) = tokio::io::duplex(1 << 20);
    client.write_all(requests).await.unwrap();
    client.shutdown().await.unwrap();
    let (door, peer) = (door(Large::default()), SocketAddr::from(([127, 0, 0, 1], 1)));
    serve(stream, peer, Arc::clone(&door), Budget::new(room), CancellationToken::new()).await.unwrap();
    let mut answers = String::new();
    client.read_to_string(&mut answers).await.unwrap();
    let metrics = door.metrics.encode(Vec::new());
    let gets = metrics.lines().find(|line| line.contains(r#"door="resp",command="get",result="ok"}"#)).unwrap();
    (answers, door.service.0.load(Ordering::Relaxed), gets.rsplit_once(' ').unwrap().1.to_owned())
}

#[tokio::test]
async fn a_read_that_comes_alone_is_answered_at_once_and_takes_room_as_others_do() {
    let (answered, batches, gets) = answers(b"GET k\r\n", 1 << 20).await;
    assert!(answered.starts_with("$102400\r\nvvv"));
    assert_eq!((batches, gets.as_str()), (0, "1"));
    let (answered, batches, _) = answers(b"GET k\r\n", 100 << 10).await;
    assert!(answered.starts_with("-TRYAGAIN "), "{answered:.40}");
    assert!(batches > 0);
    // Two in one go, and one that comes while another is still to be written.
    for (requests, batched) in [(&b"GET a\r\nGET b\r\n"[..], 1), (b"GET a\r\nPING\r\nGET b\r\nPING\r\n", 1)] {
        let (answered, batches, gets) = answers(requests, 1 << 20).await;
        assert_eq!((answered.matches("$102400").count(), batches, gets.as_str()), (2, batched, "2"));
    }
}
