//! Tests of the whole protocol; those of one file stand in it.

use bytes::{Bytes, BytesMut};

use super::*;
// The name by which `invariants` knows the protocol.
use crate::protocol::resp;

mod encode;
mod fuzz;
mod invariants;
mod oracle;
mod parse;

/// A request as clients send it.
fn multibulk<T: AsRef<[u8]>>(args: &[T]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend(format!("${}\r\n", arg.as_ref().len()).bytes());
        bytes.extend(arg.as_ref());
        bytes.extend(b"\r\n");
    }
    bytes
}

/// Every request of `input`, and the error that ended them.
fn parse_all(limits: Limits, input: &[u8]) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
    let (mut parser, mut buffer, mut requests) = (Parser::new(limits), BytesMut::from(input), Vec::new());
    loop {
        match parser.next(&mut buffer) {
            Ok(Some(request)) => requests.push(request.args.iter().map(Bytes::copy_from_slice).collect()),
            Ok(None) => return (requests, None),
            Err(error) => return (requests, Some(error)),
        }
    }
}

/// The arguments of the only request in `input`.
fn parse_one(input: &[u8]) -> Result<Vec<Bytes>, ProtocolError> {
    let (mut requests, error) = parse_all(Limits::default(), input);
    match error {
        Some(error) => Err(error),
        None => {
            assert_eq!(requests.len(), 1, "{}", input.escape_ascii());
            Ok(requests.remove(0))
        }
    }
}
