//! Whole files of PyTorch's format before 1.6.
#![no_main]

#[path = "../../crates/keepstep-pt/tests/it/counting_allocator.rs"]
mod counting_allocator;
#[path = "../../crates/keepstep-pt/tests/it/fuzz_targets.rs"]
mod fuzz_targets;
#[path = "../../crates/keepstep-pt/tests/it/raw_zip.rs"]
mod raw_zip;

#[global_allocator]
static ALLOCATOR: counting_allocator::Counting = counting_allocator::Counting;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    fuzz_targets::legacy(input);
});
