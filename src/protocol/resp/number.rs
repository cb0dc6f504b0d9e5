//! Numbers as Redis reads and writes them.

use std::fmt::Write;

use bytes::BytesMut;

/// Doubles below this are written as integers if they are some, as in Redis: `LLONG_MAX / 2`.
const INTEGRAL_DOUBLE_MAX: f64 = (i64::MAX / 2) as f64;

/// Appends `prefix`, the number and a line end. Most are lengths of one to three digits.
pub(super) fn put_number_line(buffer: &mut BytesMut, prefix: u8, negative: bool, magnitude: u64) {
    let digit = |power: u64| b'0' + (magnitude / power % 10) as u8;
    match magnitude {
        0..10 if !negative => buffer.extend_from_slice(&[prefix, digit(1), b'\r', b'\n']),
        10..100 if !negative => buffer.extend_from_slice(&[prefix, digit(10), digit(1), b'\r', b'\n']),
        100..1000 if !negative => {
            buffer.extend_from_slice(&[prefix, digit(100), digit(10), digit(1), b'\r', b'\n']);
        }
        _ => {
            let sign = if negative { "-" } else { "" };
            let _ = write!(buffer, "{}{sign}{magnitude}\r\n", char::from(prefix)); // memory takes it
        }
    }
}

/// A double as Redis writes it since 7.2 (`d2string`): the shortest text that reads back as the same double.
pub(super) fn format_double(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value < 0.0 { "-inf" } else { "inf" }.to_owned();
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    if value.fract() == 0.0 && value.abs() <= INTEGRAL_DOUBLE_MAX {
        return (value as i64).to_string();
    }
    let sign = if value < 0.0 { "-" } else { "" };
    let scientific = format!("{:e}", value.abs());
    match scientific.split_once('e').and_then(|(digits, exponent)| Some((digits, exponent.parse::<i32>().ok()?))) {
        Some((digits, exponent)) => format!("{sign}{}", lay_out(digits, exponent)),
        None => format!("{sign}{scientific}"),
    }
}

/// `mantissa` × 10^`exponent`, in plain or in scientific notation by the rules of Redis's `fpconv`. `mantissa` has one
/// digit before its point.
fn lay_out(mantissa: &str, exponent: i32) -> String {
    let digits = mantissa.replace('.', "");
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    // The value is `digits` × 10^`scale`.
    let scale = exponent - (count - 1);
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    if scale >= 0 && exponent < count + 7 {
        return format!("{digits}{}", zeros(scale));
    }
    if scale < 0 && (scale > -7 || exponent.abs() < 4) {
        let whole = usize::try_from(count + scale).unwrap_or(0);
        return match digits.split_at_checked(whole) {
            Some((whole, fraction)) if !whole.is_empty() => format!("{whole}.{fraction}"),
            _ => format!("0.{}{digits}", zeros(-(count + scale))),
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::number::parse_integer;

    /// The expected texts are those of Redis 7.2 and later.
    #[test]
    fn doubles_look_as_in_redis() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
            (-f64::NAN, "nan"),
            (3.0, "3"),
            (-3.5, "-3.5"),
            (0.1, "0.1"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1234.5678, "1234.5678"),
            (0.000123, "0.000123"),
            (0.000001, "0.000001"),
            (0.0000001, "1e-7"),
            (0.00000012, "1.2e-7"),
            (4611686018427387904.0, "4611686018427387904"),
            (-4611686018427387904.0, "-4611686018427387904"),
            (5e18, "5e+18"),
            (1.2345678901234567e19, "12345678901234567000"),
            (1e20, "1e+20"),
            (1234.567890123, "1234.567890123"),
            (12345.678901234567, "1.2345678901234567e+4"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (-1.5e-300, "-1.5e-300"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
        ];
        for (value, text) in cases {
            assert_eq!(format_double(value), text, "{value:e}");
        }
    }

    proptest! {
        #[test]
        fn any_integer_is_written_and_read_back(n in any::<i64>(), shift in 0u32..64) {
            let n = n >> shift;
            let mut buffer = BytesMut::new();
            put_number_line(&mut buffer, b':', n < 0, n.unsigned_abs());
            prop_assert_eq!(buffer.to_vec(), format!(":{n}\r\n").into_bytes());
            prop_assert_eq!(parse_integer(&buffer[1..buffer.len() - 2]), Some(n));
        }

        #[test]
        fn any_double_is_read_back_the_same(bits in any::<u64>(), near in -1e25f64..1e25, small in -1e-3f64..1e-3) {
            for value in [f64::from_bits(bits), near, small, near.trunc()] {
                let read: f64 = format_double(value).parse().unwrap();
                prop_assert!(read == value || value.is_nan() && read.is_nan(), "{value:e} as {}", format_double(value));
            }
        }
    }

    #[test]
    fn the_largest_count_fits_its_line() {
        let mut buffer = BytesMut::new();
        put_number_line(&mut buffer, b':', true, u64::MAX);
        assert_eq!(&buffer[..], b":-18446744073709551615\r\n");
    }
}
