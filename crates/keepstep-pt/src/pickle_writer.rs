//! Pickles values as Python's C pickler does for `torch.save`.
//!
//! Equal strings are written once and then referred to, as Python does for the strings that it interns (names and keys
//! of a program's text). Lists and dicts are values here and are written anew each time; clones of a tensor are one
//! object.

use crate::opcode::*;
use crate::value::shortest_int;
use crate::{Dict, Storage, Tensor, Value};
use std::collections::BTreeMap;

/// The most items between a mark and the opcode that takes them.
const BATCH: usize = 1000;

/// A pickle and the storages that it refers to, in the order of their keys.
pub(crate) struct Pickle {
    pub(crate) bytes: Vec<u8>,
    pub(crate) storages: Vec<Storage>,
}

/// A value that was written and can be referred to.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Memo {
    Str(String),
    Global(&'static str, String),
    StorageKey(usize),
    Tensor(usize),
}

pub(crate) fn pickle(value: &Value) -> Pickle {
    let mut writer = Writer {
        out: vec![PROTO, 2],
        memo: BTreeMap::new(),
        next: 0,
        storages: Vec::new(),
        keys: BTreeMap::new(),
        tensors: Vec::new(),
    };
    writer.value(value);
    writer.out.push(STOP);
    Pickle { bytes: writer.out, storages: writer.storages }
}

struct Writer {
    out: Vec<u8>,
    memo: BTreeMap<Memo, u32>,
    next: u32,
    storages: Vec<Storage>,
    /// The index of each storage, by identity.
    keys: BTreeMap<usize, usize>,
    /// Every tensor in the memo, which knows them by address: a tensor that is kept alive keeps its address.
    tensors: Vec<Tensor>,
}

impl Writer {
    fn value(&mut self, value: &Value) {
        match value {
            Value::None => self.out.push(NONE),
            Value::Bool(value) => self.out.push(if *value { NEWTRUE } else { NEWFALSE }),
            Value::Int(value) => self.int(*value),
            Value::BigInt(bytes) => self.long(bytes),
            Value::Float(value) => {
                self.out.push(BINFLOAT);
                self.out.extend(value.to_be_bytes());
            }
            Value::Str(text) => self.string(text),
            Value::List(items) => {
                self.out.push(EMPTY_LIST);
                self.put();
                self.list_items(items);
            }
            Value::Tuple(items) => {
                if items.len() > 3 {
                    self.out.push(MARK);
                }
                items.iter().for_each(|item| self.value(item));
                self.tuple(items.len());
            }
            Value::Dict(dict) => {
                self.out.push(EMPTY_DICT);
                self.put();
                self.dict_items(dict);
            }
            Value::OrderedDict(dict) => {
                self.ordered_dict();
                self.ordered_dict_items(dict);
            }
            Value::Tensor(tensor) => self.tensor(tensor),
            // Kinds that can only be read become the nearest plain value.
            Value::Bytes(bytes) => self.tensor(&Tensor::from_slice(bytes, vec![bytes.len()])),
            Value::Global(name) => self.string(name),
            Value::Object { arguments, .. } => self.value(&Value::Tuple(arguments.clone())),
        }
    }

    fn int(&mut self, value: i64) {
        if let Ok(byte) = u8::try_from(value) {
            self.out.extend([BININT1, byte]);
        } else if let Ok(short) = u16::try_from(value) {
            self.out.push(BININT2);
            self.out.extend(short.to_le_bytes());
        } else if let Ok(int) = i32::try_from(value) {
            self.out.push(BININT);
            self.out.extend(int.to_le_bytes());
        } else {
            self.long(&value.to_le_bytes());
        }
    }

    /// Writes two's complement without bytes that only repeat the sign.
    fn long(&mut self, bytes: &[u8]) {
        let mut bytes = shortest_int(bytes);
        if bytes == [0] {
            bytes = &[];
        }
        // This crate's reader gives no longer ones.
        let bytes = &bytes[..bytes.len().min(255)];
        self.out.extend([LONG1, bytes.len() as u8]);
        self.out.extend(bytes);
    }

    fn string(&mut self, text: &str) {
        self.once(Memo::Str(text.to_owned()), |writer| writer.unicode(text));
    }

    fn unicode(&mut self, text: &str) {
        self.out.push(BINUNICODE);
        self.out.extend((text.len() as u32).to_le_bytes());
        self.out.extend(text.as_bytes());
    }

    fn global(&mut self, module: &'static str, name: &str) {
        self.once(Memo::Global(module, name.to_owned()), |writer| {
            writer.out.push(GLOBAL);
            writer.out.extend(format!("{module}\n{name}\n").bytes());
        });
    }

    /// Writes something and remembers it, or refers to it.
    fn once(&mut self, memo: Memo, write: impl FnOnce(&mut Writer)) {
        if let Some(&at) = self.memo.get(&memo) {
            match u8::try_from(at) {
                Ok(byte) => self.out.extend([BINGET, byte]),
                Err(_) => {
                    self.out.push(LONG_BINGET);
                    self.out.extend(at.to_le_bytes());
                }
            }
            return;
        }
        write(self);
        let at = self.put();
        self.memo.insert(memo, at);
    }

