//! Tables: what a key is, what is asked, what becomes of it and what is answered.

use super::*;
use crate::command::{ExpireWhen, Moved, NewExpiry, Update};
use crate::record::{TTL_MAX, VALUE_BYTES_MAX};

const NOW: Timestamp = Timestamp(1000);
const PAST: NewExpiry = NewExpiry::At(Timestamp(1000));
const LATER: NewExpiry = NewExpiry::At(Timestamp(6000));

fn key(text: &str) -> Key {
    Key::new(text.to_owned()).unwrap()
}

fn value(text: impl AsRef<[u8]>) -> Value {
    Value::new(text.as_ref().to_vec()).unwrap()
}

fn of(text: impl AsRef<[u8]>, expires_at: Option<u64>) -> Option<Found> {
    Some(Found { value: value(text), version: Version::new(1, 7), expires_at: expires_at.map(Timestamp) })
}

/// What became of the key: as it was, or gone, or a value with its expiry; and the reply, or the refusal.
fn told(outcome: Outcome) -> (String, String) {
    let found = |found: &Found| format!("{}{}", text(&found.value), until(found.expires_at));
    let reply = match outcome.reply.into_reply(Some(Version::new(1, 8))) {
        Ok(Reply::Found(it)) => it.as_ref().map_or("nil".to_owned(), found),
        Ok(Reply::Stored(_)) => "stored".to_owned(),
        Ok(Reply::Conflict(_)) => "conflict".to_owned(),
        Ok(Reply::Number(number)) => number.to_string(),
        Ok(Reply::Done(done)) => done.to_string(),
        Ok(Reply::Moved(moved)) => format!("{moved:?}"),
        Ok(other) => panic!("{other:?}"),
        Err(Error::Invalid(reason)) => format!("! {reason}"),
        Err(other) => panic!("{other:?}"),
    };
    (outcome.mutation.as_ref().map_or("as it was".to_owned(), effect), reply)
}

fn effect(mutation: &Mutation) -> String {
    match mutation {
        Mutation::Set { value, expires_at, .. } => format!("{}{}", text(value), until(*expires_at)),
        Mutation::Delete { .. } => "gone".to_owned(),
    }
}

fn text(value: &Value) -> String {
    value.as_bytes().escape_ascii().to_string()
}

fn until(expires_at: Option<Timestamp>) -> String {
    expires_at.map_or(String::new(), |at| format!(" until {}", at.0))
}

fn check(table: Vec<(Update, Option<Found>, &str, &str)>) {
    for (update, current, becomes, answer) in table {
        let asked = format!("{update:?} of {current:?}");
        let dead = current.clone().map(|found| Found { expires_at: Some(NOW), ..found });
        let command = Command::Update { key: key("k"), update };
        let outcome = evaluate(command.clone(), current.clone(), NOW).unwrap();
        assert_eq!(told(outcome), (becomes.to_owned(), answer.to_owned()), "{asked}");
        // What has died is as what never was.
        let of_dead = evaluate(command.clone(), dead, NOW).unwrap();
        assert_eq!(told(of_dead), told(evaluate(command, None, NOW).unwrap()), "{asked}");
    }
}

fn set(expiry: NewExpiry, existence: Existence, answer_old: bool) -> Update {
    Update::Set { value: value("new"), expiry, existence, answer_old }
}

fn ttl(ms: u64) -> NewExpiry {
    NewExpiry::In(Ttl::from_millis(ms).unwrap())
}

#[test]
fn set_follows_its_conditions_and_keeps_or_replaces_the_expiry() {
    use Existence::{Absent, Any, Present};
    use NewExpiry::{Keep, Never};
    check(vec![
        (set(Never, Any, false), None, "new", "stored"),
        (set(Never, Any, false), of("old", Some(5000)), "new", "stored"),
        (set(Keep, Any, false), of("old", Some(5000)), "new until 5000", "stored"),
        (set(Keep, Any, false), None, "new", "stored"),
        (set(ttl(500), Any, false), of("old", Some(5000)), "new until 1500", "stored"),
        (set(LATER, Any, false), None, "new until 6000", "stored"),
        (set(PAST, Any, false), of("old", None), "gone", "stored"),
        (set(PAST, Any, true), of("old", None), "gone", "old"),
        (set(Never, Absent, false), None, "new", "stored"),
        (set(Never, Absent, false), of("old", None), "as it was", "conflict"),
        (set(Never, Present, false), None, "as it was", "conflict"),
        (set(Never, Present, false), of("old", None), "new", "stored"),
        (set(PAST, Present, false), None, "as it was", "conflict"),
        (set(Never, Any, true), None, "new", "nil"),
        (set(Never, Any, true), of("old", Some(5000)), "new", "old until 5000"),
        (set(Never, Absent, true), of("old", None), "as it was", "old"),
        (set(Never, Absent, true), None, "new", "nil"),
        (set(Never, Present, true), None, "as it was", "nil"),
        (set(Never, Present, true), of("old", None), "new", "old"),
    ]);
}

