//! Whole files.
#![no_main]

#[path = "../../crates/keepstep-pt/tests/counting_allocator/mod.rs"]
mod counting_allocator;
#[path = "../../crates/keepstep-pt/tests/fuzz_targets/mod.rs"]
mod fuzz_targets;
#[path = "../../crates/keepstep-pt/tests/raw_zip/mod.rs"]
mod raw_zip;

#[global_allocator]
static ALLOCATOR: counting_allocator::Counting = counting_allocator::Counting;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    fuzz_targets::file(input);
});
