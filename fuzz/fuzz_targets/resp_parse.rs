//! Any bytes, as requests that arrive in pieces. What must hold is in `invariants`, which the library's tests check too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overspill::protocol::resp::{self, Limits};

#[path = "../../src/protocol/resp/tests/invariants.rs"]
mod invariants;

const SMALL: Limits = Limits { args_max: 6, arg_bytes_max: 15, request_bytes_max: 80, line_bytes_max: 24 };

fuzz_target!(|input: &[u8]| {
    // The pieces' sizes follow from the input, so that a finding repeats itself.
    let mut state = input.iter().fold(input.len(), |state, byte| state.wrapping_mul(31) ^ usize::from(*byte));
    let mut piece_bytes = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1 + (state >> 33) % 24
    };
    for limits in [Limits::default(), SMALL] {
        invariants::check(limits, input, &mut piece_bytes);
    }
});