#[test]
fn an_expiry_beyond_all_bounds_counts_as_the_longest() {
    let set = set(NewExpiry::At(Timestamp(u64::MAX)), Existence::Any, false);
    let outcome = evaluate(Command::Update { key: key("k"), update: set }, None, NOW).unwrap();
    let Some(Mutation::Set { expires_at: Some(at), .. }) = outcome.mutation else { panic!("not set to die") };
    assert_eq!(at.since(NOW), TTL_MAX);
}

#[test]
fn numbers_are_added_to_numbers_only_and_keep_their_expiry() {
    let add = |by| Update::Add { by };
    let decimal = |by: &str| Update::AddDecimal { by: value(by) };
    let not_a_decimal = "! value is not a valid float";
    let not_an_integer = "! value is not an integer or out of range";
    check(vec![
        (add(5), None, "5", "5"),
        (add(-5), of("3", Some(5000)), "-2 until 5000", "-2"),
        (add(0), of("3", None), "3", "3"),
        (add(1), of("03", None), "as it was", not_an_integer),
        (add(1), of("", None), "as it was", not_an_integer),
        (add(1), of("9223372036854775808", None), "as it was", not_an_integer),
        (add(1), of("9223372036854775807", None), "as it was", "! increment or decrement would overflow"),
        (add(i64::MIN), of("-1", None), "as it was", "! increment or decrement would overflow"),
        (decimal("1.5"), None, "1.5", "1.5"),
        (decimal("0.1"), of("10.50", Some(5000)), "10.6 until 5000", "10.6 until 5000"),
        (decimal("2.0e2"), of("5.0e3", None), "5200", "5200"),
        (decimal("-3"), of("3", None), "0", "0"),
        (decimal("x"), of("3", None), "as it was", not_a_decimal),
        (decimal("1"), of("3 ", None), "as it was", not_a_decimal),
        (decimal("inf"), of("3", None), "as it was", "! increment would produce NaN or Infinity"),
    ]);
}

#[test]
fn values_grow_and_are_overwritten_within_their_bound() {
    let append = |tail: &str| Update::Append { tail: value(tail) };
    let overwrite = |offset, part: &str| Update::Overwrite { offset, part: value(part) };
    let too_long = "! string exceeds maximum allowed size (proto-max-bulk-len)";
    check(vec![
        (append("b"), of("a", Some(5000)), "ab until 5000", "2"),
        (append("b"), None, "b", "1"),
        (append(""), of("a", None), "as it was", "1"),
        (append(""), None, "", "0"),
        (overwrite(0, "X"), of("abc", Some(5000)), "Xbc until 5000", "3"),
        (overwrite(2, "XY"), of("abc", None), "abXY", "4"),
        (overwrite(3, "X"), of("abc", None), "abcX", "4"),
        (overwrite(5, "X"), of("abc", None), "abc\\x00\\x00X", "6"),
        (overwrite(2, "X"), None, "\\x00\\x00X", "3"),
        (overwrite(9, ""), of("abc", None), "as it was", "3"),
        (overwrite(u32::MAX, ""), None, "as it was", "0"),
        (overwrite(VALUE_BYTES_MAX as u32, "X"), None, "as it was", too_long),
        (overwrite(u32::MAX, "X"), of("abc", None), "as it was", too_long),
    ]);
    let full = of(vec![b'x'; VALUE_BYTES_MAX], None);
    let command = |update| Command::Update { key: key("k"), update };
    let (becomes, answer) = told(evaluate(command(append("y")), full.clone(), NOW).unwrap());
    assert_eq!((becomes.as_str(), answer.as_str()), ("as it was", too_long));
    let fits = evaluate(command(overwrite(VALUE_BYTES_MAX as u32 - 1, "y")), full, NOW).unwrap();
    assert!(matches!(fits.mutation, Some(Mutation::Set { .. })), "the last byte");
}

