//! The texts of HELP, all from the table of commands.

use crate::protocol::line::Spec;

use super::render::line;

const WIDTH: usize = 100;

pub(super) fn render(spec: Option<&Spec>, out: &mut Vec<u8>) {
    match spec {
        Some(spec) => one(spec, out),
        None => all(out),
    }
}

fn all(out: &mut Vec<u8>) {
    let width = Spec::all().iter().map(|spec| spec.usage().len()).max().unwrap_or(0);
    for spec in Spec::all() {
        line(&format!("{:<width$}  {}", spec.usage(), spec.summary), out);
    }
    line("", out);
    line("HELP and a command tells more. Names may be written in lower case.", out);
    line("Quotes hold words together: \"two words\"; \\xNN is the byte NN; a line that begins with # is skipped.", out);
}

fn one(spec: &Spec, out: &mut Vec<u8>) {
    line(&spec.usage(), out);
    line(&format!("  {}", spec.summary), out);
    for text in wrapped(spec.details) {
        line(&format!("  {text}"), out);
    }
    if !spec.aliases.is_empty() {
        line(&format!("  Also: {}", spec.aliases.join(", ")), out);
    }
    line(&format!("  Example: {}", spec.example), out);
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_command_and_explains_each() {
        let mut out = Vec::new();
        render(None, &mut out);
        let list = String::from_utf8(out).unwrap();
        for spec in Spec::all() {
            assert!(list.contains(&spec.usage()) && list.contains(spec.summary), "{}", spec.name);
            let mut out = Vec::new();
            render(Some(spec), &mut out);
            assert!(String::from_utf8(out).unwrap().contains(spec.example), "{}", spec.name);
        }
        let mut out = Vec::new();
        render(Spec::find(b"exit"), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "EXIT\n  Leave the shell.\n  Also: QUIT\n  Example: EXIT\n");
    }
}
