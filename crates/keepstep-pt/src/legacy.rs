//! PyTorch's format before version 1.6: four pickles, the list of storage keys, and then each storage's bytes.
//!
//! | Part | Content |
//! |---|---|
//! | pickle | the magic number |
//! | pickle | the version of the format, 1001 |
//! | pickle | a dict that describes the machine that wrote the file |
//! | pickle | the values; tensors refer to storages by key |
//! | pickle | the list of keys |
//! | for each key | the number of elements (8 bytes), then the elements, little-endian |
//!
//! The format has no checksums: damaged numbers cannot be noticed. It is therefore read for weights only, by callers
//! that ask for it; [`File`](crate::File) refuses it.

use crate::budget::Budget;
use crate::bytes::Bytes;
use crate::error::{Flaw, corrupt, unsupported};
use crate::opcode::end_of_pickle;
use crate::pickle_reader::{Graph, Node};
use crate::rebuild::{Format, StorageId};
use crate::storage::Content;
use crate::{ReadAt, ReadError, Value, open_regular, pickle_reader, rebuild};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// 0x1950a86a20f9469cfc6c, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The one version that was ever written.
const VERSION: i64 = 1001;

/// What a key of the map takes, in bytes.
const ENTRY_BYTES: usize = 160;

/// Whether a file begins like one of the legacy format.
pub(crate) fn begins_legacy(start: &[u8]) -> bool {
    start.starts_with(&[0x80, 2, 0x8a, 10])
}

/// An open file of PyTorch's legacy format. The values are parsed; tensors are read from the file when they are asked for.
#[derive(Debug)]
pub struct LegacyFile {
    bytes: Bytes,
    value: Value,
}

impl LegacyFile {
    /// Whether the file is of the legacy format, judged by its first bytes.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn is_legacy(path: impl AsRef<Path>) -> Result<bool, ReadError> {
        let path = path.as_ref();
        let start = || {
            let file = open_regular(path)?;
            let mut start = [0; 4];
            if file.len_bytes()? >= 4 {
                ReadAt::read_exact_at(&file, &mut start, 0)?;
            }
            Ok(start)
        };
        start().map(|start| begins_legacy(&start)).map_err(|error| ReadError::io(path, error))
    }

    /// Opens a file and parses everything but the tensors' bytes.
    ///
    /// # Errors
    /// See [`ReadError`]. Memory stays below twice the file's size plus 16 MB whatever the file says.
    pub fn open(path: impl AsRef<Path>) -> Result<LegacyFile, ReadError> {
        let path = path.as_ref();
        let file = open_regular(path).map_err(|error| ReadError::io(path, error))?;
        LegacyFile::from_source(path, Arc::new(file))
    }

    /// Like [`LegacyFile::open`], from any source. The path is what errors call it.
    ///
    /// # Errors
    /// Those of [`LegacyFile::open`].
    pub fn from_source(path: impl AsRef<Path>, source: Arc<dyn ReadAt>) -> Result<LegacyFile, ReadError> {
        let path = path.as_ref();
        let open = || {
            let len = source.len_bytes()?;
            let bytes = Bytes::new(source, path, len);
            let value = read(&bytes)?;
            Ok(LegacyFile { bytes, value })
        };
        open().map_err(|flaw: Flaw| flaw.at(path))
    }

    /// The root.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The path.
    pub fn path(&self) -> &Path {
        self.bytes.path()
    }
}

fn read(bytes: &Bytes) -> Result<Value, Flaw> {
    let mut budget = Budget::for_file(bytes.len);
    let before = budget.left();
    let mut at = 0;
    let magic = take_pickle(bytes, &mut at, &mut budget)?;
    if !matches!(root(&pickle_reader::parse(&magic, &mut budget)?), Node::BigInt(number) if **number == MAGIC)
    {
        return unsupported("it is a plain pickle, not a file of torch.save");
    }
    let version = take_pickle(bytes, &mut at, &mut budget)?;
    if !matches!(root(&pickle_reader::parse(&version, &mut budget)?), Node::Int(VERSION)) {
        return unsupported("it is in PyTorch's legacy format, of a version that is not known");
    }
    let machine = take_pickle(bytes, &mut at, &mut budget)?;
    check_machine(&pickle_reader::parse(&machine, &mut budget)?)?;
    let values = take_pickle(bytes, &mut at, &mut budget)?;
    let graph = pickle_reader::parse(&values, &mut budget)?;
    let keys = take_pickle(bytes, &mut at, &mut budget)?;
    let keys = pickle_reader::parse(&keys, &mut budget)?;
    let storages = find_storages(bytes, at, &graph, &keys, &mut budget)?;
    let for_parsing = before - budget.left();
    let find = |key: &str| storages.get(key).cloned().map(Content::Range);
    let value = rebuild::rebuild(&graph, Format::Legacy, &find, &mut budget)?;
    budget.give_back(for_parsing as usize);
    bytes.set_spare_bytes(budget.left());
    Ok(value)
}