#[test]
fn what_is_taken_or_given_another_expiry_is_answered_as_it_was() {
    let get = |expiry| Update::GetAndExpire { expiry };
    check(vec![
        (Update::Take, of("a", Some(5000)), "gone", "a until 5000"),
        (Update::Take, None, "as it was", "nil"),
        (get(NewExpiry::Keep), of("a", Some(5000)), "as it was", "a until 5000"),
        (get(NewExpiry::Never), of("a", Some(5000)), "a", "a until 5000"),
        (get(NewExpiry::Never), of("a", None), "as it was", "a"),
        (get(ttl(500)), of("a", None), "a until 1500", "a"),
        (get(PAST), of("a", None), "gone", "a"),
        (get(PAST), None, "as it was", "nil"),
    ]);
}

#[test]
fn an_expiry_is_set_only_under_its_condition() {
    use ExpireWhen::{Always, Any, AnySooner, Later, None as Unset, Sooner};
    let (never, early, late) = (None, Some(2000), Some(9000));
    // Under which old expiry the new one, 6000, is set.
    for (when, sets) in [
        (Always, vec![never, early, late]),
        (Unset, vec![never]),
        (Any, vec![early, late]),
        (Later, vec![early]),
        (Sooner, vec![never, late]),
        (AnySooner, vec![late]),
    ] {
        for old in [never, early, late] {
            let (becomes, answer) = if sets.contains(&old) { ("a until 6000", "true") } else { ("as it was", "false") };
            check(vec![(Update::Expire { expiry: LATER, when }, of("a", old), becomes, answer)]);
            // What is past is sooner than all else, and kills.
            let kills = !matches!((when, old), (Unset, Some(_)) | (Any | AnySooner, None) | (Later, _));
            let (becomes, answer) = if kills { ("gone", "true") } else { ("as it was", "false") };
            check(vec![(Update::Expire { expiry: PAST, when }, of("a", old), becomes, answer)]);
        }
    }
    let expire = |expiry, when| Update::Expire { expiry, when };
    check(vec![
        (expire(LATER, Always), None, "as it was", "false"),
        (expire(PAST, Always), None, "as it was", "false"),
        (expire(LATER, Always), of("a", Some(6000)), "as it was", "true"),
        (expire(LATER, Later), of("a", Some(6000)), "as it was", "false"),
        (expire(LATER, Sooner), of("a", Some(6000)), "as it was", "false"),
        (expire(NewExpiry::Never, Later), of("a", Some(6000)), "a", "true"),
        (expire(NewExpiry::Never, Sooner), of("a", Some(6000)), "as it was", "false"),
    ]);
}

/// R15: what is admitted before the evaluation is enough for what comes of it.
#[test]
fn room_is_made_for_at_least_what_is_stored() {
    let long = vec![b'x'; 5000];
    let olds = [
        None,
        of("", None),
        of("12", Some(5000)),
        of("-9223372036854775807", None),
        of("1e300", None),
        of(format!("0.{}{}", "0".repeat(290), "123456789".repeat(5)), None),
        of(&long, Some(2000)),
    ];
    let mut updates = vec![
        Update::Add { by: -1 },
        Update::Append { tail: value("tail") },
        Update::Take,
        Update::Expire { expiry: LATER, when: ExpireWhen::Always },
        Update::GetAndExpire { expiry: LATER },
    ];
    updates.extend(
        ["1", "1e308", "-1e-320", "0.00000000000000001", "2.5e40"].map(|by| Update::AddDecimal { by: value(by) }),
    );
    updates.extend([0, 3, 4999, 6000].map(|offset| Update::Overwrite { offset, part: value("part") }));
    updates.extend([NewExpiry::Keep, PAST, LATER].map(|expiry| set(expiry, Existence::Any, true)));
    for update in updates {
        for old in &olds {
            for now in [NOW, Timestamp(3000)] {
                let admitted = value_bytes(&update, old.as_ref());
                let command = Command::Update { key: key("k"), update: update.clone() };
                let outcome = evaluate(command, old.clone(), now).unwrap();
                let stored = outcome.mutation.map_or(0, |mutation| mutation.size_bytes() - 1);
                assert!(stored <= admitted, "{update:?} of {old:?}: {stored} bytes, and {admitted} admitted");
            }
        }
    }
}

