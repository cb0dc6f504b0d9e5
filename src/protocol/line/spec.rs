//! The table of the shell's commands: the one place where a command is named, explained and bound to its parser.

use bytes::Bytes;

use super::request::{self, Problem, Request};

/// A command of the shell.
pub struct Spec {
    pub name: &'static str,
    /// Other names that mean the same.
    pub aliases: &'static [&'static str],
    /// In order; `[…]` may be left out, and `…...` may come again.
    pub arguments: &'static [&'static str],
    /// One line.
    pub summary: &'static str,
    /// What else there is to know; may be empty.
    pub details: &'static str,
    pub example: &'static str,
    /// Fewest and most words after the name.
    pub(super) arity: (usize, usize),
    /// Called with at least as many words as `arity` asks for; where there are too many, only its error counts.
    pub(super) build: fn(&[Bytes]) -> Result<Request, Problem>,
}

const MANY: usize = usize::MAX;

impl Spec {
    /// Every command, in the order in which help lists them.
    pub fn all() -> &'static [Self] {
        SPECS
    }

    /// The command of this name or alias, whatever its case.
    pub fn find(name: &[u8]) -> Option<&'static Self> {
        SPECS.iter().find(|spec| spec.names().any(|known| known.as_bytes().eq_ignore_ascii_case(name)))
    }

    /// The name that a mistyped one is most likely meant to be, if any is near.
    pub fn nearest(name: &[u8]) -> Option<&'static str> {
        let name = name.get(..TYPED_BYTES_MAX.min(name.len()))?.to_ascii_uppercase();
        let names = || SPECS.iter().flat_map(Self::names);
        let longer = || names().find(|known| name.len() >= 2 && known.as_bytes().starts_with(&name));
        let near = || {
            let (edits, known) =
                names().map(|known| (edits(known.as_bytes(), &name), known)).min_by_key(|near| near.0)?;
            (edits <= 2 && edits < known.len().min(name.len())).then_some(known)
        };
        longer().or_else(near)
    }

    /// The name, and then the aliases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// `PUT key value [EX seconds | PX millis] [NX]`.
    pub fn usage(&self) -> String {
        std::iter::once(self.name).chain(self.arguments.iter().copied()).collect::<Vec<_>>().join(" ")
    }

    /// The arguments that may still come after `words` of them.
    pub fn arguments_after(&self, words: usize) -> &'static [&'static str] {
        let last = self.arguments.len().saturating_sub(1);
        let repeats = self.arguments.last().is_some_and(|argument| argument.ends_with("..."));
        self.arguments.get(if repeats { words.min(last) } else { words }..).unwrap_or_default()
    }
}

impl PartialEq for Spec {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Spec {}

impl std::fmt::Debug for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Spec({})", self.name)
    }
}

/// Names that are longer are like nothing we know.
const TYPED_BYTES_MAX: usize = 16;

/// How many bytes must be put in, left out or replaced to make one of the other (Levenshtein); two neighbours that
/// changed places count once if nothing else is wrong.
fn edits(known: &[u8], typed: &[u8]) -> usize {
    if is_swap(known, typed) {
        return 1;
    }
    let mut row: Vec<usize> = (0..=typed.len()).collect();
    for (i, k) in known.iter().enumerate() {
        let mut cells = row.iter_mut();
        let Some(first) = cells.next() else { break };
        let (mut diagonal, mut left) = (i, i + 1);
        *first = left;
        for (cell, t) in cells.zip(typed) {
            let here = (diagonal + usize::from(k != t)).min(left + 1).min(*cell + 1);
            (diagonal, left) = (*cell, here);
            *cell = here;
        }
    }
    row.last().copied().unwrap_or(known.len())
}

fn is_swap(a: &[u8], b: &[u8]) -> bool {
    let mut differ = a.iter().zip(b).enumerate().filter(|(_, (x, y))| x != y);
    let (Some((i, (a1, b1))), Some((j, (a2, b2))), None) = (differ.next(), differ.next(), differ.next()) else {
        return false;
    };
    a.len() == b.len() && j == i + 1 && a1 == b2 && a2 == b1
}

