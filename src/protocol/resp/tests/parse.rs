//! Requests whole and split, and every limit at its edge.

use proptest::prelude::*;

use super::invariants::check;
use super::*;

const PIPELINE: &[&[u8]] = &[
    b"*2\r\n$3\r\nGET\r\n$5\r\nalice\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*-7\r\n",
    b"\r\n",
    b"\n",
    b" \t\r\n",
    b"PING\r\n",
    b"set key \"a \\x00\\\"b\" 'it\\'s'\n",
    b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$12\r\nwith\r\nline\r\n\r\n",
    b"$3 is not a bulk here\r\n",
    b"*8\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n$1\r\ne\r\n$1\r\nf\r\n$1\r\ng\r\n$1\r\nh\r\n",
    b"\xff\xfe \x00\r\n",
    b"*1\r\n$10\r\n0123456789\r\n",
];

fn pipeline() -> Vec<u8> {
    PIPELINE.concat()
}

fn error_of(limits: Limits, input: &[u8]) -> Option<ProtocolError> {
    parse_all(limits, input).1
}

#[test]
fn a_pipeline_is_taken_apart() {
    let (requests, error) = parse_all(Limits::default(), &pipeline());
    let expected: &[&[&[u8]]] = &[
        &[b"GET", b"alice"],
        &[b"PING"],
        &[b"PING"],
        &[b"set", b"key", b"a \0\"b", b"it's"],
        &[b"SET", b"", b"with\r\nline\r\n"],
        &[b"$3", b"is", b"not", b"a", b"bulk", b"here"],
        &[b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h"],
        &[b"\xff\xfe", b"\0"],
        &[b"0123456789"],
    ];
    assert_eq!(requests, expected);
    assert_eq!(error, None);
}

#[test]
fn a_pipeline_is_the_same_split_at_any_byte_or_at_any_two() {
    let input = pipeline();
    check(Limits::default(), &input, || 1);
    for first in 1..input.len() {
        let mut pieces = [first, usize::MAX].into_iter();
        check(Limits::default(), &input, || pieces.next().unwrap());
        for second in (1..input.len() - first).step_by(7) {
            let mut pieces = [first, second, usize::MAX].into_iter();
            check(Limits::default(), &input, || pieces.next().unwrap());
        }
    }
}

#[test]
fn what_is_malformed_is_refused_as_redis_words_it() {
    let many_ones = "1".repeat(70_000);
    let cases: &[(&[u8], &str)] = &[
        (b"*\r\n", "invalid multibulk length"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*+1\r\n", "invalid multibulk length"),
        (b"*01\r\n", "invalid multibulk length"),
        (b"*-0\r\n", "invalid multibulk length"),
        (b"* 1\r\n", "invalid multibulk length"),
        (b"*1 \r\n", "invalid multibulk length"),
        (b"*1\n", "invalid multibulk length"),
        (b"*1\r\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$+4\r\n", "invalid bulk length"),
        (b"*1\r\n$04\r\n", "invalid bulk length"),
        (b"*1\r\n$4\n", "invalid bulk length"),
        (b"*1\r\n$9223372036854775807\r\n", "invalid bulk length"),
        (b"*1\r\nx", "expected '$', got 'x'"),
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n*1\r\n", "expected '$', got '*'"),
        (b"*2\r\n$1\r\na\r\n\r\n", "expected '$', got '\\x0d'"),
        (b"*1\r\n\xff", "expected '$', got '\\xff'"),
        (b"*1\r\n$1\r\nabc", "expected CRLF after bulk"),
        (b"*1\r\n$3\r\na\r\n$1\r\n", "expected CRLF after bulk"),
        (b"get \"alice\r\n", "unbalanced quotes in request"),
        (b"get 'alice'bob\r\n", "unbalanced quotes in request"),
        (&[b"*", many_ones.as_bytes()].concat(), "too big mbulk count string"),
        (&[b"*1\r\n$", many_ones.as_bytes()].concat(), "too big bulk count string"),
        (many_ones.as_bytes(), "too big inline request"),
    ];
    for (input, message) in cases {
        let shown = &input[..input.len().min(40)].escape_ascii();
        let error = error_of(Limits::default(), input).unwrap_or_else(|| panic!("{shown}"));
        assert_eq!(error.to_string(), format!("Protocol error: {message}"), "{shown}");
        check(Limits::default(), input, || 1000);
        check(Limits::default(), &[&pipeline(), *input].concat(), || 3);
    }
}

#[test]
fn requests_before_an_error_are_still_given() {
    let (requests, error) = parse_all(Limits::default(), b"PING\r\n*1\r\n$4\r\nQUIT\r\n*x\r\nPING\r\n");
    assert_eq!(requests, [[&b"PING"[..]], [b"QUIT"]]);
    assert_eq!(error, Some(ProtocolError::InvalidMultibulkLength));
}

#[test]
fn limits_hold_at_their_edges() {
    let limits = Limits { args_max: 3, arg_bytes_max: 10, request_bytes_max: 40, line_bytes_max: 20 };
    let fits = |input: &[u8]| {
        check(limits, input, || 1);
        let (requests, error) = parse_all(limits, input);
        assert_eq!((requests.len(), error), (1, None), "{}", input.escape_ascii());
    };
    let refused = |input: &[u8], expected| {
        check(limits, input, || 1);
        assert_eq!(error_of(limits, input), Some(expected), "{}", input.escape_ascii());
    };
    fits(&multibulk(&["a"; 3]));
    refused(b"*4\r\n", ProtocolError::InvalidMultibulkLength);
    fits(&multibulk(&["0123456789"]));
    refused(b"*1\r\n$11\r\n", ProtocolError::InvalidBulkLength);

    let (whole, beyond) = (multibulk(&["0123456789", "0123456", ""]), multibulk(&["0123456789", "01234567", ""]));
    assert_eq!((whole.len(), beyond.len()), (40, 41));
    fits(&whole);
    // Refused when the length is told, not when the bytes have come.
    refused(&beyond[..beyond.len() - 2], ProtocolError::RequestTooBig);

    fits(b"01234567890123456789\n");
    fits(b"0123456789012345678\r\n");
    refused(b"012345678901234567890", ProtocolError::InlineTooBig);
    refused(b"012345678901234567890\n", ProtocolError::InlineTooBig);
    assert_eq!(error_of(limits, b"01234567890123456789"), None);
    refused(b"*01234567890123456789", ProtocolError::MultibulkLengthTooBig);
    assert_eq!(error_of(limits, b"*0123456789012345678"), None);
    refused(b"*1\r\n$01234567890123456789", ProtocolError::BulkLengthTooBig);
    assert_eq!(error_of(limits, b"*1\r\n$0123456789012345678"), None);
}

#[test]
fn default_limits_are_those_of_records_and_of_redis() {
    let limits = Limits::default();
    let edge = crate::record::VALUE_BYTES_MAX;
    assert_eq!(parse_one(&multibulk(&[vec![7; edge]])).unwrap()[0].len(), edge);
    let refused = format!("*1\r\n${}\r\n", edge + 1);
    assert_eq!(error_of(limits, refused.as_bytes()), Some(ProtocolError::InvalidBulkLength));
    assert_eq!(error_of(limits, b"*1048576\r\n"), None);
    assert_eq!(error_of(limits, b"*1048577\r\n"), Some(ProtocolError::InvalidMultibulkLength));
    assert_eq!(parse_one(&multibulk(&vec![""; 1024 * 1024])).unwrap().len(), 1024 * 1024);
    let line = "x".repeat(64 * 1024);
    assert_eq!(parse_one(format!("{line}\n").as_bytes()).unwrap()[0].len(), line.len());
}

#[test]
fn limits_beyond_all_numbers_do_no_harm() {
    let max = usize::MAX;
    let limits = Limits { args_max: max, arg_bytes_max: max, request_bytes_max: max, line_bytes_max: max };
    check(limits, &pipeline(), || 5);
    assert_eq!(error_of(limits, b"*9223372036854775807\r\n$4\r\n"), None);
    for len in ["4294967295", "9223372036854775807"] {
        let input = format!("*1\r\n${len}\r\n");
        assert_eq!(error_of(limits, input.as_bytes()), Some(ProtocolError::RequestTooBig));
    }
}

#[test]
fn an_announced_giant_takes_no_memory_until_it_arrives() {
    let (mut parser, mut buffer) = (Parser::new(Limits::default()), BytesMut::with_capacity(64));
    let mut args = 0;
    let feed = |parser: &mut Parser, buffer: &mut BytesMut, bytes: &[u8]| {
        buffer.extend_from_slice(bytes);
        assert!(parser.next(buffer).unwrap().is_none());
    };
    feed(&mut parser, &mut buffer, b"*1000000\r\n");
    assert_eq!((parser.pending_bytes(), parser.wants()), (10, 0));
    feed(&mut parser, &mut buffer, b"$8388608\r\n");
    assert_eq!((parser.pending_bytes(), parser.wants()), (20, READ_BYTES_MAX));
    assert!(buffer.capacity() <= 64, "{}", buffer.capacity());

    // Nor do many that are there take much: 8 bytes each, twice that where the list has just grown.
    let (mut parser, mut buffer) = (Parser::new(Limits::default()), BytesMut::new());
    feed(&mut parser, &mut buffer, b"*1000000\r\n");
    while args < 100_000 {
        feed(&mut parser, &mut buffer, b"$1\r\nx\r\n");
        args += 1;
        let expected_max = buffer.len() + 16 * args + 64;
        assert!(parser.pending_bytes() <= expected_max, "{} bytes for {args} arguments", parser.pending_bytes());
    }
}

#[test]
fn the_rest_of_a_bulk_is_wanted() {
    let (mut parser, mut buffer) = (Parser::new(Limits::default()), BytesMut::new());
    let mut wants_after = |bytes: &[u8]| {
        buffer.extend_from_slice(bytes);
        let _ = parser.next(&mut buffer).unwrap();
        (parser.wants(), parser.pending_bytes())
    };
    assert_eq!(wants_after(b""), (0, 0));
    assert_eq!(wants_after(b"*1\r\n$10"), (0, 7));
    assert_eq!(wants_after(b"0\r\n"), (102, 10));
    assert_eq!(wants_after(&[b'x'; 99]), (3, 109));
    assert_eq!(wants_after(b"x\r"), (1, 111));
    assert_eq!(wants_after(b"\n"), (0, 0));
    assert_eq!(wants_after(b"*1\r\n$100000\r\n"), (READ_BYTES_MAX, 13));
    assert_eq!(wants_after(&[b'x'; 99_000]), (1002, 99_013));
}

#[test]
fn long_arguments_are_slices_of_what_was_read_and_short_ones_are_copied() {
    for (len, is_slice) in [(5, false), (999, false), (4095, false), (4096, true), (100_000, true)] {
        let value = "v".repeat(len);
        let mut buffer = BytesMut::from(&multibulk(&["SET", "key", &value])[..]);
        let place = buffer.as_ptr() as usize;
        let request = Parser::new(Limits::default()).next(&mut buffer).unwrap().unwrap();
        let read = request.args.bytes(2).unwrap();
        let before = format!("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n${len}\r\n").len();
        assert_eq!(read.as_ptr() as usize == place + before, is_slice, "{len} bytes");
        assert_eq!(request.args.bytes(3), None);
        assert_eq!(format!("{:?}", request.args), format!("Args(3 in {} bytes)", before + len + 2));
    }
}

#[test]
fn a_short_request_goes_with_the_next_call() {
    let (mut parser, mut buffer) = (Parser::new(Limits::default()), BytesMut::from(&multibulk(&["PING"])[..]));
    assert!(parser.next(&mut buffer).unwrap().is_some());
    assert!(!buffer.is_empty());
    assert!(parser.next(&mut buffer).unwrap().is_none());
    assert_eq!((buffer.len(), parser.pending_bytes()), (0, 0));
}

#[test]
fn long_requests_in_single_bytes_take_linear_time() {
    let line = format!("{}\n", "z".repeat(64 * 1024));
    let input = [multibulk(&vec!["x"; 50_000]), multibulk(&["y".repeat(100_000)]), line.into_bytes()].concat();
    let (mut parser, mut buffer) = (Parser::new(Limits::default()), BytesMut::new());
    let (mut requests, started) = (0, std::time::Instant::now());
    for byte in &input {
        buffer.extend_from_slice(&[*byte]);
        requests += usize::from(parser.next(&mut buffer).unwrap().is_some());
    }
    assert_eq!(requests, 3);
    // A second at most. Looking at the line alone again whenever a byte comes is 2 × 10^9 steps.
    assert!(started.elapsed() < std::time::Duration::from_secs(8), "{:?}", started.elapsed());
}

proptest! {
    #[test]
    fn any_pipeline_is_the_same_however_it_is_split(
        requests in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..12), 1..8),
        pieces in prop::collection::vec(1usize..60, 1..20),
    ) {
        let input: Vec<u8> = requests.iter().flat_map(|args| multibulk(args)).collect();
        let mut pieces = pieces.into_iter().cycle();
        check(Limits::default(), &input, || pieces.next().unwrap());
        let (parsed, error) = parse_all(Limits::default(), &input);
        prop_assert_eq!(parsed, requests);
        prop_assert_eq!(error, None);
    }

    #[test]
    fn any_words_can_be_typed(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..8)) {
        let quote = |word: &Vec<u8>| word.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
        let line: Vec<String> = words.iter().map(|word| format!("\"{}\"", quote(word))).collect();
        prop_assert_eq!(parse_one(format!("{}\r\n", line.join(" ")).as_bytes()), Ok(words.into_iter().map(Bytes::from).collect()));
    }
}
