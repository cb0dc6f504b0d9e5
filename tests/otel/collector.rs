//! A collector of spans: OTLP over HTTP, and as much protobuf as that takes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A span, with ids in hex as logs show them; no parent is empty.
#[derive(Debug, Clone, Default)]
pub struct Span {
    pub service: String,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    pub kind: u64,
    pub start: u64,
    pub end: u64,
    pub is_error: bool,
    pub attributes: Vec<(String, String)>,
    /// The spans.
    pub links: Vec<String>,
}

pub struct Collector {
    port: u16,
    collected: Arc<Mutex<Collected>>,
}

#[derive(Default)]
struct Collected {
    spans: Vec<Span>,
    last_head: Vec<String>,
}

impl Collector {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let of_all: Arc<Mutex<Collected>> = Arc::default();
        let collected = Arc::clone(&of_all);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let collected = Arc::clone(&collected);
                std::thread::spawn(move || collect(stream.unwrap(), &collected));
            }
        });
        Self { port, collected: of_all }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// All that came until now.
    pub fn spans(&self) -> Vec<Span> {
        self.collected.lock().unwrap().spans.clone()
    }

    /// The lines before the last body, in lower case.
    pub fn last_head(&self) -> Vec<String> {
        self.collected.lock().unwrap().last_head.clone()
    }
}

fn collect(stream: TcpStream, collected: &Mutex<Collected>) {
    let mut stream = BufReader::new(stream);
    let (mut head, mut bytes) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(length) = line.strip_prefix("content-length: ") {
            bytes = length.parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    assert_eq!(head[0], "post /v1/traces http/1.1");
    assert!(head.contains(&"content-type: application/x-protobuf".to_owned()), "{head:?}");
    let mut body = vec![0; bytes];
    stream.read_exact(&mut body).unwrap();
    // Before the answer: when an exporter has ended, all is there.
    let mut collected = collected.lock().unwrap();
    collected.spans.extend(spans(&body));
    collected.last_head = head;
    drop(collected);
    stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
}

/// A field of a message: its number, and what it holds.
enum Is<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return value;
        }
    }
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Is<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let mut take = |length: usize| {
            let (taken, rest) = bytes.split_at(length);
            bytes = rest;
            taken
        };
        let is = match tag & 7 {
            0 => Is::Number(varint(&mut bytes)),
            1 => Is::Number(number(take(8))),
            5 => Is::Number(number(take(4))),
            2 => {
                let length = varint(&mut bytes) as usize;
                let (taken, rest) = bytes.split_at(length);
                bytes = rest;
                Is::Bytes(taken)
            }
            other => panic!("wire type {other}"),
        };
        fields.push((tag >> 3, is));
    }
    fields
}

/// What is in the fields with this number.
fn inside(bytes: &[u8], field: u64) -> Vec<&[u8]> {
    let is_it = |(number, is)| if let (true, Is::Bytes(bytes)) = (number == field, is) { Some(bytes) } else { None };
    fields(bytes).into_iter().filter_map(is_it).collect()
}

fn spans(request: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource_spans in inside(request, 1) {
        let resource = inside(resource_spans, 1);
        let attributes = inside(resource[0], 1).into_iter().map(attribute);
        let service = attributes.filter(|(key, _)| key == "service.name").map(|(_, name)| name).next().unwrap();
        for scope_spans in inside(resource_spans, 2) {
            spans.extend(inside(scope_spans, 2).into_iter().map(|bytes| span(bytes, &service)));
        }
    }
    spans
}

fn span(bytes: &[u8], service: &str) -> Span {
    let mut span = Span { service: service.to_owned(), ..Span::default() };
    for field in fields(bytes) {
        match field {
            (1, Is::Bytes(id)) => span.trace = hex(id),
            (2, Is::Bytes(id)) => span.id = hex(id),
            (4, Is::Bytes(id)) => span.parent = hex(id),
            (5, Is::Bytes(name)) => span.name = text(name),
            (6, Is::Number(kind)) => span.kind = kind,
            (7, Is::Number(at)) => span.start = at,
            (8, Is::Number(at)) => span.end = at,
            (9, Is::Bytes(bytes)) => span.attributes.push(attribute(bytes)),
            (13, Is::Bytes(link)) => span.links.push(hex(inside(link, 2)[0])),
            (15, Is::Bytes(status)) => {
                span.is_error = fields(status).iter().any(|field| matches!(field, (3, Is::Number(2))));
            }
            (10 | 14 | 16, Is::Number(_)) => {}
            (other, _) => panic!("field {other} of a span"),
        }
    }
    span
}

fn attribute(bytes: &[u8]) -> (String, String) {
    let value = inside(bytes, 2)[0];
    let value = match &fields(value)[..] {
        [(1, Is::Bytes(value))] => text(value),
        [(3, Is::Number(value))] => value.to_string(),
        _ => panic!("an attribute of another kind"),
    };
    (text(inside(bytes, 1)[0]), value)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
