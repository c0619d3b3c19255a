//! Replays the seeds of the fuzz targets, and mutations of them, through the targets' own functions.

mod counting_allocator;
mod fuzz_targets;
mod raw_zip;

#[global_allocator]
static ALLOCATOR: counting_allocator::Counting = counting_allocator::Counting;

#[test]
fn seeds() {
    for (name, target) in fuzz_targets::TARGETS {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(name);
        for entry in std::fs::read_dir(folder).expect("seeds") {
            let path = entry.expect("a seed").path();
            println!("{}: {:?}", path.display(), target(&std::fs::read(&path).expect("a seed")));
        }
    }
}
