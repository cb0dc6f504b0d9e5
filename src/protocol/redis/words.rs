//! The words of a request after its name, taken one after the other.

use bytes::Bytes;

use super::Refusal;
use crate::number::parse_integer;
use crate::protocol::resp::Args;
use crate::record::{Key, Value};

/// What is left of a request. The table has checked that there are enough words for those a command must have.
#[derive(Debug)]
pub(super) struct Words<'a> {
    /// In lower case, as errors name it.
    name: &'static str,
    request: &'a Args<'a>,
    /// Of the next word in the request.
    at: usize,
}

impl<'a> Words<'a> {
    /// What follows the name of a request.
    pub fn new(name: &'static str, request: &'a Args<'a>) -> Self {
        Self { name, request, at: 1 }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn len(&self) -> usize {
        self.request.len().saturating_sub(self.at)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next word, if there is one.
    pub fn option(&mut self) -> Option<&'a [u8]> {
        let word = self.request.get(self.at)?;
        self.at += 1;
        Some(word)
    }

    /// The next word, which the command must have.
    pub fn next(&mut self) -> Result<&'a [u8], Refusal> {
        self.option().ok_or_else(|| Refusal::arity(self.name))
    }

    /// The next word, which an option must have.
    pub fn operand(&mut self) -> Result<&'a [u8], Refusal> {
        self.option().ok_or_else(Refusal::syntax)
    }

    /// The next word, which the command must have, for as long as it is wanted.
    pub fn bytes(&mut self) -> Result<Bytes, Refusal> {
        let word = self.request.bytes(self.at).ok_or_else(|| Refusal::arity(self.name))?;
        self.at += 1;
        Ok(word)
    }

    pub fn key(&mut self) -> Result<Key, Refusal> {
        Ok(Key::copy_from(self.next()?)?)
    }

    pub fn value(&mut self) -> Result<Value, Refusal> {
        Ok(Value::new(self.bytes()?)?)
    }

    pub fn integer(&mut self) -> Result<i64, Refusal> {
        parse_integer(self.next()?).ok_or_else(Refusal::not_an_integer)
    }
}

/// Whether a word is this one, which is in upper case.
pub(super) fn is(word: &[u8], upper: &str) -> bool {
    word.eq_ignore_ascii_case(upper.as_bytes())
}

/// A word as it is shown in an error.
pub(super) fn shown(word: &[u8]) -> String {
    String::from_utf8_lossy(word).into_owned()
}
