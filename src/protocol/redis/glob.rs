//! Patterns over keys: `*`, `?`, `[a-z]`, `[^a]`, and `\` before a character that is meant as such.

/// Whether all of `text` matches. Takes no more than `pattern.len() × text.len()` steps.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // Where to go on if what follows the last star does not match: a star never needs to be tried again once a later one was
    // reached.
    let mut last_star: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some(rest) = pattern.strip_prefix(b"*") {
            last_star = Some((rest, text));
            pattern = rest;
            continue;
        }
        let step = match text.split_first() {
            None if pattern.is_empty() => return true,
            None => return false, // a star that takes less leaves more to match, not less
            Some((byte, rest)) => one(pattern, *byte).map(|pattern| (pattern, rest)),
        };
        match (step, last_star) {
            (Some(next), _) => (pattern, text) = next,
            (None, Some((after_star, [_, rest @ ..]))) => {
                last_star = Some((after_star, rest));
                (pattern, text) = (after_star, rest);
            }
            (None, _) => return false,
        }
    }
}

/// What is left of the pattern if its first element, which is not a star, matches a byte.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (first, rest) = pattern.split_first()?;
    match (first, rest) {
        (b'?', rest) => Some(rest),
        (b'[', rest) => class(rest, byte),
        (b'\\', [literal, rest @ ..]) => (*literal == byte).then_some(rest),
        (literal, rest) => (*literal == byte).then_some(rest),
    }
}

/// As [`one`], after a `[`. A class that is not closed ends with the pattern.
fn class(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (is_negated, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    };
    let mut is_in = false;
    loop {
        rest = match rest {
            [] => break,
            [b']', after @ ..] => {
                rest = after;
                break;
            }
            [b'\\', literal, after @ ..] => {
                is_in |= *literal == byte;
                after
            }
            [from, b'-', to, after @ ..] => {
                is_in |= (*from.min(to)..=*from.max(to)).contains(&byte);
                after
            }
            [literal, after @ ..] => {
                is_in |= *literal == byte;
                after
            }
        };
    }
    (is_in != is_negated).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_what_they_say() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("user:*", "user:1", true),
            ("user:*", "users", false),
            ("*:*:c", "a:b:c:c", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hello", false),
            ("h[b-a]llo", "hallo", true),
            (r"\*", "*", true),
            (r"\*", "a", false),
            (r"[\]]", "]", true),
            ("[abc", "c", true),
            ("a\\", "a\\", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxbxx", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn many_stars_take_little_time() {
        let pattern = b"a*".repeat(500);
        let text = vec![b'a'; 1000];
        assert!(matches(&pattern, &text));
        assert!(!matches(&[pattern.as_slice(), b"b"].concat(), &text));
    }
}
