//! The least that a server can cost which has a socket for each client: it receives requests, sends answers as long as the true ones, and
//! does nothing else. What it takes is nearly all the kernel's.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use overspill::bench::Wire;

use crate::Outcome;
use crate::load::VALUE_BYTES;
use crate::process::{Server, Start, free_port};

pub const NAME: &str = "a bare server";
/// The first word on its command line.
const ROLE: &str = "bare-server";
const LISTENER: Token = Token(usize::MAX - 1);
/// More than a client of a load sends at once.
const READ_BYTES: usize = 64 * 1024;
const EVENTS: usize = 1024;

/// Starts one.
pub async fn start() -> Outcome<Server> {
    let (program, port) = (std::env::current_exe()?, free_port()?);
    let arguments = [ROLE.to_owned(), port.to_string()];
    let start = Start { program: &program, arguments: &arguments, environment: &[], port, wire: Wire::Resp };
    let mut server = Server::spawn(&start)?;
    server.wait().await?;
    Ok(server)
}

/// Is one, if this process was started as one.
pub fn serve_if_asked() -> Option<ExitCode> {
    let mut words = std::env::args().skip(1);
    words.next().filter(|role| role == ROLE)?;
    let port = words.next().and_then(|port| port.parse().ok())?;
    let Err(error) = serve(port);
    eprintln!("{NAME}: {error}");
    Some(ExitCode::FAILURE)
}

struct Client {
    stream: TcpStream,
    answers: Vec<u8>,
}

fn serve(port: u16) -> io::Result<std::convert::Infallible> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut events, mut buffer) = (Events::with_capacity(EVENTS), vec![0; READ_BYTES]);
    let value = [format!("${VALUE_BYTES}\r\n").as_bytes(), &[b'v'; VALUE_BYTES], b"\r\n"].concat();
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut asked = Vec::new();
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut clients)?;
                continue;
            }
            let Some(place) = clients.get_mut(event.token().0) else { continue };
            let Some(client) = place else { continue };
            match client.stream.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    answer(buffer.get(..count).unwrap_or_default(), &value, &mut client.answers);
                    asked.push(event.token().0);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => *place = None,
            }
        }
        // All are received first, which costs least: a client of many connections is woken once.
        for number in asked.drain(..) {
            let Some(place) = clients.get_mut(number) else { continue };
            let Some(client) = place else { continue };
            match client.stream.write_all(&client.answers) {
                Ok(()) => client.answers.clear(),
                Err(_) => *place = None,
            }
        }
    }
}

fn accept(listener: &TcpListener, poll: &Poll, clients: &mut Vec<Option<Client>>) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nodelay(true)?;
        poll.registry().register(&mut stream, Token(clients.len()), Interest::READABLE)?;
        clients.push(Some(Client { stream, answers: Vec::new() }));
    }
}

/// Answers GETs and SETs that have come whole.
fn answer(mut requests: &[u8], value: &[u8], answers: &mut Vec<u8>) {
    while let Some((words, mut rest)) = number_after(b'*', requests) {
        for _ in 0..words {
            let Some((bytes, word)) = number_after(b'$', rest) else { return };
            rest = word.get(bytes + 2..).unwrap_or_default();
        }
        requests = rest;
        if words == 2 {
            answers.extend_from_slice(value);
        } else {
            answers.extend_from_slice(b"+OK\r\n");
        }
    }
}

/// And what is behind its line.
fn number_after(mark: u8, text: &[u8]) -> Option<(usize, &[u8])> {
    let text = text.strip_prefix(&[mark])?;
    let end = text.iter().position(|byte| *byte == b'\r')?;
    let number = std::str::from_utf8(text.get(..end)?).ok()?.parse().ok()?;
    Some((number, text.get(end + 2..)?))
}
