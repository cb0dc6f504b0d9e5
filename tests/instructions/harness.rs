//! The arguments that `cargo test` hands to every test, read as the harness of the others reads them.

pub const NAME: &str = "instructions";

#[derive(Debug)]
pub enum Wanted {
    Run,
    List,
    Nothing,
}

/// Filters, `--skip`, `--exact`, `--ignored` and `--list` mean here what they mean there; what else there is, nothing.
pub fn wanted(arguments: &[&str]) -> Wanted {
    let (mut filters, mut skips) = (Vec::new(), Vec::new());
    let (mut is_exact, mut is_ignored, mut is_list) = (false, false, false);
    let mut words = arguments.iter().copied();
    while let Some(word) = words.next() {
        match word {
            "--exact" => is_exact = true,
            "--ignored" => is_ignored = true,
            "--list" => is_list = true,
            "--skip" => skips.extend(words.next()),
            // Their values are no filters.
            "--test-threads" | "--format" | "--color" | "--logfile" | "--shuffle-seed" | "-Z" => drop(words.next()),
            option if option.starts_with('-') => skips.extend(option.strip_prefix("--skip=")),
            filter => filters.push(filter),
        }
    }
    let matches = |filter: &&str| if is_exact { NAME == *filter } else { NAME.contains(*filter) };
    let is_left_out = is_ignored || skips.iter().any(matches) || !(filters.is_empty() || filters.iter().any(matches));
    match (is_left_out, is_list) {
        (true, _) => Wanted::Nothing,
        (false, true) => Wanted::List,
        (false, false) => Wanted::Run,
    }
}
