//! The table of commands, as COMMAND tells it.

use bytes::Bytes;

use crate::protocol::redis::{self, Flag, Group, Keys, Spec};
use crate::protocol::resp::Encoder;

fn served() -> impl Iterator<Item = &'static Spec> {
    redis::table::all().iter().filter(|spec| spec.group != Group::Refused)
}

pub(super) fn count(encoder: &mut Encoder<'_>) {
    encoder.integer(served().count() as i64);
}

pub(super) fn list(encoder: &mut Encoder<'_>) {
    encoder.array(served().count());
    served().for_each(|spec| encoder.bulk(spec.name.as_bytes()));
}

/// Of all commands, or of those named.
pub(super) fn info(names: &[Bytes], encoder: &mut Encoder<'_>) {
    if names.is_empty() {
        encoder.array(served().count());
        return served().for_each(|spec| one(spec, encoder));
    }
    encoder.array(names.len());
    for name in names {
        match redis::find(name) {
            Some(spec) => one(spec, encoder),
            None => encoder.null(),
        }
    }
}

fn one(spec: &Spec, encoder: &mut Encoder<'_>) {
    encoder.array(10);
    encoder.bulk(spec.name.as_bytes());
    encoder.integer(spec.arity.into());
    encoder.set(spec.flags.len());
    spec.flags.iter().for_each(|flag| encoder.simple(flag.name()));
    let Keys { first, last, step } = spec.keys;
    for number in [first, last, step] {
        encoder.integer(number.into());
    }
    encoder.set(0); // categories of access control, hints, key specifications, subcommands
    encoder.array(0);
    encoder.array(0);
    encoder.array(0);
}

/// The subcommands of a command, one a line.
pub(super) fn help(syntax: &str, encoder: &mut Encoder<'_>) {
    let lines: Vec<&str> = syntax.trim_matches(['[', ']']).split(" | ").collect();
    encoder.array(lines.len() + 2);
    encoder.simple("Subcommands are:");
    lines.iter().for_each(|line| encoder.simple(line));
    encoder.simple("HELP");
}

pub(super) fn docs(names: &[Bytes], encoder: &mut Encoder<'_>) {
    let named: Vec<&Spec> =
        if names.is_empty() { served().collect() } else { names.iter().filter_map(|name| redis::find(name)).collect() };
    encoder.map(named.len());
    for spec in named {
        encoder.bulk(spec.name.as_bytes());
        encoder.map(3);
        for (name, value) in [("summary", spec.summary), ("since", "0.1.0"), ("group", spec.group.name())] {
            encoder.bulk(name.as_bytes());
            encoder.bulk(value.as_bytes());
        }
    }
}

/// The keys of a request, its words given.
pub(super) fn keys(words: &[Bytes], encoder: &mut Encoder<'_>) {
    let Some(spec) = words.first().and_then(|name| redis::find(name)) else {
        return encoder.error("ERR Invalid command specified");
    };
    let count = words.len() as i32;
    if (spec.arity > 0 && spec.arity != count) || count < -spec.arity {
        return encoder.error("ERR Invalid number of arguments specified for command");
    }
    let Keys { first, last, step } = spec.keys;
    if step == 0 || spec.flags.contains(&Flag::NoAuth) {
        return encoder.error("ERR The command has no key arguments");
    }
    let last = if last < 0 { count + last } else { last };
    let keys: Vec<&Bytes> =
        (first..=last).step_by(step as usize).filter_map(|at| words.get(usize::try_from(at).ok()?)).collect();
    encoder.array(keys.len());
    keys.iter().for_each(|key| encoder.bulk(key));
}
