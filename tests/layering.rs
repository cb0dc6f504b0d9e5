//! The layers of `ARCHITECTURE.md` as a test: a module imports only from layers below its own, some crates stay in their
//! module, and no file grows past its limit. It reads the sources as tokens, so comments and strings don't count and
//! `#[cfg(test)]` modules do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;

/// `config` and the binaries share a row in the table; the binaries stand on `config`.
const BIN: &str = "bin";
const LAYERS: &[&[&str]] = &[
    &["backoff", "clock", "gather", "metrics", "mutants", "net", "progress", "request", "secret", "sync", "task"],
    &["number", "record"],
    &["command", "policy", "slots"],
    &["cluster", "journal", "protocol", "service", "store"],
    &["replication", "rpc", "tier"],
    &["router", "shard"],
    &["bench", "check", "doors", "shell", "transfer"],
    &["node"],
    &["config"],
    &[BIN],
];

/// A crate, and the only modules that may name it.
const FENCES: &[(&str, &[&str])] = &[
    ("anyhow", &["shell", "node", "config", BIN]),
    ("axum", &["doors"]),
    ("base64", &["transfer", "doors"]),
    ("clap", &["config", BIN]),
    ("crc", &["slots"]),
    ("crc32c", &["journal", "transfer"]),
    ("hashbrown", &["store", "shard"]),
    ("hyper", &["doors"]),
    ("hyper_util", &["doors"]),
    ("hdrhistogram", &["bench"]),
    ("indicatif", &["progress"]),
    ("openraft", &["replication"]),
    ("opentelemetry", &["request", "node"]),
    ("opentelemetry_sdk", &["request", "node"]),
    ("parking_lot", &["sync"]),
    ("prefetch_index", &["policy", "store"]),
    ("prometheus_client", &["metrics"]),
    ("rand_distr", &["bench"]),
    ("ring", &["secret"]),
    ("rustix", &["journal"]),
    ("rustls", &["net"]),
    ("rustyline", &["shell"]),
    ("serde_json", &["bench", "transfer", "doors"]),
    ("shuttle", &["sync"]),
    ("sqlx", &["tier"]),
    ("tarpc", &["rpc", "doors"]),
    ("tokio_rustls", &["net"]),
    ("tracing_opentelemetry", &[]),
];

#[derive(Debug, PartialEq, Eq)]
struct Violation {
    file: PathBuf,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

#[test]
fn sources_keep_to_their_layers_fences_and_sizes() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut violations = Vec::new();
    let mut files = 0;
    for path in rust_files(&src) {
        let file = path.strip_prefix(src.parent().unwrap()).unwrap();
        violations.extend(check(file, &std::fs::read_to_string(&path).unwrap()));
        files += 1;
    }
    assert!(files > 10, "found only {files} sources in {}", src.display());
    let list: Vec<String> = violations.iter().map(Violation::to_string).collect();
    assert!(list.is_empty(), "{} violations:\n{}", list.len(), list.join("\n"));
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// What is wrong with one file; `file` is relative to the package (`src/tier/mod.rs`).
fn check(file: &Path, source: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut report = |line, what| violations.push(Violation { file: file.to_owned(), line, what });
    let lines = source.lines().count();
    if lines > FILE_LINES_MAX {
        report(lines, format!("{lines} lines, and {FILE_LINES_MAX} are the limit"));
    }
    let place = module_path(file);
    // The crate root only declares the modules.
    let Some(module) = place.first() else { return violations };
    let Some(own) = layer_of(module) else {
        report(1, format!("`{module}` is not in the table of layers"));
        return violations;
    };

    let tokens = tokenize(source);
    for (line, target) in imports(&tokens, &place) {
        if target == *module {
            continue;
        }
        match layer_of(&target) {
            Some(layer) if layer < own => {}
            Some(layer) => report(line, format!("`{module}` (layer {own}) imports from `{target}` (layer {layer})")),
            None => report(line, format!("`{module}` imports `{target}`, which is not in the table of layers")),
        }
    }
    for (line, name) in crates(&tokens) {
        if let Some((_, allowed)) = FENCES.iter().find(|(fenced, _)| *fenced == name)
            && !allowed.contains(&module.as_str())
        {
            report(line, format!("`{module}` uses the crate `{name}`, which belongs in {}", allowed.join(", ")));
        }
    }
    violations
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// `src/tier/mysql/schema.rs` → `tier, mysql, schema`; the crate root is empty.
fn module_path(file: &Path) -> Vec<String> {
    let inside = file.strip_prefix("src").unwrap().with_extension("");
    let mut parts: Vec<String> = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") || parts == ["lib"] {
        parts.pop();
    }
    parts
}

/// An identifier, a `::`, `->` or `=>`, or another single character.
#[derive(Debug)]
struct Token {
    line: usize,
    text: String,
}

/// Leaves out white space, comments and the contents of literals.
fn tokenize(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut tokens, mut line, mut i) = (Vec::new(), 1, 0);
    while i < chars.len() {
        let start = i;
        match (at(i), at(i + 1)) {
            ('/', '/') => i = find(&chars, i, |j| at(j) == '\n'),
            ('/', '*') => i = end_of_block_comment(&chars, i),
            ('"', _) => i = end_of_string(&chars, i),
            ('\'', '\\') => i = find(&chars, i + 3, |j| at(j) == '\'') + 1,
            // `'x'` is a character, anything else with one quote a lifetime.
            ('\'', _) => i += if at(i + 2) == '\'' { 3 } else { 1 },
            (':', ':') | ('-' | '=', '>') => i += 2,
            (c, _) if c.is_alphabetic() || c == '_' => {
                i = find(&chars, i, |j| !(at(j).is_alphanumeric() || at(j) == '_'));
                let word: String = chars[start..i].iter().collect();
                let hashes = find(&chars, i, |j| at(j) != '#') - i;
                if matches!(word.as_str(), "r" | "br" | "cr") && at(i + hashes) == '"' {
                    let ends = |j: usize| at(j) == '"' && (1..=hashes).all(|k| at(j + k) == '#');
                    i = find(&chars, i + hashes + 1, ends) + 1 + hashes;
                } else if !(word == "r" && hashes == 1) {
                    tokens.push(Token { line, text: word });
                }
            }
            _ => i += 1,
        }
        i = i.min(chars.len());
        let text: String = chars[start..i].iter().collect();
        line += text.matches('\n').count();
        if matches!(text.as_str(), "::" | "->" | "=>") || (text.len() == 1 && "{}(),;=.$*#<>!&|[]?:".contains(&text)) {
            tokens.push(Token { line, text });
        }
    }
    tokens
}

