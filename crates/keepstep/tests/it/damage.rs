//! A checkpoint that decays on the disk: every bit, every length, and many places of a large one.

use crate::support::random::Random;
use crate::support::{archive, bytes, checkpoint, name};
use keepstep::checkpoint::Checkpoint;
use keepstep::run::{Policy, RunBuilder};
use keepstep::store::{Candidates, Newest, find};
use keepstep::testing::{Memory, Tree};
use keepstep_pt::{ReadError, Value};
use std::path::Path;
use std::sync::Arc;

const FOLDER: &str = "/run";

/// A folder with the whole checkpoint 1 and this content in the place of checkpoint 2.
fn folder_with(content: Vec<u8>, older: &Arc<Vec<u8>>) -> Memory {
    let folder = Path::new(FOLDER);
    Memory::new(Tree {
        folders: [Path::new("/").to_path_buf(), folder.to_path_buf()].into(),
        names: [(folder.join(name(1)), 1), (folder.join(name(2)), 2)].into(),
        contents: [(1, Arc::clone(older)), (2, Arc::new(content))].into(),
    })
}

fn find_beside(content: Vec<u8>, older: &Arc<Vec<u8>>) -> Newest {
    let candidates = Candidates::new(Path::new(FOLDER));
    find(&folder_with(content, older), &candidates).expect("the older is whole").expect("there are two")
}

/// The global step of the checkpoint that a run continues from if it verifies the tensors while it loads them.
fn step_found_while_loading(content: Vec<u8>, older: &Arc<Vec<u8>>) -> u64 {
    let storage = Arc::new(folder_with(content, older));
    let opened = RunBuilder::open_to_verify_later(Path::new(FOLDER), Policy::default(), storage);
    let mut builder = opened.expect("the older is whole");
    loop {
        let checkpoint = builder.checkpoint().expect("there are two");
        let step = checkpoint.position.global_step;
        let parts = checkpoint.state.iter().map(|(_, value)| read_tensors(value));
        let loaded = parts.collect::<Result<Vec<()>, ReadError>>().map(drop);
        match loaded.and_then(|()| builder.verify_rest()) {
            Ok(()) => return step,
            Err(error) => builder = builder.without_damaged(&error).expect("the older is whole"),
        }
    }
}

fn read_tensors(value: &Value) -> Result<(), ReadError> {
    match value {
        Value::Tensor(tensor) => tensor.to_bytes().map(drop),
        Value::Dict(dict) | Value::OrderedDict(dict) => {
            dict.iter().try_for_each(|(_, value)| read_tensors(value))
        }
        _ => Ok(()),
    }
}

/// Whether the damage was noticed. Noticed, the older one is found and the reason is said; unnoticed, nothing that is
/// loaded has changed.
fn is_noticed(found: &Newest, whole: &Value, damage: &str) -> bool {
    let step = found.checkpoint.position.global_step;
    if step == 2 {
        assert!(found.skipped.is_empty(), "{damage}");
        assert!(found.checkpoint.to_value() == *whole, "{damage} changes what is loaded, unnoticed");
        return false;
    }
    assert_eq!(step, 1, "{damage}");
    let [skipped] = &found.skipped[..] else { panic!("{damage}: {:?}", found.skipped) };
    assert!(skipped.path.ends_with(name(2)), "{damage}: {skipped:?}");
    assert!(skipped.reason.len() > 20 && !skipped.reason.contains(&name(2)), "{damage}: {skipped:?}");
    true
}

fn newest(num_elements: usize) -> (Checkpoint, Vec<u8>, Arc<Vec<u8>>) {
    let older = Arc::new(bytes(&archive(1, 1, 16)));
    (checkpoint(2, 1, num_elements), bytes(&archive(2, 1, num_elements)), older)
}

#[test]
fn every_bit_flipped() {
    let (checkpoint, content, older) = newest(16);
    let whole = checkpoint.to_value();
    let mut noticed = 0;
    for bit in 0..content.len() * 8 {
        let mut damaged = content.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let found = find_beside(damaged.clone(), &older);
        noticed += usize::from(is_noticed(&found, &whole, &format!("bit {bit}")));
        let step = step_found_while_loading(damaged, &older);
        assert_eq!(step, found.checkpoint.position.global_step, "bit {bit}, verified while loading");
    }
    let all = content.len() * 8;
    println!("{noticed} of {all} flipped bits are noticed, and the others change nothing that is loaded");
    assert!(noticed * 2 > all, "{noticed} of {all}");
}

#[test]
fn every_truncation() {
    let (checkpoint, content, older) = newest(16);
    let whole = checkpoint.to_value();
    for len in 0..content.len() {
        let found = find_beside(content[..len].to_vec(), &older);
        assert!(is_noticed(&found, &whole, &format!("the first {len} bytes")));
    }
    // Zeros, as where the size reached the disk and the data did not.
    for len in 0..content.len() - 1 {
        let mut damaged = content[..len].to_vec();
        damaged.resize(content.len(), 0);
        let is_changed = damaged != content;
        let found = find_beside(damaged, &older);
        assert!(is_noticed(&found, &whole, &format!("the first {len} bytes, then zeros")) || !is_changed);
    }
}

#[test]
fn random_bits_of_a_large_one() {
    const FLIPS: usize = 200;
    let (checkpoint, content, older) = newest(4 << 20);
    let whole = checkpoint.to_value();
    let mut random = Random::new(1);
    for _ in 0..FLIPS {
        let bit = random.below(content.len() as u64 * 8) as usize;
        let mut damaged = content.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        // All but a few kilobytes of it are the tensor's, where every bit counts.
        assert!(is_noticed(&find_beside(damaged, &older), &whole, &format!("bit {bit}")));
    }
}
