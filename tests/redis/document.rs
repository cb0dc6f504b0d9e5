//! `docs/commands.md`, made of the table of commands.

use std::fmt::Write;
use std::path::Path;

use overspill::protocol::redis::{Group, Spec, table};

const HEAD: &str = "# Redis commands

<!-- Made of src/protocol/redis/table.rs and docs/commands-differences.md: `UPDATE=1 cargo test --test redis document` -->

Any Redis client works: with a primary as with a single Redis, and with the secondaries as with a Redis cluster. Nodes speak RESP2, and RESP3
after `HELLO 3`, and take requests typed by hand. There are strings only, in one database.
";

const GROUPS: [(Group, &str); 5] = [
    (Group::String, "Values"),
    (Group::Generic, "Keys"),
    (Group::Connection, "Connections"),
    (Group::Server, "Nodes"),
    (Group::Cluster, "Clusters"),
];

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn of(group: Group) -> impl Iterator<Item = &'static Spec> {
    table::all().iter().filter(move |spec| spec.group == group)
}

fn document(differences: &str) -> String {
    let mut text = HEAD.to_owned();
    for (group, title) in GROUPS {
        write!(text, "\n## {title}\n\n| command | |\n|---|---|\n").unwrap();
        for spec in of(group) {
            let syntax = format!("{} {}", spec.name.to_uppercase(), spec.syntax);
            writeln!(text, "| `{}` | {} |", cell(syntax.trim()), cell(spec.summary)).unwrap();
        }
    }
    text.push_str("\n## Refused\n\nThese are answered with an error that says why.\n\n| command | |\n|---|---|\n");
    for spec in of(Group::Refused) {
        writeln!(text, "| `{}` | {} |", spec.name.to_uppercase(), cell(spec.summary)).unwrap();
    }
    text + "\n" + differences
}

#[test]
fn the_document_of_the_commands_is_current() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let differences = std::fs::read_to_string(docs.join("commands-differences.md")).unwrap();
    let (path, wanted) = (docs.join("commands.md"), document(&differences));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "docs/commands.md is not current: UPDATE=1 cargo test --test redis document");
}

#[test]
fn the_table_has_every_command_once_and_in_order() {
    for group in GROUPS.map(|(group, _)| group).into_iter().chain([Group::Refused]) {
        let names: Vec<&str> = of(group).map(|spec| spec.name).collect();
        assert!(names.is_sorted(), "{names:?}");
    }
    for spec in table::all() {
        assert_eq!(table::find(spec.name.as_bytes()).map(|found| found.name), Some(spec.name));
        assert!(spec.summary.ends_with('.') || spec.summary.is_empty(), "{}", spec.name);
    }
}
