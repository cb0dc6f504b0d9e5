//! Numbers as text: the integers and decimals that a value may hold.

/// Decimal places that a [`Decimal`] has.
const PLACES: usize = 17;
const ONE: i128 = 100_000_000_000_000_000;
/// Longest text that can be a number; Redis' bound.
const TEXT_BYTES_MAX: usize = 5 * 1024;
/// Longest text of a [`Decimal`]: a double may have 309 digits, and what is less than 10²¹ is exact.
pub const DECIMAL_BYTES_MAX: usize = 320;

/// An integer in the one spelling that Redis takes (`string2ll`): no `+`, no `-0`, no leading zeros, no spaces.
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'0'] => return Some(0),
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if !matches!(digits, [b'1'..=b'9', ..]) {
        return None;
    }
    digits.iter().try_fold(0i64, |n, &byte| {
        let digit = i64::from(byte.is_ascii_digit().then(|| byte - b'0')?);
        let tens = n.checked_mul(10)?;
        if negative { tens.checked_sub(digit) } else { tens.checked_add(digit) }
    })
}

/// A number to add and to write: exact with 17 decimal places as long as it fits, a double beyond.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decimal {
    /// In units of 10⁻¹⁷.
    Exact(i128),
    Double(f64),
}

impl Decimal {
    /// Of digits with an optional sign, point and exponent, or `inf`. `None` for all else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > TEXT_BYTES_MAX || text.first().is_none_or(u8::is_ascii_whitespace) {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        let double: f64 = text.parse().ok().filter(|double: &f64| !double.is_nan())?;
        Some(Self::exact(text).map_or(Self::Double(double), Self::Exact))
    }

    /// `text` is known to be a number.
    fn exact(text: &str) -> Option<i128> {
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (text.get(..at)?, text.get(at + 1..)?.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (is_negative, mantissa) = match mantissa.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let (mut units, mut dropped): (i128, i32) = (0, 0);
        for digit in whole.bytes().chain(fraction.bytes()) {
            let digit = digit.is_ascii_digit().then(|| i128::from(digit - b'0'))?;
            match units.checked_mul(10).and_then(|units| units.checked_add(digit)).filter(|_| dropped == 0) {
                Some(more) => units = more,
                // More digits than a double has, or than there are places for.
                None => dropped += 1,
            }
        }
        let places = exponent.checked_add(PLACES as i32)?.checked_sub(fraction.len() as i32)?;
        let mut places = places.checked_add(dropped)?;
        while places > 0 {
            units = units.checked_mul(10)?;
            places -= if units == 0 { places } else { 1 };
        }
        while places < 0 {
            let is_up = places == -1 && units % 10 >= 5;
            units = units / 10 + i128::from(is_up);
            places += if units == 0 && places < -1 { -places } else { 1 };
        }
        Some(if is_negative { -units } else { units })
    }

    /// `None` if the sum is not a finite number.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        if let (Self::Exact(a), Self::Exact(b)) = (self, other)
            && let Some(sum) = a.checked_add(b)
        {
            return Some(Self::Exact(sum));
        }
        let sum = self.as_double() + other.as_double() + 0.0; // there is no negative zero
        sum.is_finite().then_some(Self::Double(sum))
    }

    fn as_double(self) -> f64 {
        match self {
            Self::Exact(units) => units as f64 / ONE as f64,
            Self::Double(double) => double,
        }
    }
}

/// Without an exponent and without zeros at the end.
impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(units) => {
                let sign = if *units < 0 { "-" } else { "" };
                let (whole, fraction) = (units.unsigned_abs() / ONE as u128, units.unsigned_abs() % ONE as u128);
                let fraction = format!("{fraction:017}");
                match fraction.trim_end_matches('0') {
                    "" => write!(f, "{sign}{whole}"),
                    fraction => write!(f, "{sign}{whole}.{fraction}"),
                }
            }
            Self::Double(double) => write!(f, "{double}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_one_spelling() {
        let valid = ["0", "1", "-1", "10", "9223372036854775807", "-9223372036854775808"];
        for text in valid {
            assert_eq!(parse_integer(text.as_bytes()), text.parse().ok(), "{text}");
        }
        let invalid = ["", "-", "+1", "-0", "00", "01", "-01", " 1", "1 ", "1.0", "1e3", "0x1", "--1", "1-", "\u{661}"];
        let overflowing =
            ["9223372036854775808", "-9223372036854775809", "99999999999999999999", "18446744073709551617"];
        for text in invalid.into_iter().chain(overflowing) {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text}");
        }
    }

    fn sum(a: &str, b: &str) -> Option<String> {
        let (a, b) = (Decimal::parse(a.as_bytes())?, Decimal::parse(b.as_bytes())?);
        a.checked_add(b).map(|sum| sum.to_string())
    }

    #[test]
    fn decimals_add_exactly_and_print_shortly() {
        for (a, b, expected) in [
            ("0.1", "0.2", "0.3"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3", "-5", "-2"),
            ("0", "-0.5", "-0.5"),
            ("1e-17", "0", "0.00000000000000001"),
            ("1e-40", "0", "0"),
            ("1e300", "1e300", "2"),
        ] {
            let shown = sum(a, b).unwrap();
            assert!(shown.starts_with(expected), "{a} + {b} = {shown}");
        }
        for (a, b, expected) in [
            ("0.024390243902439025", "-0.024390243902439025", "0"),
            ("-0", "-0", "0"),
            ("5.", ".5", "5.5"),
            ("3.14159265358979323846264338327950288419716939937510", "0", "3.14159265358979324"),
        ] {
            assert_eq!(sum(a, b).unwrap(), expected, "{a} + {b}");
        }
        assert_eq!(sum("1e308", "1e308"), None);
        assert_eq!(sum("inf", "-inf"), None);
    }

    /// What is stored is the text: it must be a number again, and fit where it is put.
    #[test]
    fn every_sum_is_a_number_again_and_has_a_longest_text() {
        let many = format!("0.{}{}", "0".repeat(290), "123456789".repeat(5));
        let negative = format!("-0.{}1", "0".repeat(400));
        for a in
            ["1e300", "1.7976931348623157e308", "-1e308", "1e-320", "1e21", "-1e22", "0.1", "inf", &many, &negative]
        {
            for b in ["0", "1", "-1", "1e-17", "2.5e40", &many, &negative] {
                let Some(text) = sum(a, b) else {
                    assert_eq!(a, "inf");
                    continue;
                };
                assert!(text.len() <= DECIMAL_BYTES_MAX, "{a} + {b} = {text}");
                assert_ne!(text, "-0");
                assert_eq!(sum(&text, "0").as_ref(), Some(&text), "{a} + {b}");
            }
        }
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        for text in ["", " 1", "1 ", "abc", "nan", "1e", "--1", "0x10"] {
            assert_eq!(Decimal::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Decimal::parse(&[b'1'; TEXT_BYTES_MAX + 1]), None);
    }
}