    fn put(&mut self) -> u32 {
        let at = self.next;
        self.next += 1;
        match u8::try_from(at) {
            Ok(byte) => self.out.extend([BINPUT, byte]),
            Err(_) => {
                self.out.push(LONG_BINPUT);
                self.out.extend(at.to_le_bytes());
            }
        }
        at
    }

    /// Closes a tuple whose items are written; longer ones began with a mark.
    fn tuple(&mut self, len: usize) {
        match len {
            0 => {
                self.out.push(EMPTY_TUPLE);
                return;
            }
            1 => self.out.push(TUPLE1),
            2 => self.out.push(TUPLE2),
            3 => self.out.push(TUPLE3),
            _ => self.out.push(TUPLE),
        }
        self.put();
    }

    fn list_items(&mut self, items: &[Value]) {
        if let [item] = items {
            self.value(item);
            self.out.push(APPEND);
            return;
        }
        for batch in items.chunks(BATCH) {
            self.out.push(MARK);
            batch.iter().for_each(|item| self.value(item));
            self.out.push(APPENDS);
        }
    }

    fn pair(&mut self, (key, value): (&Value, &Value)) {
        self.value(key);
        self.value(value);
    }

    /// Follows CPython's `batch_dict_exact`, which ends with an empty batch if the last one is full.
    fn dict_items(&mut self, dict: &Dict) {
        if dict.len() <= 1 {
            for entry in dict.iter() {
                self.pair(entry);
                self.out.push(SETITEM);
            }
            return;
        }
        let mut entries = dict.iter();
        loop {
            self.out.push(MARK);
            let mut count = 0;
            for entry in entries.by_ref().take(BATCH) {
                self.pair(entry);
                count += 1;
            }
            self.out.push(SETITEMS);
            if count < BATCH {
                return;
            }
        }
    }

    /// Follows CPython's `batch_dict`, which works from an iterator.
    fn ordered_dict_items(&mut self, dict: &Dict) {
        let entries: Vec<_> = dict.iter().collect();
        for batch in entries.chunks(BATCH) {
            if let [entry] = batch {
                self.pair(*entry);
                self.out.push(SETITEM);
            } else {
                self.out.push(MARK);
                batch.iter().for_each(|entry| self.pair(*entry));
                self.out.push(SETITEMS);
            }
        }
    }

    fn ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.out.extend([EMPTY_TUPLE, REDUCE]);
        self.put();
    }

    fn tensor(&mut self, tensor: &Tensor) {
        self.once(Memo::Tensor(tensor.identity()), |writer| {
            let dtype = tensor.dtype();
            let untyped = dtype.storage_name().is_none();
            writer.global("torch._utils", if untyped { "_rebuild_tensor_v3" } else { "_rebuild_tensor_v2" });
            writer.out.push(MARK);
            writer.storage(tensor.storage());
            writer.int(i64::try_from(tensor.offset()).unwrap_or(i64::MAX));
            writer.sizes(tensor.shape());
            writer.sizes(tensor.strides());
            writer.out.push(NEWFALSE);
            writer.ordered_dict();
            if untyped {
                writer.global("torch", dtype.name());
            }
            writer.tuple(usize::MAX);
            writer.out.push(REDUCE);
            writer.tensors.push(tensor.clone());
        });
    }

    fn sizes(&mut self, sizes: &[usize]) {
        let sizes = sizes.iter().map(|&size| Value::Int(i64::try_from(size).unwrap_or(i64::MAX))).collect();
        self.value(&Value::Tuple(sizes));
    }

    fn storage(&mut self, storage: &Storage) {
        let index = *self.keys.entry(storage.identity()).or_insert_with(|| {
            self.storages.push(storage.clone());
            self.storages.len() - 1
        });
        self.out.push(MARK);
        self.string("storage");
        let (module, name, len) = match storage.dtype().storage_name() {
            Some(name) => ("torch", name, storage.len()),
            None => ("torch.storage", "UntypedStorage", storage.byte_len()),
        };
        self.global(module, name);
        self.once(Memo::StorageKey(index), |writer| writer.unicode(&index.to_string()));
        self.string("cpu");
        self.int(i64::try_from(len).unwrap_or(i64::MAX));
        self.tuple(usize::MAX);
        self.out.push(BINPERSID);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ints_take_as_few_bytes_as_python_gives_them() {
        let bytes = |value: i64| pickle(&Value::Int(value)).bytes;
        assert_eq!(bytes(255), [PROTO, 2, BININT1, 255, STOP]);
        assert_eq!(bytes(256), [PROTO, 2, BININT2, 0, 1, STOP]);
        assert_eq!(bytes(-1), [PROTO, 2, BININT, 255, 255, 255, 255, STOP]);
        assert_eq!(bytes(1 << 31), [PROTO, 2, LONG1, 5, 0, 0, 0, 128, 0, STOP]);
        assert_eq!(bytes(-(1 << 31) - 1), [PROTO, 2, LONG1, 5, 255, 255, 255, 127, 255, STOP]);
    }
}
