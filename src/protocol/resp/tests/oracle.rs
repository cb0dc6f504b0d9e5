//! Against the crate `redis-protocol`, which clients use: it reads what we write, and we read what it writes.
//!
//! Where requests differ, we are stricter, as Redis is for lengths: the crate takes `+3` and `03` for a length, and any
//! two bytes for the end of a bulk. So every request that it accepts is either in its one proper spelling, and then we
//! read the same arguments, or refused here. The crate knows no inline requests and no limits.

use bytes::Buf;
use proptest::prelude::*;
use redis_protocol::resp2::types::BytesFrame as Frame2;
use redis_protocol::resp3::types::{BytesFrame as Frame3, VerbatimStringFormat};
use redis_protocol::{resp2, resp3};

use super::fuzz::mutate;
use super::*;

#[derive(Debug, Clone)]
enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Null,
    NullArray,
    Double(f64),
    Boolean(bool),
    Verbatim(String),
    Array(Vec<Reply>),
    Push(Vec<Reply>),
    /// Of integers, which that crate can hash.
    Set(Vec<i64>),
    Map(Vec<(i64, Reply)>),
}

fn replies() -> impl Strategy<Value = Reply> {
    let double = prop_oneof![any::<f64>(), -1e9f64..1e9, Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(0.0)]
        .prop_filter("is equal to itself", |value| !value.is_nan());
    let leaf = prop_oneof![
        "[ -~]{0,20}".prop_map(Reply::Simple),
        "[A-Z]{1,8} [ -~é]{0,20}".prop_map(Reply::Error),
        any::<i64>().prop_map(Reply::Integer),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Reply::Bulk),
        (0usize..3).prop_map(|over| Reply::Bulk(vec![over as u8; CHUNK_BYTES_MIN - 1 + over])),
        Just(Reply::Null),
        Just(Reply::NullArray),
        double.prop_map(Reply::Double),
        any::<bool>().prop_map(Reply::Boolean),
        "[ -~é\r\n]{0,30}".prop_map(Reply::Verbatim),
        prop::collection::vec(any::<i64>(), 0..5).prop_map(|mut members| {
            members.sort_unstable();
            members.dedup();
            Reply::Set(members)
        }),
    ];
    leaf.prop_recursive(3, 30, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Reply::Array),
            prop::collection::btree_map(any::<i64>(), inner, 0..5)
                .prop_map(|map| Reply::Map(map.into_iter().collect())),
        ]
    })
}

fn encode(encoder: &mut Encoder, reply: &Reply) {
    match reply {
        Reply::Simple(text) => encoder.simple(text),
        Reply::Error(text) => encoder.error(text),
        Reply::Integer(value) => encoder.integer(*value),
        Reply::Bulk(bytes) if bytes.len() % 2 == 0 => encoder.bulk(bytes),
        Reply::Bulk(bytes) => encoder.bulk_value(&Bytes::copy_from_slice(bytes)),
        Reply::Null => encoder.null(),
        Reply::NullArray => encoder.null_array(),
        Reply::Double(value) => encoder.double(*value),
        Reply::Boolean(value) => encoder.boolean(*value),
        Reply::Verbatim(text) => encoder.verbatim(text),
        Reply::Array(elements) => {
            encoder.array(elements.len());
            elements.iter().for_each(|element| encode(encoder, element));
        }
        Reply::Push(elements) => {
            encoder.push(elements.len());
            elements.iter().for_each(|element| encode(encoder, element));
        }
        Reply::Set(members) => {
            encoder.set(members.len());
            members.iter().for_each(|member| encoder.integer(*member));
        }
        Reply::Map(pairs) => {
            encoder.map(pairs.len());
            for (key, value) in pairs {
                encoder.integer(*key);
                encode(encoder, value);
            }
        }
    }
}

fn encoded(reply: &Reply, proto: Proto) -> Bytes {
    let mut output = Output::new();
    encode(&mut Encoder::new(&mut output, proto), reply);
    output.copy_to_bytes(output.len())
}

fn frame2(reply: &Reply) -> Frame2 {
    let array = |elements: &[Reply]| Frame2::Array(elements.iter().map(frame2).collect());
    match reply {
        Reply::Simple(text) => Frame2::SimpleString(text.clone().into()),
        Reply::Error(text) => Frame2::Error(text.into()),
        Reply::Integer(value) => Frame2::Integer(*value),
        Reply::Bulk(bytes) => Frame2::BulkString(bytes.clone().into()),
        Reply::Null | Reply::NullArray => Frame2::Null,
        Reply::Double(value) => Frame2::BulkString(number::format_double(*value).into()),
        Reply::Boolean(value) => Frame2::Integer((*value).into()),
        Reply::Verbatim(text) => Frame2::BulkString(text.clone().into()),
        Reply::Array(elements) | Reply::Push(elements) => array(elements),
        Reply::Set(members) => Frame2::Array(members.iter().map(|member| Frame2::Integer(*member)).collect()),
        Reply::Map(pairs) => {
            Frame2::Array(pairs.iter().flat_map(|(key, value)| [Frame2::Integer(*key), frame2(value)]).collect())
        }
    }
}