/// The first index from `from` on where `holds`, or the end.
fn find(chars: &[char], from: usize, holds: impl Fn(usize) -> bool) -> usize {
    (from..chars.len()).find(|j| holds(*j)).unwrap_or(chars.len())
}

fn end_of_string(chars: &[char], from: usize) -> usize {
    let mut i = from + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// Block comments nest.
fn end_of_block_comment(chars: &[char], from: usize) -> usize {
    let (mut depth, mut i) = (0, from);
    loop {
        match chars.get(i..i + 2) {
            Some(['/', '*']) => (depth, i) = (depth + 1, i + 2),
            Some(['*', '/']) => (depth, i) = (depth - 1, i + 2),
            Some(_) => i += 1,
            None => return chars.len(),
        }
        if depth == 0 {
            return i;
        }
    }
}

/// The modules of this crate that the paths name, each with its line. `place` is the file's own module path.
fn imports(tokens: &[Token], place: &[String]) -> Vec<(usize, String)> {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    let is_bin = place[0] == BIN;
    let (mut found, mut depth, mut inline) = (Vec::new(), 0, Vec::new());
    let mut i = 0;
    while i < tokens.len() {
        match text(i) {
            "mod" if text(i + 2) == "{" => inline.push((depth, text(i + 1))),
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                if inline.last().is_some_and(|(outside, _)| *outside == depth) {
                    inline.pop();
                }
            }
            // In a binary, `crate` and `super` are the binary itself.
            "overspill" if is_bin && text(i + 1) == "::" => found.extend(first_names(tokens, i + 2)),
            "crate" if !is_bin && text(i + 1) == "::" => found.extend(first_names(tokens, i + 2)),
            "crate" if !is_bin && text(i + 1) == "as" => found.push((tokens[i].line, "crate".to_owned())),
            "super" if !is_bin && text(i + 1) == "::" && text(i.wrapping_sub(2)) != "super" => {
                let mut ups = 1;
                while text(i + 2 * ups) == "super" && text(i + 2 * ups + 1) == "::" {
                    ups += 1;
                }
                // Above the file's top module is the crate.
                if ups == place.len() + inline.len() {
                    found.extend(first_names(tokens, i + 2 * ups));
                }
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// The first names of a use tree: `a::b` → a; `{a, b::{c, d}, *}` → a, b, *.
fn first_names(tokens: &[Token], from: usize) -> Vec<(usize, String)> {
    let name = |token: &Token| (token.line, token.text.clone());
    let Some(first) = tokens.get(from) else { return Vec::new() };
    if first.text != "{" {
        return vec![name(first)];
    }
    let (mut names, mut depth, mut expected) = (Vec::new(), 0, false);
    for token in &tokens[from..] {
        match token.text.as_str() {
            "{" => {
                depth += 1;
                expected = depth == 1;
            }
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            "," => expected = depth == 1,
            _ if expected => {
                names.push(name(token));
                expected = false;
            }
            _ => {}
        }
    }
    names
}

/// The names that may be those of crates: the heads of paths, and whole imports.
fn crates(tokens: &[Token]) -> Vec<(usize, &str)> {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    let is_head = |i: usize| match text(i.wrapping_sub(1)) {
        // `::sqlx::Row` is a head too, unless a name or a type stands before it.
        "::" => {
            !text(i.wrapping_sub(2)).ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '>')
                || text(i.wrapping_sub(2)) == "->"
        }
        before => before != ".",
    };
    (0..tokens.len())
        .filter(|i| is_head(*i) && (text(i + 1) == "::" || matches!(text(i.wrapping_sub(1)), "use" | "crate")))
        .map(|i| (tokens[i].line, text(i)))
        .collect()
}

/// What the checker says of `source` in `file`, as `line: words`.
fn said(file: &str, source: &str) -> Vec<String> {
    check(Path::new(file), source).iter().map(|v| format!("{}: {}", v.line, v.what)).collect()
}

#[test]
fn import_from_a_higher_layer_is_caught_with_its_line() {
    let source = "use crate::record::Key;\n\nfn f() {\n    crate::shard::start();\n}\n";
    assert_eq!(said("src/store/mod.rs", source), ["4: `store` (layer 3) imports from `shard` (layer 5)"]);
    let shown = check(Path::new("src/store/mod.rs"), source)[0].to_string();
    assert!(shown.starts_with("src/store/mod.rs:4: "), "{shown}");
}

#[test]
fn import_from_a_neighbour_is_caught() {
    assert_eq!(
        said("src/store/partition.rs", "use crate::cluster::Fence;"),
        ["1: `store` (layer 3) imports from `cluster` (layer 3)"]
    );
}

#[test]
fn every_name_of_a_group_is_seen() {
    let source =
        "use crate::{\n    command::{Command, Reply},\n    node,\n    record::Key,\n    tier::{self, Tier},\n};";
    assert_eq!(
        said("src/service.rs", source),
        [
            "3: `service` (layer 3) imports from `node` (layer 7)",
            "5: `service` (layer 3) imports from `tier` (layer 4)"
        ]
    );
}

#[test]
fn super_counts_where_it_leaves_the_module() {
    assert!(said("src/tier/mysql/schema.rs", "use super::super::Tier;").is_empty());
    assert_eq!(said("src/tier/mysql/schema.rs", "use super::super::super::shard::Shard;").len(), 1);
    assert!(said("src/slots.rs", "mod tests { use super::*; }").is_empty());
    assert_eq!(
        said("src/slots.rs", "use super::store::Store;\nmod tests { use super::super::store::Store; }").len(),
        2
    );
    assert_eq!(said("src/slots.rs", "mod a { fn f() {} }\nuse super::store::Store;").len(), 1);
}

#[test]
fn test_modules_count_too() {
    let source = "#[cfg(test)]\nmod tests {\n    use crate::tier::memory::Memory;\n}";
    assert_eq!(said("src/store/mod.rs", source), ["3: `store` (layer 3) imports from `tier` (layer 4)"]);
}

#[test]
fn root_itself_is_no_way_around() {
    for source in ["use crate::*;", "use crate::{self as all};", "use crate as all;", "use crate::unheard_of::X;"] {
        assert_eq!(said("src/service.rs", source).len(), 1, "{source}");
    }
    assert_eq!(said("src/unheard_of.rs", ""), ["1: `unheard_of` is not in the table of layers"]);
}

#[test]
fn comments_and_literals_are_not_code() {
    let source = r##"
        //! See [`crate::shard`].
        /* crate::shard /* nested */ crate::shard */
        const A: &str = "crate::shard \" sqlx::query";
        const B: &str = r#"crate::shard " tarpc::x"#;
        const C: (char, char) = ('"', '\'');
        fn lifetime<'a>(x: &'a str) -> &'a str { x }
        use crate::shard::Real;
    "##;
    assert_eq!(said("src/store/mod.rs", source), ["8: `store` (layer 3) imports from `shard` (layer 5)"]);
}

#[test]
fn fenced_crate_outside_its_module_is_caught() {
    assert_eq!(said("src/shard/mod.rs", "use sqlx::Row;"), ["1: `shard` uses the crate `sqlx`, which belongs in tier"]);
    assert!(said("src/tier/mysql.rs", "use sqlx::Row;").is_empty());
    let ways = ["use anyhow;", "use {anyhow::Result};", "fn f() -> ::anyhow::Result<()> {}", "extern crate anyhow;"];
    for source in ways.into_iter().chain(["fn f() -> anyhow::Result<()> { Ok(()) }", "#[derive(anyhow::X)] struct S;"])
    {
        assert_eq!(said("src/shard/mod.rs", source).len(), 1, "{source}");
    }
    assert!(said("src/shard/mod.rs", "fn f(crc: u16) { self.crc.x(); mine::crc::x(); }").is_empty());
}

#[test]
fn binary_reaches_the_library_by_its_name() {
    assert!(said("src/bin/kv.rs", "use overspill::config::KvArgs; mod a {} use crate::a;").is_empty());
    assert_eq!(said("src/bin/kv.rs", "use overspill::{node, nowhere};").len(), 1);
}

#[test]
fn overlong_file_is_caught() {
    assert!(said("src/service.rs", &"\n".repeat(FILE_LINES_MAX)).is_empty());
    assert_eq!(said("src/service.rs", &"\n".repeat(FILE_LINES_MAX + 1)).len(), 1);
}
