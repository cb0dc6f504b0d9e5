//! What holds for any input at all. The fuzz target includes this file, so it names only `super::resp` and `bytes`.

use bytes::{Bytes, BytesMut};

use super::resp::{Limits, Parser, ProtocolError, READ_BYTES_MAX, Request};

/// Memory of an unfinished request beyond its bytes and the places of its arguments.
const PENDING_BYTES_EXTRA: usize = 64;

/// Feeds `input` to a parser in pieces of the sizes that `piece_bytes` gives, and checks that
/// - the requests, and the error after them, are those of the whole input at once;
/// - an error stays;
/// - no more is held than what arrived and 16 bytes for each argument that arrived;
/// - the parser does not let the buffer grow and does not ask for much.
pub fn check(limits: Limits, input: &[u8], mut piece_bytes: impl FnMut() -> usize) {
    let (mut parser, mut buffer, mut whole) = (Parser::new(limits), BytesMut::from(input), Vec::new());
    let whole_end = take(&mut parser, &mut buffer, &mut whole);
    check_requests(&whole, limits, input.len());

    let (mut parser, mut buffer, mut requests) = (Parser::new(limits), BytesMut::new(), Vec::new());
    let mut rest = input;
    let mut end = None;
    while !rest.is_empty() && end.is_none() {
        let (piece, after) = rest.split_at(piece_bytes().clamp(1, rest.len()));
        rest = after;
        buffer.extend_from_slice(piece);
        end = take(&mut parser, &mut buffer, &mut requests);
        // The shortest argument takes six bytes.
        let arguments_bytes = 16 * (buffer.len() / 6);
        assert!(
            parser.pending_bytes() <= buffer.len() + arguments_bytes + PENDING_BYTES_EXTRA,
            "{} bytes are pending of {} in the buffer",
            parser.pending_bytes(),
            buffer.len()
        );
        assert!(parser.wants() <= READ_BYTES_MAX);
    }
    assert_eq!(end, whole_end, "another end when it comes in pieces");
    assert_eq!(requests, whole, "other requests when it comes in pieces");
    if let Some(error) = end {
        buffer.extend_from_slice(b"PING\r\n");
        assert!(matches!(parser.next(&mut buffer), Err(again) if again == error), "an error does not stay");
    }
}

/// Takes what requests there are.
fn take(parser: &mut Parser, buffer: &mut BytesMut, requests: &mut Vec<Vec<Bytes>>) -> Option<ProtocolError> {
    loop {
        let capacity = buffer.capacity();
        let next = parser.next(buffer).map(|request| request.map(checked));
        assert!(buffer.capacity() <= capacity, "the parser has let the buffer grow");
        match next {
            Ok(Some(args)) => {
                assert_eq!(parser.pending_bytes(), 0);
                requests.push(args);
            }
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    }
}

/// The arguments of a request, which are the same in every way they are asked for.
fn checked(request: Request<'_>) -> Vec<Bytes> {
    let args: Vec<&[u8]> = request.args.iter().collect();
    assert_eq!(args.len(), request.args.len());
    assert!(args.iter().enumerate().all(|(i, arg)| request.args.get(i) == Some(*arg)));
    assert_eq!(request.args.get(args.len()), None);
    let bytes: Vec<Bytes> = (0..args.len()).filter_map(|i| request.args.bytes(i)).collect();
    assert_eq!(bytes, args);
    bytes
}

fn check_requests(requests: &[Vec<Bytes>], limits: Limits, input_bytes: usize) {
    let mut bytes = 0;
    for args in requests {
        assert!(!args.is_empty(), "a request of nothing");
        assert!(args.len() <= limits.args_max.max(limits.line_bytes_max));
        assert!(args.iter().all(|arg| arg.len() <= limits.arg_bytes_max.max(limits.line_bytes_max)));
        bytes += args.iter().map(Bytes::len).sum::<usize>();
    }
    assert!(bytes <= input_bytes, "{bytes} bytes of arguments in {input_bytes}");
}