/// The pickle at `at`, which moves behind it.
fn take_pickle(bytes: &Bytes, at: &mut u64, budget: &mut Budget) -> Result<Vec<u8>, Flaw> {
    let len = end_of_pickle(bytes, *at)? - *at;
    budget.take(usize::try_from(len).unwrap_or(usize::MAX))?;
    let mut pickle = vec![0; len as usize];
    bytes.read_exact_at(&mut pickle, *at)?;
    *at += len;
    Ok(pickle)
}

fn root<'g, 'a>(graph: &'g Graph<'a>) -> &'g Node<'a> {
    &graph.nodes[graph.root as usize]
}

fn check_machine(graph: &Graph<'_>) -> Result<(), Flaw> {
    let Node::Dict(items) = root(graph) else {
        return corrupt("its description of the machine is not a dict");
    };
    let is_order = |key: u32| matches!(graph.nodes[key as usize], Node::Str("little_endian"));
    let order =
        items.chunks_exact(2).find(|pair| is_order(pair[0])).map(|pair| &graph.nodes[pair[1] as usize]);
    match order {
        Some(Node::Bool(true)) => Ok(()),
        Some(Node::Bool(false)) => {
            unsupported("its byte order is not little-endian; save it again on a little-endian machine")
        }
        _ => corrupt("it does not state its byte order"),
    }
}

/// Where each storage lies. The list of keys, the sizes that tensors state, the counts in front of the elements and the
/// end of the file must all agree.
fn find_storages<'a>(
    bytes: &Bytes,
    mut at: u64,
    graph: &'a Graph<'_>,
    keys: &Graph<'_>,
    budget: &mut Budget,
) -> Result<BTreeMap<&'a str, Bytes>, Flaw> {
    // Number of elements and bytes per element.
    let mut stated: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for node in &graph.nodes {
        let Node::Persistent(id) = *node else { continue };
        let storage = StorageId::read(graph, id, Format::Legacy)?;
        let Ok(len) = u64::try_from(storage.len) else {
            return corrupt(format!("the storage `{}` has a negative size", storage.key));
        };
        let size = (len, storage.unit()?);
        if !stated.contains_key(storage.key) {
            budget.take(ENTRY_BYTES)?;
        }
        if stated.insert(storage.key, size).is_some_and(|before| before != size) {
            return corrupt(format!("the storage `{}` is stated with two sizes", storage.key));
        }
    }
    let Node::List(keys_listed) = root(keys) else { return corrupt("its list of storages is not a list") };
    let mut storages = BTreeMap::new();
    for &key in keys_listed.iter() {
        let Node::Str(key) = keys.nodes[key as usize] else {
            return corrupt("the key of a storage is not a string");
        };
        let Some((&key, &(len, unit))) = stated.get_key_value(key) else {
            return corrupt(format!("it has a storage `{key}` that no tensor uses"));
        };
        let mut count = [0; 8];
        bytes.read_exact_at(&mut count, at)?;
        let len_bytes = len.checked_mul(unit);
        let end = len_bytes.and_then(|len_bytes| at.checked_add(8)?.checked_add(len_bytes));
        let (Some(len_bytes), Some(end)) = (len_bytes, end.filter(|&end| end <= bytes.len)) else {
            return corrupt(format!("the storage `{key}` reaches beyond the end of the file"));
        };
        if u64::from_le_bytes(count) != len {
            return corrupt(format!(
                "the storage `{key}` has {} elements, but its tensors expect {len}",
                u64::from_le_bytes(count)
            ));
        }
        budget.take(ENTRY_BYTES)?;
        if storages.insert(key, bytes.part(at + 8, len_bytes)).is_some() {
            return corrupt(format!("it has the storage `{key}` twice"));
        }
        at = end;
    }
    if at != bytes.len {
        return corrupt("there is something after its last storage");
    }
    Ok(storages)
}
