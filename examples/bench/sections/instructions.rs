//! What the hot paths cost in instructions, as the table says that `make instructions` holds them to.

use std::fmt::Write;

use crate::page::Chapter;

pub const TITLE: &str = "Instructions";
const TABLE: &str = include_str!("../../../tests/instructions/table.tsv");

pub fn run() -> Chapter {
    let mut chapter = Chapter::new(
        TITLE,
        "Instructions of an operation in user space, counted by valgrind, where no other process makes noise: `make instructions` counts again, and fails if a path has become 5 % \
         dearer than this table. Where the client is in it, it is the load generator in the same thread.",
    );
    let mut table = "| path | instructions |\n|---|---|\n".to_owned();
    // Below its head and the compilers: a path, and its figures in the release and the dev profile.
    for line in TABLE.lines().skip(2) {
        if let [path, release, _] = *line.split('\t').collect::<Vec<_>>() {
            let _ = writeln!(table, "| {path} | {release} |"); // a string takes it
        }
    }
    chapter.more.push(table);
    chapter
}