/// Blind means: the outcome is the same, whatever the key is.
#[test]
fn what_is_blind_does_not_depend_on_the_key() {
    let mut blind = 0;
    for expiry in [NewExpiry::Keep, NewExpiry::Never, ttl(500), PAST, LATER] {
        for existence in [Existence::Any, Existence::Absent, Existence::Present] {
            for answer_old in [false, true] {
                let command = Command::Update { key: key("k"), update: set(expiry, existence, answer_old) };
                if is_blind(&command) {
                    blind += 1;
                    let of = |old| told(evaluate(command.clone(), old, NOW).unwrap());
                    assert_eq!(of(None), of(super::tests::of("old", Some(5000))), "{command:?}");
                }
            }
        }
    }
    assert_eq!(blind, 2);
}

fn many(command: &Command, keys: &[(&str, Option<Found>)]) -> (String, String) {
    let find = |wanted: &Key| keys.iter().find(|(name, _)| key(name) == *wanted).and_then(|(_, found)| found.clone());
    let (reply, mutations) = evaluate_many(command, find, NOW).unwrap();
    let told = mutations.iter().map(|mutation| {
        let (Mutation::Set { key, .. } | Mutation::Delete { key }) = mutation;
        format!("{key}: {}", effect(mutation))
    });
    let reply = match reply.into_reply(None).unwrap() {
        Reply::Moved(moved) => format!("{moved:?}"),
        Reply::Done(done) => done.to_string(),
        other => panic!("{other:?}"),
    };
    (told.collect::<Vec<_>>().join(", "), reply)
}

#[test]
fn a_key_is_moved_or_copied_with_its_expiry() {
    use Existence::{Absent, Any};
    let (a, b, dead) = (of("a", Some(5000)), of("b", Some(7000)), of("a", Some(1000)));
    for (to, is_copy, existence, is_a, is_b, becomes, answer) in [
        ("b", false, Any, &a, &b, "a: gone, b: a until 5000", Moved::Done),
        ("b", false, Any, &a, &None, "a: gone, b: a until 5000", Moved::Done),
        ("b", true, Any, &a, &b, "b: a until 5000", Moved::Done),
        ("b", false, Any, &None, &b, "", Moved::Missing),
        ("b", false, Any, &dead, &b, "", Moved::Missing),
        ("b", false, Absent, &a, &b, "", Moved::Refused),
        ("b", true, Absent, &a, &b, "", Moved::Refused),
        ("b", false, Absent, &a, &dead, "a: gone, b: a until 5000", Moved::Done),
        ("b", false, Absent, &None, &b, "", Moved::Missing),
        ("a", false, Any, &a, &None, "", Moved::Done),
        ("a", false, Absent, &a, &None, "", Moved::Refused),
        ("a", false, Any, &None, &None, "", Moved::Missing),
        ("a", false, Any, &dead, &None, "", Moved::Missing),
    ] {
        let command = Command::Move { from: key("a"), to: key(to), is_copy, existence };
        let told = many(&command, &[("a", is_a.clone()), ("b", is_b.clone())]);
        assert_eq!(told, (becomes.to_owned(), format!("{answer:?}")), "{command:?} of {is_a:?} and {is_b:?}");
        let looked_at = looked_at(&command);
        assert!(existence == Any || looked_at == keys_of(&command), "the other key is looked at if it matters");
        assert!(looked_at.contains(&key("a")));
    }
}

#[test]
fn all_are_stored_or_none_and_of_a_key_that_comes_twice_the_last() {
    let pair = |name: &str, text: &str| (key(name), value(text));
    let command = Command::PutAllAbsent { first: pair("b", "1"), more: vec![pair("a", "2"), pair("b", "3")] };
    assert_eq!(keys_of(&command), [key("a"), key("b")]);
    let stored = ("a: 2, b: 3".to_owned(), "true".to_owned());
    assert_eq!(many(&command, &[]), stored);
    assert_eq!(many(&command, &[("b", of("dead", Some(1000)))]), stored);
    for name in ["a", "b"] {
        assert_eq!(many(&command, &[(name, of("x", None))]), (String::new(), "false".to_owned()), "{name} exists");
    }
}
