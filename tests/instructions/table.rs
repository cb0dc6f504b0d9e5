//! `table.tsv`: what an operation of each path costs, a column a profile, and which compiler the column is of.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;

use crate::Outcome;
use crate::paths::HotPath;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/instructions/table.tsv");
const HEAD: &str = "path\trelease\tdev";
const COMPILER: &str = "compiler";

/// A column.
#[derive(Debug, Clone, Copy)]
pub enum Profile {
    Release,
    Dev,
}

impl Profile {
    /// Of this executable.
    pub const OWN: Self = if cfg!(debug_assertions) { Self::Dev } else { Self::Release };

    /// The command that writes the column.
    pub fn update(self) -> &'static str {
        match self {
            Self::Release => "make instructions UPDATE=yes",
            Self::Dev => "UPDATE=yes cargo test --locked --test instructions",
        }
    }
}

/// One column is read and changed; the other stays as it is.
#[derive(Debug)]
pub struct Table {
    /// By the name of the path, or `COMPILER`.
    rows: HashMap<String, Row>,
}

#[derive(Debug, Default)]
struct Row {
    release: String,
    dev: String,
}

impl Table {
    pub fn read() -> Outcome<Self> {
        let text = fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}"))?;
        let mut rows = HashMap::new();
        for line in text.lines().skip(1) {
            let [name, release, dev] = *line.split('\t').collect::<Vec<_>>() else {
                return Err(format!("{FILE}: `{line}` has not three columns").into());
            };
            rows.insert(name.to_owned(), Row { release: release.to_owned(), dev: dev.to_owned() });
        }
        Ok(Self { rows })
    }

    pub fn write(&self) -> Outcome<()> {
        let mut text = format!("{HEAD}\n");
        for name in std::iter::once(COMPILER).chain(HotPath::ALL.map(HotPath::name)) {
            let (release, dev) = self.rows.get(name).map_or(("", ""), |row| (&row.release, &row.dev));
            writeln!(text, "{name}\t{release}\t{dev}")?;
        }
        Ok(fs::write(FILE, text)?)
    }

    /// Empty if the column was never written.
    pub fn compiler(&self) -> &str {
        self.cell(COMPILER)
    }

    pub fn count(&self, path: HotPath) -> Outcome<f64> {
        let known = self.cell(path.name()).parse();
        known.map_err(|_| format!("no figure for {}: `{}`", path.name(), Profile::OWN.update()).into())
    }

    pub fn set_compiler(&mut self, compiler: String) {
        self.set_cell(COMPILER, compiler);
    }

    pub fn set_count(&mut self, path: HotPath, count: f64) {
        self.set_cell(path.name(), format!("{count:.0}"));
    }

    fn cell(&self, name: &str) -> &str {
        self.rows.get(name).map_or("", |row| match Profile::OWN {
            Profile::Release => &row.release,
            Profile::Dev => &row.dev,
        })
    }

    fn set_cell(&mut self, name: &str, text: String) {
        let row = self.rows.entry(name.to_owned()).or_default();
        match Profile::OWN {
            Profile::Release => row.release = text,
            Profile::Dev => row.dev = text,
        }
    }
}
