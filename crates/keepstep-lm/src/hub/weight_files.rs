//! Finds and reads the files of a model's weights: one file or several shards, in safetensors or PyTorch's format.

use crate::hub::HubError;
#[cfg(feature = "hub")]
use crate::hub::tensors::Source;
use crate::hub::tensors::{Named, from_dict};
use keepstep_pt::{File, LegacyFile, Value};
#[cfg(feature = "hub")]
use memmap2::Mmap;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

/// File names in order of preference. The first that exists is used. An index lists shards.
const NAMES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// The first bytes of a Git LFS pointer.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Finds the weight files of a folder, sorted by name.
///
/// # Errors
/// Fails if the folder has no weights, or if an index cannot be read.
pub(crate) fn find(folder: &Path) -> Result<Vec<PathBuf>, HubError> {
    let content = |path: &Path, message: String| HubError::Content { path: path.to_path_buf(), message };
    let Some(found) = NAMES.iter().map(|name| folder.join(name)).find(|file| file.exists()) else {
        let message = format!("the folder has none of {}", NAMES.join(", "));
        return Err(content(folder, message));
    };
    if found.extension().is_none_or(|extension| extension != "json") {
        return Ok(vec![found]);
    }
    let json: serde_json::Value = serde_json::from_str(&read_text(&found)?)
        .map_err(|error| content(&found, format!("it is not JSON: {error}")))?;
    let map = json.get("weight_map").and_then(serde_json::Value::as_object);
    let names: Option<BTreeSet<&str>> = map.and_then(|map| map.values().map(|name| name.as_str()).collect());
    let names =
        names.filter(|names| !names.is_empty() && names.iter().all(|name| !name.contains(['/', '\\'])));
    let names = names.ok_or_else(|| content(&found, "its `weight_map` does not name files".to_owned()))?;
    let missing: Vec<&str> = names.iter().copied().filter(|name| !folder.join(name).exists()).collect();
    if !missing.is_empty() {
        return Err(content(&found, format!("it names files that do not exist: {}", missing.join(", "))));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Hashes the contents of the files. For a single file, the result is its SHA-256.
pub(crate) fn fingerprint(files: &[PathBuf]) -> Result<String, HubError> {
    let hashes: Vec<[u8; 32]> = files.iter().map(|file| hash(file)).collect::<Result<_, _>>()?;
    let hash = match hashes.as_slice() {
        [one] => *one,
        several => {
            let mut hash = Sha256::new();
            hash.update("keepstep shards");
            several.iter().for_each(|one| hash.update(one));
            hash.finalize().into()
        }
    };
    Ok(keepstep::hex(&hash))
}

/// The open files. Their tensors borrow from them.
pub(crate) struct Opened {
    files: Vec<Content>,
}

enum Content {
    #[cfg(feature = "hub")]
    Safetensors(PathBuf, Mmap),
    Pt(File),
    Legacy(LegacyFile),
}

impl Opened {
    /// Opens the files, and runs the checks that their formats allow.
    pub(crate) fn open(files: &[PathBuf]) -> Result<Opened, HubError> {
        let open = |path: &PathBuf| {
            refuse_lfs_pointer(path)?;
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                return safetensors_file(path);
            }
            if LegacyFile::is_legacy(path)? {
                return Ok(Content::Legacy(LegacyFile::open(path)?));
            }
            let file = File::open(path)?;
            file.verify()?;
            Ok(Content::Pt(file))
        };
        Ok(Opened { files: files.iter().map(open).collect::<Result<_, HubError>>()? })
    }

    /// Lists the tensors of all files.
    pub(crate) fn tensors(&self) -> Result<Vec<Named<'_>>, HubError> {
        let mut tensors = Vec::new();
        for file in &self.files {
            match file {
                #[cfg(feature = "hub")]
                Content::Safetensors(path, map) => {
                    let content = |message: String| HubError::Content { path: path.clone(), message };
                    let parsed = safetensors::SafeTensors::deserialize(map)
                        .map_err(|error| content(format!("it is not a safetensors file: {error}")))?;
                    tensors.extend(parsed.iter().map(|(name, view)| Named {
                        name: name.to_owned(),
                        shape: view.shape().to_vec(),
                        source: Source::Safetensors(view.data(), view.dtype()),
                    }));
                }
                Content::Pt(file) => tensors.extend(from_root(file.path(), file.value())?),
                Content::Legacy(file) => tensors.extend(from_root(file.path(), file.value())?),
            }
        }
        Ok(tensors)
    }
}

/// The tensors of a state dict, or of the one that a checkpoint holds.
fn from_root<'a>(path: &Path, root: &'a Value) -> Result<Vec<Named<'a>>, HubError> {
    let root = root.as_dict().ok_or_else(|| HubError::Content {
        path: path.to_path_buf(),
        message: "it does not hold a dict of tensors".to_owned(),
    })?;
    let nested = ["model_state_dict", "model", "state_dict"].iter().find_map(|key| root.get(key)?.as_dict());
    Ok(from_dict(nested.unwrap_or(root)))
}

/// Opens a safetensors file.
#[cfg(feature = "hub")]
fn safetensors_file(path: &Path) -> Result<Content, HubError> {
    let unreadable = |source| HubError::File { path: path.to_path_buf(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    // SAFETY: the mapping is only read, and only as bytes or numbers, for which any bit pattern is valid. If another
    // process changes the file, the values change and nothing else.
    let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
    Ok(Content::Safetensors(path.to_path_buf(), map))
}

#[cfg(not(feature = "hub"))]
fn safetensors_file(path: &Path) -> Result<Content, HubError> {
    let message =
        "this keepstep was built without the feature `hub`, and cannot read safetensors files".to_owned();
    Err(HubError::Content { path: path.to_path_buf(), message })
}

/// Reads a text file, and refuses Git LFS pointers with a clear message.
pub(crate) fn read_text(path: &Path) -> Result<String, HubError> {
    refuse_lfs_pointer(path)?;
    std::fs::read_to_string(path).map_err(|source| HubError::File { path: path.to_path_buf(), source })
}

/// Refuses a file that is a Git LFS pointer instead of the content.
pub(crate) fn refuse_lfs_pointer(path: &Path) -> Result<(), HubError> {
    let unreadable = |source| HubError::File { path: path.to_path_buf(), source };
    let mut start = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(LFS_POINTER.len() as u64).read_to_end(&mut start).map_err(unreadable)?;
    if start == LFS_POINTER { Err(HubError::LfsPointer { path: path.to_path_buf() }) } else { Ok(()) }
}

fn hash(path: &Path) -> Result<[u8; 32], HubError> {
    refuse_lfs_pointer(path)?;
    let unreadable = |source| HubError::File { path: path.to_path_buf(), source };
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(len) => hash.update(&buffer[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
}
