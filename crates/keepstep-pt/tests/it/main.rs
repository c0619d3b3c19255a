//! The reader and the writer as other crates use them. The fuzz targets in `fuzz/` include three of these files.

mod counting_allocator;
mod differential;
mod fuzz_seeds;
mod fuzz_targets;
mod hostile_input;
mod legacy;
mod raw_zip;
mod round_trip;
mod torch;

#[global_allocator]
static ALLOCATOR: counting_allocator::Counting = counting_allocator::Counting;