fn frame3(reply: &Reply) -> Frame3 {
    let attributes = None;
    let integer = |data: &i64| Frame3::Number { data: *data, attributes: None };
    let all = |elements: &[Reply]| elements.iter().map(frame3).collect();
    match reply {
        Reply::Simple(text) => Frame3::SimpleString { data: text.clone().into(), attributes },
        Reply::Error(text) => Frame3::SimpleError { data: text.into(), attributes },
        Reply::Integer(value) => integer(value),
        Reply::Bulk(bytes) => Frame3::BlobString { data: bytes.clone().into(), attributes },
        Reply::Null | Reply::NullArray => Frame3::Null,
        Reply::Double(data) => Frame3::Double { data: *data, attributes },
        Reply::Boolean(data) => Frame3::Boolean { data: *data, attributes },
        Reply::Verbatim(text) => {
            Frame3::VerbatimString { data: text.clone().into(), format: VerbatimStringFormat::Text, attributes }
        }
        Reply::Array(elements) => Frame3::Array { data: all(elements), attributes },
        Reply::Push(elements) => Frame3::Push { data: all(elements), attributes },
        Reply::Set(members) => Frame3::Set { data: members.iter().map(integer).collect(), attributes },
        Reply::Map(pairs) => {
            let data = pairs.iter().map(|(key, value)| (integer(key), frame3(value))).collect();
            Frame3::Map { data, attributes }
        }
    }
}

fn check_reply(reply: &Reply) {
    let bytes = encoded(reply, Proto::Resp2);
    let (frame, used) = resp2::decode::decode_bytes(&bytes).unwrap().unwrap();
    assert_eq!((frame, used), (frame2(reply), bytes.len()), "RESP2: {}", bytes.escape_ascii());
    let bytes = encoded(reply, Proto::Resp3);
    let (frame, used) = resp3::decode::complete::decode_bytes(&bytes).unwrap().unwrap();
    assert_eq!((frame, used), (frame3(reply), bytes.len()), "RESP3: {}", bytes.escape_ascii());
}

/// A request as that crate writes it.
fn encoded_by_oracle(args: &[Vec<u8>]) -> Vec<u8> {
    let frame = Frame2::Array(args.iter().map(|arg| Frame2::BulkString(arg.clone().into())).collect());
    let mut buffer = BytesMut::new();
    resp2::encode::extend_encode(&mut buffer, &frame, false).unwrap();
    buffer.to_vec()
}

/// The arguments of the request that `input` begins with, and its length, if that crate sees one.
fn decoded_by_oracle(input: &[u8]) -> Option<(Vec<Bytes>, usize)> {
    let (Frame2::Array(elements), used) = resp2::decode::decode_bytes(&Bytes::copy_from_slice(input)).ok()?? else {
        return None;
    };
    let arg = |element| match element {
        Frame2::BulkString(bytes) => Some(bytes),
        Frame2::SimpleString(_) | Frame2::Error(_) | Frame2::Integer(_) | Frame2::Array(_) | Frame2::Null => None,
    };
    let args: Vec<Bytes> = elements.into_iter().map(arg).collect::<Option<_>>()?;
    (!args.is_empty()).then_some((args, used))
}

#[test]
fn mutated_requests_are_read_as_the_oracle_reads_them_or_refused() {
    let (mut same, mut refused) = (0, 0);
    for seed in 0..30_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let args: Vec<Vec<u8>> =
            (0..rng.usize(1..5)).map(|_| (0..rng.usize(0..12)).map(|_| rng.u8(..)).collect()).collect();
        let mut input = multibulk(&args);
        mutate(&mut rng, &mut input);
        let Some((args, used)) = decoded_by_oracle(&input) else { continue };
        let proper = multibulk(&args) == input[..used];
        let context = || format!("seed {seed}: {}", input.escape_ascii());
        match (proper, parse_one(&input[..used])) {
            (true, ours) => {
                assert_eq!(ours, Ok(args), "{}", context());
                same += 1;
            }
            (
                false,
                Err(
                    ProtocolError::InvalidMultibulkLength
                    | ProtocolError::InvalidBulkLength
                    | ProtocolError::ExpectedBulkEnd,
                ),
            ) => refused += 1,
            (false, ours) => panic!("{}: read as {ours:?}", context()),
        }
    }
    assert!(same > 1000 && refused > 100, "{same} the same, {refused} refused: the mutations have lost their point");
}

#[test]
fn pushes_are_read_by_the_oracle() {
    check_reply(&Reply::Push(vec![
        Reply::Simple("invalidate".into()),
        Reply::Array(vec![Reply::Bulk(b"key".to_vec())]),
    ]));
}

proptest! {
    #[test]
    fn any_reply_is_read_by_the_oracle(reply in replies()) {
        check_reply(&reply);
    }

    #[test]
    fn requests_written_by_the_oracle_are_read(
        args in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..20),
    ) {
        let input = encoded_by_oracle(&args);
        prop_assert_eq!(parse_one(&input), Ok(args.into_iter().map(Bytes::from).collect()));
    }
}