static SPECS: &[Spec] = &[
    Spec {
        name: "GET",
        aliases: &[],
        arguments: &["key", "[default]"],
        summary: "Print the value of a key.",
        details: "If the key does not exist, prints the default, or nothing if there is none.",
        example: "GET bob \"\"",
        arity: (1, 2),
        build: request::get,
    },
    Spec {
        name: "PUT",
        aliases: &["SET"],
        arguments: &["key", "value", "[EX seconds | PX millis]", "[NX]"],
        summary: "Store a value.",
        details: "EX and PX give it a time to live, in seconds or milliseconds; without them it lives for ever, whatever \
                  expiry the key had before. NX stores only if the key does not exist. A value with spaces needs \
                  quotes; inside double quotes, \\n, \\r, \\t, \\\\, \\\" and \\xNN stand for single bytes.",
        example: "PUT alice \"two words\" EX 60",
        arity: (2, 5),
        build: request::put,
    },
    Spec {
        name: "DEL",
        aliases: &["MDEL"],
        arguments: &["key..."],
        summary: "Delete keys, and print how many there were.",
        details: "",
        example: "DEL alice bob",
        arity: (1, MANY),
        build: request::del,
    },
    Spec {
        name: "EXISTS",
        aliases: &[],
        arguments: &["key..."],
        summary: "Print how many of the keys exist.",
        details: "A key that is named twice counts twice.",
        example: "EXISTS alice",
        arity: (1, MANY),
        build: request::exists,
    },
    Spec {
        name: "MGET",
        aliases: &[],
        arguments: &["key..."],
        summary: "Print the values of many keys, in their order.",
        details: "Raw output has an empty line for each key that does not exist.",
        example: "MGET alice bob",
        arity: (1, MANY),
        build: request::mget,
    },
    Spec {
        name: "MPUT",
        aliases: &["MSET"],
        arguments: &["key", "value", "[key value]..."],
        summary: "Store many values.",
        details: "Not a transaction: each value is stored or fails for itself, and failures are listed.",
        example: "MPUT alice 1 bob 2",
        arity: (2, MANY),
        build: request::mput,
    },
    Spec {
        name: "TTL",
        aliases: &[],
        arguments: &["key"],
        summary: "Print how many seconds a key has to live, rounded up.",
        details: "Raw output is -1 for a key that never expires and -2 for one that does not exist.",
        example: "TTL alice",
        arity: (1, 1),
        build: request::ttl,
    },
    Spec {
        name: "EXPIRE",
        aliases: &[],
        arguments: &["key", "seconds"],
        summary: "Set the time to live of a key.",
        details: "Prints 1, or 0 if the key does not exist.",
        example: "EXPIRE alice 60",
        arity: (2, 2),
        build: request::expire,
    },
    Spec {
        name: "PERSIST",
        aliases: &[],
        arguments: &["key"],
        summary: "Take the expiry of a key away.",
        details: "Prints 1, or 0 if there was none.",
        example: "PERSIST alice",
        arity: (1, 1),
        build: request::persist,
    },
    Spec {
        name: "CAS",
        aliases: &[],
        arguments: &["key", "version", "value", "[EX seconds | PX millis]"],
        summary: "Store a value if the key still has this version (compare and swap).",
        details: "VERSION tells the version; 0 stands for a key that must not exist. Raw output is `OK` and the new \
                  version, or `CONFLICT` and the version that the key has.",
        example: "CAS alice 1.42 \"new value\"",
        arity: (3, 5),
        build: request::cas,
    },
    Spec {
        name: "VERSION",
        aliases: &[],
        arguments: &["key"],
        summary: "Print the version of a key, for use with CAS.",
        details: "Raw output is 0 for a key that does not exist.",
        example: "VERSION alice",
        arity: (1, 1),
        build: request::version,
    },
    Spec {
        name: "SCAN",
        aliases: &[],
        arguments: &["[cursor]", "[LIMIT count]"],
        summary: "Print a page of keys, and the cursor of the next page.",
        details: "Starts at cursor 0, which is also what comes after the last page. Raw output is the next cursor and \
                  then the keys, each on its line. A page may be empty while others follow.",
        example: "SCAN 0 LIMIT 10",
        arity: (0, 3),
        build: request::scan,
    },
    Spec {
        name: "KEYS",
        aliases: &[],
        arguments: &[],
        summary: "Print every key, page after page.",
        details: "",
        example: "KEYS",
        arity: (0, 0),
        build: |_| Ok(Request::Keys),
    },
    Spec {
        name: "COUNT",
        aliases: &[],
        arguments: &[],
        summary: "Print how many keys there are, in memory and in the database.",
        details: "",
        example: "COUNT",
        arity: (0, 0),
        build: request::count,
    },
    Spec {
        name: "STATS",
        aliases: &[],
        arguments: &[],
        summary: "Print the figures of every shard.",
        details: "Raw output has a line `shard name value` for each.",
        example: "STATS",
        arity: (0, 0),
        build: request::stats,
    },
    Spec {
        name: "EXPLAIN",
        aliases: &[],
        arguments: &["key"],
        summary: "Tell where a key lives and what will become of it.",
        details: "",
        example: "EXPLAIN alice",
        arity: (1, 1),
        build: request::explain_key,
    },
    Spec {
        name: "HELP",
        aliases: &[],
        arguments: &["[command]"],
        summary: "Explain a command, or list them all.",
        details: "",
        example: "HELP PUT",
        arity: (0, 1),
        build: request::help,
    },
    Spec {
        name: "EXIT",
        aliases: &["QUIT"],
        arguments: &[],
        summary: "Leave the shell.",
        details: "",
        example: "EXIT",
        arity: (0, 0),
        build: |_| Ok(Request::Exit),
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::line::parse_line;

    #[test]
    fn every_command_has_a_name_of_its_own_and_an_example_that_parses() {
        let names: Vec<&str> = Spec::all().iter().flat_map(Spec::names).collect();
        for spec in Spec::all() {
            for name in spec.names() {
                assert_eq!(names.iter().filter(|other| **other == name).count(), 1, "{name}");
                assert_eq!(Spec::find(name.to_lowercase().as_bytes()), Some(spec), "{name}");
            }
            assert!(parse_line(spec.example.as_bytes()).unwrap().is_some(), "{}", spec.example);
            assert!(spec.summary.ends_with('.') && !spec.summary.contains('\n'), "{}", spec.name);
        }
    }

    #[test]
    fn arity_is_what_the_arguments_say() {
        for spec in Spec::all() {
            let required = spec.arguments.iter().filter(|argument| !argument.starts_with('[')).count();
            assert_eq!(spec.arity.0, required, "{}", spec.name);
            let repeats = spec.arguments.iter().any(|argument| argument.ends_with("..."));
            let words = |argument: &&str| argument.split('|').next().unwrap().split_whitespace().count();
            let most = if repeats { MANY } else { spec.arguments.iter().map(words).sum() };
            assert_eq!(spec.arity.1, most, "{}", spec.name);
        }
    }

    #[test]
    fn nearest_name_is_found_for_slips_and_beginnings() {
        let table = [
            ("GTE", Some("GET")),
            ("gett", Some("GET")),
            ("PUTT", Some("PUT")),
            ("DELETE", None),
            ("EXPLIAN", Some("EXPLAIN")),
            ("EXPL", Some("EXPLAIN")),
            ("VERS", Some("VERSION")),
            ("stat", Some("STATS")),
            ("quti", Some("QUIT")),
            ("xyzzy", None),
            ("x", None),
            ("\u{fffd}", None),
        ];
        for (typed, nearest) in table {
            assert_eq!(Spec::nearest(typed.as_bytes()), nearest, "{typed}");
        }
        assert_eq!(Spec::nearest(&[b'G'; 100_000]), None);
    }

    #[test]
    fn arguments_that_may_still_come_are_known() {
        let put = Spec::find(b"put").unwrap();
        assert_eq!(put.arguments_after(0), ["key", "value", "[EX seconds | PX millis]", "[NX]"]);
        assert_eq!(put.arguments_after(2), ["[EX seconds | PX millis]", "[NX]"]);
        assert_eq!(put.arguments_after(9), [""; 0]);
        assert_eq!(Spec::find(b"DEL").unwrap().arguments_after(7), ["key..."]);
        assert_eq!(Spec::find(b"KEYS").unwrap().arguments_after(1), [""; 0]);
        assert_eq!(put.usage(), "PUT key value [EX seconds | PX millis] [NX]");
    }
}
