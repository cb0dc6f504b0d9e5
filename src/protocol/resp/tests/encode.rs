//! What the encoder writes, byte by byte. That others read it is in `oracle`.

use bytes::Buf;

use super::*;

/// What `write` writes in version 2 and in version 3.
fn written(write: impl Fn(&mut Encoder)) -> [String; 2] {
    [Proto::Resp2, Proto::Resp3].map(|proto| {
        let mut output = Output::new();
        write(&mut Encoder::new(&mut output, proto));
        String::from_utf8(output.copy_to_bytes(output.len()).to_vec()).unwrap()
    })
}

#[test]
fn every_reply_has_its_bytes_in_both_versions() {
    assert_eq!(written(|e| e.simple("OK")), ["+OK\r\n"; 2]);
    assert_eq!(written(|e| e.error("ERR no")), ["-ERR no\r\n"; 2]);
    assert_eq!(written(|e| e.integer(0)), [":0\r\n"; 2]);
    assert_eq!(written(|e| e.integer(i64::MAX)), [":9223372036854775807\r\n"; 2]);
    assert_eq!(written(|e| e.integer(i64::MIN)), [":-9223372036854775808\r\n"; 2]);
    assert_eq!(written(|e| e.bulk(b"a\r\nb")), ["$4\r\na\r\nb\r\n"; 2]);
    assert_eq!(written(|e| e.bulk_value(&Bytes::new())), ["$0\r\n\r\n"; 2]);
    assert_eq!(written(|e| e.null()), ["$-1\r\n", "_\r\n"]);
    assert_eq!(written(|e| e.null_array()), ["*-1\r\n", "_\r\n"]);
    assert_eq!(written(|e| e.array(1234567890)), ["*1234567890\r\n"; 2]);
    assert_eq!(written(|e| e.map(3)), ["*6\r\n", "%3\r\n"]);
    assert_eq!(written(|e| e.set(3)), ["*3\r\n", "~3\r\n"]);
    assert_eq!(written(|e| e.push(3)), ["*3\r\n", ">3\r\n"]);
    assert_eq!(written(|e| e.double(0.5)), ["$3\r\n0.5\r\n", ",0.5\r\n"]);
    assert_eq!(written(|e| e.double(f64::INFINITY)), ["$3\r\ninf\r\n", ",inf\r\n"]);
    assert_eq!(written(|e| e.boolean(true)), [":1\r\n", "#t\r\n"]);
    assert_eq!(written(|e| e.boolean(false)), [":0\r\n", "#f\r\n"]);
    assert_eq!(written(|e| e.verbatim("é\r\n")), ["$4\r\né\r\n\r\n", "=8\r\ntxt:é\r\n\r\n"]);
}

#[test]
fn line_ends_can_not_end_a_line_early() {
    assert_eq!(written(|e| e.error("ERR a\r\nb\nc\r\n\n")), ["-ERR a  b c\r\n"; 2]);
    assert_eq!(written(|e| e.simple("a\r\n+b")), ["+a  +b\r\n"; 2]);
    assert_eq!(written(|e| e.error("")), ["-\r\n"; 2]);
}

#[test]
fn large_values_stand_in_the_output_uncopied_and_in_order() {
    let value = Bytes::from(vec![b'v'; CHUNK_BYTES_MIN]);
    let mut output = Output::new();
    let mut encoder = Encoder::new(&mut output, Proto::Resp3);
    encoder.array(3);
    encoder.bulk_value(&value);
    encoder.bulk_value(&value.slice(1..));
    encoder.integer(1);
    assert!(!value.is_unique());
    let (head, large) = (b"*3\r\n$16384\r\n", &value[..]);
    let expected = [head, large, b"\r\n$16383\r\n", &large[1..], b"\r\n:1\r\n"].concat();
    assert_eq!(output.len(), expected.len());
    let mut slices = [std::io::IoSlice::new(&[]); 8];
    assert_eq!(output.chunks_vectored(&mut slices), 3);
    assert_eq!((&*slices[0], slices[1].as_ptr()), (&head[..], value.as_ptr()));
    assert_eq!(output.copy_to_bytes(output.len()), expected);
    drop(output);
    assert!(value.is_unique());
}
