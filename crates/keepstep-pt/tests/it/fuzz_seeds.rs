//! Runs the fuzz targets' functions on their seeds and on mutations of them. The functions measure the memory that reading
//! takes. `cargo xtask fuzz` starts from the same seeds.

use super::fuzz_targets::{TARGETS, Verdict, allowed_bytes, check};
use super::raw_zip::{RawEntry, archive, with_pickle};
use std::path::Path;
use std::time::{Duration, Instant};

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect("seeds").map(|entry| entry.expect("a seed").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a seed")).collect()
}

/// Steele and others' SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end.max(1) as u64) as usize
    }
}

fn mutate(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'('][random.below(6)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.below(256) as u8),
            4 if at < bytes.len() => drop(bytes.remove(at)),
            _ => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                let to = (from + random.below(64)).min(other.len());
                drop(bytes.splice(at..at, other[from..to].iter().copied()));
            }
        }
    }
    bytes
}

#[test]
fn seeds_and_mutations_of_them() {
    const MUTATIONS: usize = 30_000;
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        let accepted = seeds.iter().filter(|seed| target(seed) == Verdict::Accepted).count();
        assert!(accepted > 0 && accepted < seeds.len(), "{name}: {accepted} of {} are accepted", seeds.len());
        let mut random = Random(1);
        let all =
            (0..MUTATIONS).filter(|_| target(&mutate(&seeds, &mut random)) == Verdict::Accepted).count();
        assert!(all > 0, "{name}: no mutation is accepted");
    }
}

fn repeated(open: &[u8], count: usize, close: &[u8]) -> Vec<u8> {
    [&b"\x80\x02"[..], &open.repeat(count), &close.repeat(count), b"."].concat()
}

/// Files that try to take much memory or time.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let mut memo = b"\x80\x02](".to_vec();
    (0..200_000_u32).for_each(|at| memo.extend([&b"Nr"[..], &at.to_le_bytes()].concat()));
    memo.extend(b"e.");
    let mut doubling = b"\x80\x02]q\0".to_vec();
    (0..60_u8).for_each(|at| doubling.extend([b']', b'(', b'h', at, b'h', at, b'e', b'q', at + 1]));
    doubling.push(b'.');
    let long_text = [&b"X"[..], &1_000_000_u32.to_le_bytes(), &[b'a'; 1_000_000], b"q\0"].concat();
    let references = [&b"\x80\x02]("[..], &long_text, &b"h\0".repeat(100_000), b"e."].concat();
    let mut keys = b"\x80\x02}(".to_vec();
    for key in 0..60_000_u64 {
        keys.extend([&b"\x8a\x09"[..], &(key << 32 | 7).to_le_bytes(), b"\x01N"].concat());
    }
    keys.extend(b"u.");
    let tuples = [&b"\x80\x02}("[..], &b"(K\x01K\x02K\x03tN".repeat(50_000), b"u."].concat();
    let long1 = [&b"\x80\x02]("[..], &[&b"\x8a\xff"[..], &[0x7f; 255]].concat().repeat(4000), b"e."].concat();
    let names: Vec<RawEntry> = (0..60_000).map(|at| RawEntry::new(&format!("a/{at}"), b"")).collect();
    vec![
        ("deep lists", with_pickle(&repeated(b"](", 500_000, b"e"))),
        ("deep tuples", with_pickle(&repeated(b"(", 500_000, b"t"))),
        ("deep single tuples", with_pickle(&[&b"\x80\x02N"[..], &[0x85; 2_000_000], b"."].concat())),
        ("many marks", with_pickle(&repeated(b"(", 4_000_000, b""))),
        ("many empty lists", with_pickle(&[&b"\x80\x02]("[..], &[b']'; 1_000_000], b"e."].concat())),
        ("many empty dicts", with_pickle(&[&b"\x80\x02]("[..], &[b'}'; 30_000], b"e."].concat())),
        ("many small ints", with_pickle(&[&b"\x80\x02]("[..], &b"K\x01".repeat(1_000_000), b"e."].concat())),
        ("many persistent ids", with_pickle(&[&b"\x80\x02N"[..], &[b'Q'; 1_000_000], b"."].concat())),
        ("a large memo", with_pickle(&memo)),
        ("doubling", with_pickle(&doubling)),
        ("one text a hundred thousand times", with_pickle(&references)),
        ("long ints as keys", with_pickle(&keys)),
        ("equal tuples as keys", with_pickle(&tuples)),
        ("long ints", with_pickle(&long1)),
        ("a long int that is not there", with_pickle(b"\x80\x02\x8a\xff\x01.")),
        ("a long int of 2 GiB", with_pickle(b"\x80\x02\x8b\xff\xff\xff\x7f.")),
        ("a text of 4 GiB", with_pickle(b"\x80\x02X\xff\xff\xff\xff.")),
        ("many entries", archive(&names[..60_000])),
    ]
}

#[test]
fn bombs_take_neither_memory_nor_time() {
    for (what, bytes) in bombs() {
        let start = Instant::now();
        let verdict = check(&bytes);
        // Generous for a busy machine. Work that is not proportional to the size takes minutes.
        let allowed = Duration::from_secs(5) + Duration::from_micros(10 * bytes.len() as u64);
        let taken = start.elapsed();
        println!("{what}: {} bytes, {verdict:?}, {taken:?}", bytes.len());
        assert!(taken < allowed, "{what}: {taken:?} for {} bytes", bytes.len());
    }
}

/// A view of 4 GiB or more over few bytes is a value; a copy of it is refused.
#[test]
fn large_files_stay_within_the_bound_too() {
    let payload = vec![7_u8; 24 << 20];
    let elements = payload.len() as i64 / 4;
    for (rows, columns, row_stride, stride) in [
        (1, elements, 1, 1),
        (elements / 2, 2, 1, elements / 2),
        (elements, 3, 1, 0),
        (1 << 40, 1, 0, 1),
        (elements / 8, 1, 8, 1),
    ] {
        let pickle = tensor_pickle(elements, [rows, columns], [row_stride, stride]);
        let bytes = archive(&[
            RawEntry::new("a/data.pkl", &pickle),
            RawEntry::new("a/data/0", &payload),
            RawEntry::new("a/version", b"3\n"),
        ]);
        assert!(allowed_bytes(bytes.len()) < 4 * payload.len());
        assert_eq!(check(&bytes), Verdict::Accepted, "{rows} x {columns}");
    }
}

fn tensor_pickle(numel: i64, shape: [i64; 2], strides: [i64; 2]) -> Vec<u8> {
    let long = |value: i64| [&[0x8a, 8][..], &value.to_le_bytes()].concat();
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    [
        &b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(("[..],
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        &long(numel),
        b"tQ",
        &long(0),
        &long(shape[0]),
        &long(shape[1]),
        b"\x86",
        &long(strides[0]),
        &long(strides[1]),
        b"\x86\x89NtR.",
    ]
    .concat()
}
