//! Makes values of what a pickle built: the few constructors that PyTorch's files use, by name.

use crate::budget::Budget;
use crate::error::{Flaw, corrupt, unsupported};
use crate::file::Bytes;
use crate::pickle_reader::{Graph, Id, Node};
use crate::{Dict, Dtype, Storage, Tensor, Value};
use std::collections::BTreeMap;

/// Deeper nesting than any real file has; it also ends the walk where a value contains itself.
const DEEPEST: usize = 200;

/// Finds the bytes of a storage's entry.
pub(crate) type FindEntry<'a> = dyn Fn(&str) -> Option<Bytes> + 'a;

pub(crate) fn rebuild(graph: &Graph, find: &FindEntry<'_>, budget: &mut Budget) -> Result<Value, Flaw> {
    Builder { graph, find, budget, storages: BTreeMap::new(), tensors: BTreeMap::new() }.value(graph.root, 0)
}

struct Builder<'a> {
    graph: &'a Graph,
    find: &'a FindEntry<'a>,
    budget: &'a mut Budget,
    storages: BTreeMap<(String, Dtype), Storage>,
    tensors: BTreeMap<Id, Tensor>,
}

impl<'a> Builder<'a> {
    fn node(&self, id: Id) -> &'a Node {
        &self.graph.nodes[id as usize]
    }

    fn value(&mut self, id: Id, depth: usize) -> Result<Value, Flaw> {
        if depth > DEEPEST {
            return unsupported(format!(
                "its values are nested more than {DEEPEST} deep, or contain themselves"
            ));
        }
        // Twice: the vector that a value goes into grows by doubling.
        self.budget.take(2 * size_of::<Value>())?;
        Ok(match self.node(id) {
            Node::None => Value::None,
            Node::Bool(value) => Value::Bool(*value),
            Node::Int(value) => Value::Int(*value),
            Node::BigInt(bytes) => Value::BigInt(bytes.clone()),
            Node::Float(value) => Value::Float(*value),
            Node::Str(text) => {
                self.budget.take(text.len())?;
                Value::Str(text.clone())
            }
            Node::Bytes(bytes) => {
                self.budget.take(bytes.len())?;
                Value::Bytes(bytes.clone())
            }
            Node::Global(name) => self.global(name)?,
            Node::List(items) => Value::List(self.values(items, depth)?),
            Node::Tuple(items) => Value::Tuple(self.values(items, depth)?),
            Node::Dict(items) => Value::Dict(self.dict(items, depth)?),
            Node::Call { callable, arguments, items } => {
                self.call(id, *callable, *arguments, items, depth)?
            }
            Node::Persistent(_) => {
                return unsupported("it holds a storage outside a tensor, which is not read");
            }
        })
    }

    fn values(&mut self, ids: &[Id], depth: usize) -> Result<Vec<Value>, Flaw> {
        ids.iter().map(|&id| self.value(id, depth + 1)).collect()
    }

    fn dict(&mut self, items: &[Id], depth: usize) -> Result<Dict, Flaw> {
        let mut dict = Dict::new();
        for pair in items.chunks_exact(2) {
            let key = self.value(pair[0], depth + 1)?;
            if matches!(key, Value::List(_) | Value::Dict(_) | Value::OrderedDict(_)) {
                return corrupt("a dict has a key that cannot be one");
            }
            self.budget.take(48)?;
            dict.insert(key, self.value(pair[1], depth + 1)?);
        }
        Ok(dict)
    }

    fn global(&self, name: &str) -> Result<Value, Flaw> {
        match name.strip_prefix("torch.") {
            Some(dtype) if Dtype::by_name(dtype).is_some() => Ok(Value::Global(name.to_owned())),
            _ => {
                unsupported(format!("it names `{name}`, which is more than data; only plain values are read"))
            }
        }
    }

    fn call(
        &mut self,
        id: Id,
        callable: Id,
        arguments: Id,
        items: &[Id],
        depth: usize,
    ) -> Result<Value, Flaw> {
        let Node::Global(name) = self.node(callable) else {
            return corrupt("the pickle calls something that is no name");
        };
        let Node::Tuple(arguments) = self.node(arguments) else {
            return corrupt(format!("`{name}` is called with something that is no tuple"));
        };
        if !items.is_empty() && !matches!(name.as_str(), "collections.OrderedDict" | "collections.Counter") {
            return corrupt(format!("items are set on what `{name}` makes"));
        }
        match (name.as_str(), arguments.as_slice()) {
            ("collections.OrderedDict", []) => Ok(Value::OrderedDict(self.dict(items, depth)?)),
            ("collections.OrderedDict", [pairs]) => self.ordered_pairs(*pairs, items, depth),
            ("collections.Counter", [] | [_]) => {
                let mut all = Dict::new();
                if let [counts] = arguments.as_slice()
                    && let Value::Dict(dict) = self.value(*counts, depth + 1)?
                {
                    all = dict;
                }
                for (key, value) in self.dict(items, depth)?.iter() {
                    all.insert(key.clone(), value.clone());
                }
                Ok(Value::Dict(all))
            }
            ("torch._utils._rebuild_tensor_v2", [storage, offset, shape, strides, _, _])
            | ("torch._utils._rebuild_tensor_v2", [storage, offset, shape, strides, _, _, _]) => {
                self.tensor(id, None, [*storage, *offset, *shape, *strides])
            }
            ("torch._utils._rebuild_tensor_v3", [storage, offset, shape, strides, _, _, dtype, ..]) => {
                let Node::Global(dtype) = self.node(*dtype) else {
                    return corrupt("a tensor's dtype is no name");
                };
                let Some(dtype) = dtype.strip_prefix("torch.").and_then(Dtype::by_name) else {
                    return unsupported(format!("it holds a tensor of `{dtype}`, which is not read"));
                };
                self.tensor(id, Some(dtype), [*storage, *offset, *shape, *strides])
            }
            ("torch._utils._rebuild_parameter", [data, ..])
            | ("torch._utils._rebuild_parameter_with_state", [data, ..])
            | ("torch._tensor._rebuild_from_type_v2", [_, _, data, ..]) => self.value(*data, depth + 1),
            ("_codecs.encode", [text, encoding]) => match (self.node(*text), self.node(*encoding)) {
                (Node::Str(text), Node::Str(encoding)) if encoding == "latin1" => latin1(text),
                _ => corrupt("bytes are encoded in an unknown way"),
            },
            ("__builtin__.bytes" | "builtins.bytes" | "__builtin__.bytearray" | "builtins.bytearray", []) => {
                Ok(Value::Bytes(Vec::new()))
            }
            ("__builtin__.bytearray" | "builtins.bytearray", [bytes, ..]) => {
                match self.value(*bytes, depth + 1)? {
                    Value::Bytes(bytes) => Ok(Value::Bytes(bytes)),
                    _ => corrupt("a bytearray is made of something else than bytes"),
                }
            }
            ("torch.Size", [sizes]) => match self.value(*sizes, depth + 1)? {
                Value::Tuple(sizes) => Ok(Value::Tuple(sizes)),
                _ => corrupt("a size is made of something else than a tuple"),
            },
            (
                "torch.device"
                | "__builtin__.complex"
                | "builtins.complex"
                | "__builtin__.set"
                | "builtins.set"
                | "torch.serialization._get_layout",
                _,
            ) => Ok(Value::Object { name: name.clone(), arguments: self.values(arguments, depth)? }),
            (known, _)
                if known.starts_with("torch._utils._rebuild_tensor_v")
                    || known == "collections.OrderedDict" =>
            {
                corrupt(format!("`{known}` is called with {} arguments", arguments.len()))
            }
            _ => {
                unsupported(format!("it calls `{name}`, which is more than data; only plain values are read"))
            }
        }
    }

    fn ordered_pairs(&mut self, pairs: Id, items: &[Id], depth: usize) -> Result<Value, Flaw> {
        let Node::List(pairs) = self.node(pairs) else {
            return corrupt("an OrderedDict is made of something else than a list");
        };
        let mut flat = Vec::new();
        for &pair in pairs {
            match self.node(pair) {
                Node::Tuple(pair) | Node::List(pair) if pair.len() == 2 => {
                    self.budget.take(16)?;
                    flat.extend(pair);
                }
                _ => return corrupt("an OrderedDict is made of something else than pairs"),
            }
        }
        self.budget.take(items.len() * 8)?;
        flat.extend(items);
        Ok(Value::OrderedDict(self.dict(&flat, depth)?))
    }

    fn tensor(&mut self, id: Id, dtype: Option<Dtype>, parts: [Id; 4]) -> Result<Value, Flaw> {
        if let Some(tensor) = self.tensors.get(&id) {
            return Ok(Value::Tensor(tensor.clone()));
        }
        let [storage, offset, shape, strides] = parts;
        let storage = self.storage(storage, dtype)?;
        let Node::Int(offset) = *self.node(offset) else { return corrupt("a tensor's offset is no int") };
        let Ok(offset) = u64::try_from(offset) else { return corrupt("a tensor's offset is negative") };
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        // A dimension of size 1 or 0 may have any stride.
        let strides = strides
            .iter()
            .zip(&shape)
            .map(|(&stride, &size)| if size > 1 { stride } else { stride.min(1 << 40) });
        let strides = strides.collect();
        match Tensor::strided(storage, offset, shape, strides) {
            Ok(tensor) => {
                self.budget.take(256)?;
                self.tensors.insert(id, tensor.clone());
                Ok(Value::Tensor(tensor))
            }
            Err(error) => corrupt(error.to_string()),
        }
    }

    fn sizes(&mut self, id: Id) -> Result<Vec<usize>, Flaw> {
        let items = match self.node(id) {
            Node::Tuple(items) | Node::List(items) => items,
            Node::Call { arguments, .. } => match self.node(*arguments) {
                Node::Tuple(arguments) => match arguments.first().map(|&first| self.node(first)) {
                    Some(Node::Tuple(items)) => items,
                    _ => return corrupt("a tensor's shape is no tuple"),
                },
                _ => return corrupt("a tensor's shape is no tuple"),
            },
            _ => return corrupt("a tensor's shape is no tuple"),
        };
        self.budget.take(items.len() * size_of::<usize>())?;
        let size = |&id: &Id| match self.node(id) {
            Node::Int(size) => usize::try_from(*size).or_else(|_| corrupt("a tensor's size is negative")),
            _ => corrupt("a tensor's size is no int"),
        };
        items.iter().map(size).collect()
    }

    /// `('storage', torch.FloatStorage, 'KEY', 'cpu', numel)`.
    fn storage(&mut self, id: Id, untyped_as: Option<Dtype>) -> Result<Storage, Flaw> {
        let Node::Persistent(id) = *self.node(id) else { return corrupt("a tensor's storage is none") };
        let Node::Tuple(parts) = self.node(id) else { return corrupt("a storage's id is no tuple") };
        let &[tag, kind, key, _, len] = parts.as_slice() else {
            return corrupt("a storage's id has not five parts");
        };
        let (Node::Str(tag), Node::Global(kind), Node::Str(key), Node::Int(len)) =
            (self.node(tag), self.node(kind), self.node(key), self.node(len))
        else {
            return corrupt("a storage's id has parts of the wrong kind");
        };
        if tag != "storage" {
            return corrupt(format!("a persistent id begins with {tag:?}"));
        }
        let typed = kind.strip_prefix("torch.").and_then(Dtype::by_storage_name);
        let (dtype, unit) = match (typed, untyped_as) {
            (Some(dtype), None) => (dtype, dtype.size()),
            (None, Some(dtype)) if kind == "torch.storage.UntypedStorage" => (dtype, 1),
            (Some(typed), Some(dtype)) => (dtype, typed.size()),
            _ => return unsupported(format!("it holds a storage of the kind `{kind}`, which is not read")),
        };
        let name = (key.clone(), dtype);
        if let Some(storage) = self.storages.get(&name) {
            return Ok(storage.clone());
        }
        let Some(bytes) = (self.find)(key) else {
            return corrupt(format!("the storage `data/{key}` is missing"));
        };
        let stated = u64::try_from(*len).ok().and_then(|len| len.checked_mul(unit as u64));
        if stated != Some(bytes.len) || bytes.len % dtype.size() as u64 != 0 {
            return corrupt(format!(
                "the storage `data/{key}` has {} bytes, and {len} elements are stated",
                bytes.len
            ));
        }
        self.budget.take(256)?;
        let storage = Storage::in_file(bytes, dtype);
        self.storages.insert(name, storage.clone());
        Ok(storage)
    }
}

/// Bytes that Python's protocol 2 hides in a string of the same code points.
fn latin1(text: &str) -> Result<Value, Flaw> {
    let bytes: Option<Vec<u8>> = text.chars().map(|char| u8::try_from(u32::from(char)).ok()).collect();
    bytes.map_or_else(|| corrupt("encoded bytes have code points above 255"), |bytes| Ok(Value::Bytes(bytes)))
}
