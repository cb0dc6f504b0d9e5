//! docs/operations.md has an entry for each message at ERROR, and for nothing else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::{path, text};

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        if file.is_dir() {
            sources(&file, into);
        } else if file.extension().is_some_and(|extension| extension == "rs") {
            into.push(file);
        }
    }
}

/// The text literals of a piece of code, with lines that go on joined.
fn literals(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '"' {
            continue;
        }
        let mut literal = String::new();
        while let Some(c) = chars.next().filter(|&c| c != '"') {
            match (c, chars.peek()) {
                ('\\', Some('\n')) => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                ('\\', Some(_)) => literal.extend(chars.next()),
                _ => literal.push(c),
            }
        }
        found.push(literal);
    }
    found
}

/// Up to where the parenthesis before it is closed.
fn within(code: &str) -> &str {
    let (mut depth, mut is_text, mut is_escaped) = (1, false, false);
    for (at, c) in code.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => is_text = !is_text,
            '(' if !is_text => depth += 1,
            ')' if !is_text => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &code[..at];
        }
    }
    code
}

/// The messages of all `error!` in a file.
fn messages(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("error!(") {
        let call = within(&code[at + "error!(".len()..]);
        let message = literals(call).pop().unwrap_or_else(|| panic!("no message: {call}"));
        let Some(variable) = message.strip_prefix('{').and_then(|name| name.strip_suffix('}')) else {
            found.push(message);
            continue;
        };
        let before = code[..at].rfind(&format!("let {variable} = ")).unwrap();
        found.push(literals(&code[before..at])[0].clone());
    }
    found
}

#[test]
fn every_error_has_an_entry() {
    let mut files = Vec::new();
    sources(&path("src"), &mut files);
    let logged: BTreeSet<String> =
        files.iter().flat_map(|file| messages(&std::fs::read_to_string(file).unwrap())).collect();
    assert!(logged.len() > 10, "{logged:?}");
    let guide = text("docs/operations.md");
    let told = guide.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    assert_eq!(told.map(str::to_owned).collect::<BTreeSet<_>>(), logged);
}

#[test]
fn messages_are_read_right() {
    let code =
        "error!(a(), \"fir;)st\"),\n let why = \"sec\\\n   ond\"; tracing::error!(b, \"{why}\"); encoder.error(\"no\")";
    assert_eq!(messages(code), ["fir;)st", "second"]);
}

#[test]
fn metrics_in_the_guide_exist() {
    let (guide, dashboard) = (text("docs/operations.md"), text("deploy/observability/grafana-dashboard.json"));
    let alerts = text("deploy/observability/prometheus-alerts.yaml");
    let quoted = guide.split('`').skip(1).step_by(2);
    for word in quoted.filter(|word| word.starts_with("kv_")) {
        assert!(dashboard.contains(word) || alerts.contains(word), "{word}");
    }
    for word in guide.split('`').filter(|word| word.starts_with("Overspill") && !word.contains(' ')) {
        assert!(alerts.contains(&format!("alert: {word}\n")), "{word}");
    }
}

/// What the guide links to is there.
#[test]
fn links_lead_somewhere() {
    let guide = text("docs/operations.md");
    for (at, _) in guide.match_indices("](") {
        let target = &guide[at + 2..][..guide[at + 2..].find(')').unwrap()];
        match target.strip_prefix('#') {
            None => assert!(path("docs").join(target).exists(), "{target}"),
            Some(anchor) => {
                let is_kept = |c: &char| c.is_alphanumeric() || *c == ' ' || *c == '-';
                let slug = |line: &str| {
                    line.trim_start_matches('#').trim().to_lowercase().chars().filter(is_kept).collect::<String>()
                };
                let headings = guide.lines().filter(|line| line.starts_with('#'));
                assert!(headings.map(slug).any(|slug| slug.replace(' ', "-") == anchor), "{anchor}");
            }
        }
    }
}
