//! Turns the nodes of a pickle into values. It knows the few constructors that PyTorch's files use.

use crate::budget::Budget;
use crate::error::{Flaw, corrupt, unsupported};
use crate::pickle_reader::{Graph, Id, Node, ORDERED_DICT, UNTYPED_STORAGE};
use crate::storage::Content;
use crate::{Dict, Dtype, Storage, Tensor, Value};
use std::collections::BTreeMap;

/// The deepest nesting that is read. The limit also ends the walk if a value contains itself.
pub(crate) const DEEPEST: usize = 200;

/// The memory of a dict's entry, including its place in the index.
const ENTRY_BYTES: usize = 2 * size_of::<Value>() + 48;

/// A float of this size or more may equal an int of more than 64 bits.
const LARGE: f64 = 9_223_372_036_854_775_808.0;

/// The subclasses of tensor that have the same values as the tensor.
const TENSOR_TYPES: [&str; 2] = ["torch.Tensor", "torch.nn.parameter.Parameter"];

/// Finds the bytes of a storage.
pub(crate) type FindEntry<'a> = dyn Fn(&str) -> Option<Content> + 'a;

pub(crate) fn rebuild(
    graph: &Graph<'_>,
    format: Format,
    find: &FindEntry<'_>,
    budget: &mut Budget,
) -> Result<Value, Flaw> {
    let (storages, tensors) = (BTreeMap::new(), BTreeMap::new());
    Builder { graph, format, find, budget, storages, tensors }.value(graph.root, 0)
}

/// The two formats, whose pickles refer to storages in different ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Zip,
    Legacy,
}

impl Format {
    /// What errors call a storage.
    fn place(self, key: &str) -> String {
        match self {
            Format::Zip => format!("data/{key}"),
            Format::Legacy => key.to_owned(),
        }
    }
}

/// How a pickle refers to a storage: `('storage', torch.FloatStorage, 'KEY', 'cpu', numel)`, with one more part, None, in
/// the legacy format.
#[derive(Debug)]
pub(crate) struct StorageId<'a> {
    kind: &'a str,
    pub(crate) key: &'a str,
    /// Elements of the kind, as the file states.
    pub(crate) len: i64,
}

impl<'a> StorageId<'a> {
    /// The reference in node `id`.
    pub(crate) fn read(graph: &'a Graph<'_>, id: Id, format: Format) -> Result<StorageId<'a>, Flaw> {
        let node = |id: Id| &graph.nodes[id as usize];
        let Node::Tuple(parts) = node(id) else { return corrupt("a storage's id is not a tuple") };
        let (parts, view) = match (&parts[..], format) {
            (&[tag, kind, key, location, len], Format::Zip) => ([tag, kind, key, location, len], None),
            (&[tag, kind, key, location, len, view], Format::Legacy) => {
                ([tag, kind, key, location, len], Some(view))
            }
            (_, Format::Zip) => return corrupt("a storage's id does not have five parts"),
            (_, Format::Legacy) => return corrupt("a storage's id does not have six parts"),
        };
        if view.is_some_and(|view| !matches!(node(view), Node::None)) {
            return unsupported(
                "it holds a storage that is a part of another, which only old versions of PyTorch wrote",
            );
        }
        let (Node::Str(tag), Node::Global(kind), Node::Str(key), Node::Str(location), Node::Int(len)) =
            (node(parts[0]), node(parts[1]), node(parts[2]), node(parts[3]), node(parts[4]))
        else {
            return corrupt("a storage's id has parts of the wrong kind");
        };
        if *tag != "storage" {
            return corrupt(format!("a persistent id begins with {tag:?}"));
        }
        if *location == "meta" {
            return unsupported("it holds a tensor of the device `meta`, which has no values");
        }
        Ok(StorageId { kind, key, len: *len })
    }

    /// The type of its elements; none where the tensor says it.
    fn typed(&self) -> Option<Dtype> {
        self.kind.strip_prefix("torch.").and_then(Dtype::by_storage_name)
    }

    /// Bytes of each of the elements that `len` counts.
    pub(crate) fn unit(&self) -> Result<u64, Flaw> {
        match self.typed() {
            Some(dtype) => Ok(dtype.size() as u64),
            None if self.kind == UNTYPED_STORAGE => Ok(1),
            None => {
                unsupported(format!("it holds a storage of the kind `{}`, which is not supported", self.kind))
            }
        }
    }
}

struct Builder<'a> {
    graph: &'a Graph<'a>,
    format: Format,
    find: &'a FindEntry<'a>,
    budget: &'a mut Budget,
    storages: BTreeMap<(&'a str, Dtype), Storage>,
    tensors: BTreeMap<Id, Tensor>,
}

impl<'a> Builder<'a> {
    fn node(&self, id: Id) -> &'a Node<'a> {
        &self.graph.nodes[id as usize]
    }

    fn value(&mut self, id: Id, depth: usize) -> Result<Value, Flaw> {
        if depth > DEEPEST {
            return unsupported(format!(
                "its values are nested more than {DEEPEST} deep, or contain themselves"
            ));
        }
        Ok(match self.node(id) {
            Node::None => Value::None,
            Node::Bool(value) => Value::Bool(*value),
            Node::Int(value) => Value::Int(*value),
            Node::BigInt(bytes) => {
                self.budget.take(bytes.len())?;
                Value::BigInt(bytes.to_vec())
            }
            Node::Float(value) => Value::Float(*value),
            Node::Str(text) => {
                self.budget.take(text.len())?;
                Value::Str((*text).to_owned())
            }
            Node::Global(name) => self.global(name)?,
            Node::List(items) => Value::List(self.values(items, depth)?),
            Node::Tuple(items) => Value::Tuple(self.values(items, depth)?),
            Node::Dict(items) => Value::Dict(self.dict(items, depth)?),
            Node::Call(call) => self.call(id, call.callable, call.arguments, &call.items, depth)?,
            Node::Persistent(_) => {
                return unsupported(
                    "it holds a storage outside a tensor, which cannot be read; save a tensor instead",
                );
            }
        })
    }

    fn values(&mut self, ids: &[Id], depth: usize) -> Result<Vec<Value>, Flaw> {
        let mut values = Vec::new();
        self.budget.take(ids.len().saturating_mul(size_of::<Value>()))?;
        values.reserve_exact(ids.len());
        for &id in ids {
            values.push(self.value(id, depth + 1)?);
        }
        Ok(values)
    }

    fn dict(&mut self, items: &[Id], depth: usize) -> Result<Dict, Flaw> {
        let mut dict = Dict::new();
        self.insert(&mut dict, items, depth)?;
        Ok(dict)
    }

    fn insert(&mut self, dict: &mut Dict, items: &[Id], depth: usize) -> Result<(), Flaw> {
        self.budget.take((items.len() / 2).saturating_mul(ENTRY_BYTES))?;
        dict.reserve(items.len() / 2);
        for pair in items.chunks_exact(2) {
            let key = self.value(pair[0], depth + 1)?;
            check_key(&key)?;
            dict.insert(key, self.value(pair[1], depth + 1)?);
        }
        Ok(())
    }

    fn global(&self, name: &str) -> Result<Value, Flaw> {
        match name.strip_prefix("torch.") {
            Some(dtype) if Dtype::by_name(dtype).is_some() => Ok(Value::Global(name.to_owned())),
            _ => unsupported(format!(
                "it holds the class or function `{name}`, and only plain values and tensors are read"
            )),
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
            return corrupt("the pickle calls something other than a name");
        };
        let Node::Tuple(arguments) = self.node(arguments) else {
            return corrupt(format!("the arguments of `{name}` are not a tuple"));
        };
        if !items.is_empty() && !matches!(name.as_str(), ORDERED_DICT | "collections.Counter") {
            return corrupt(format!("items are set on what `{name}` makes"));
        }
        match (name.as_str(), &arguments[..]) {
            (ORDERED_DICT, []) => Ok(Value::OrderedDict(self.dict(items, depth)?)),
            (ORDERED_DICT, [pairs]) => self.ordered_pairs(*pairs, items, depth),
            ("collections.Counter", [] | [_]) => self.counter(arguments, items, depth),
            ("torch._utils._rebuild_tensor_v2", [storage, offset, shape, strides, _, _, metadata @ ..])
                if metadata.len() <= 1 =>
            {
                self.check_metadata(metadata)?;
                self.tensor(id, None, [*storage, *offset, *shape, *strides])
            }
            (
                "torch._utils._rebuild_tensor_v3",
                [storage, offset, shape, strides, _, _, dtype, metadata @ ..],
            ) if metadata.len() <= 1 => {
                self.check_metadata(metadata)?;
                let Node::Global(dtype) = self.node(*dtype) else {
                    return corrupt("a tensor's dtype is not a name");
                };
                let Some(dtype) = dtype.strip_prefix("torch.").and_then(Dtype::by_name) else {
                    return unsupported(format!("it holds a tensor of `{dtype}`, which is not read"));
                };
                self.tensor(id, Some(dtype), [*storage, *offset, *shape, *strides])
            }
            ("torch._utils._rebuild_parameter", [data, _, _])
            | ("torch._utils._rebuild_parameter_with_state", [data, _, _, _]) => {
                let data = self.value(*data, depth + 1)?;
                self.a_tensor(data)
            }
            ("torch._tensor._rebuild_from_type_v2", [function, kind, arguments, _]) => {
                match self.node(*kind) {
                    Node::Global(kind) if TENSOR_TYPES.contains(&kind.as_str()) => {
                        let data = self.call(id, *function, *arguments, &[], depth + 1)?;
                        self.a_tensor(data)
                    }
                    _ => unsupported(
                        "it holds a tensor of a custom class, which cannot be read; save a plain tensor instead",
                    ),
                }
            }
            ("_codecs.encode", [text, encoding]) => match (self.node(*text), self.node(*encoding)) {
                (Node::Str(text), Node::Str(encoding)) if matches!(*encoding, "latin1" | "latin-1") => {
                    self.budget.take(text.len())?;
                    latin1(text)
                }
                _ => corrupt("bytes are encoded in an unknown way"),
            },
            ("__builtin__.bytes" | "builtins.bytes" | "__builtin__.bytearray" | "builtins.bytearray", []) => {
                Ok(Value::Bytes(Vec::new()))
            }
            ("__builtin__.bytearray" | "builtins.bytearray", [bytes]) => {
                match self.value(*bytes, depth + 1)? {
                    Value::Bytes(bytes) => Ok(Value::Bytes(bytes)),
                    _ => corrupt("a bytearray is made of something else than bytes"),
                }
            }
            ("torch.Size", [sizes]) => match self.value(*sizes, depth + 1)? {
                Value::Tuple(sizes) if sizes.iter().all(|size| size.as_int().is_some()) => {
                    Ok(Value::Tuple(sizes))
                }
                _ => corrupt("a size is made of something else than a tuple of ints"),
            },
            _ => self.object(name, arguments, depth),
        }
    }

    /// A call of a constructor that has no kind of value here. Its arguments must be ones that it accepts.
    fn object(&mut self, name: &str, arguments: &[Id], depth: usize) -> Result<Value, Flaw> {
        let values = self.values(arguments, depth)?;
        let fits = match name.rsplit('.').next() {
            Some("device") => matches!(&*values, [Value::Str(_)] | [Value::Str(_), Value::Int(_)]),
            Some("complex") => matches!(&*values, [Value::Float(_), Value::Float(_)]),
            Some("set") => {
                if let [Value::List(items)] = &*values {
                    items.iter().try_for_each(check_key)?;
                }
                matches!(&*values, [] | [Value::List(_)])
            }
            Some("_get_layout") => matches!(&*values, [Value::Str(_)]),
            _ => false,
        };
        if fits {
            self.budget.take(name.len())?;
            Ok(Value::Object { name: name.to_owned(), arguments: values })
        } else {
            unsupported(format!("it calls `{name}` in a way that PyTorch's files do not"))
        }
    }

    fn a_tensor(&self, value: Value) -> Result<Value, Flaw> {
        match value {
            Value::Tensor(_) => Ok(value),
            _ => corrupt("a parameter is made from something other than a tensor"),
        }
    }

    /// Refuses metadata by which a tensor's values are the conjugates or negatives of the stored ones.
    fn check_metadata(&self, metadata: &[Id]) -> Result<(), Flaw> {
        match metadata.first().map(|&id| self.node(id)) {
            None | Some(Node::None) => Ok(()),
            Some(Node::Dict(items)) if items.is_empty() => Ok(()),
            _ => unsupported(
                "it holds a tensor that is stored conjugated or negated, which cannot be read; save \
                 `tensor.resolve_conj().resolve_neg()` instead",
            ),
        }
    }

    fn counter(&mut self, arguments: &[Id], items: &[Id], depth: usize) -> Result<Value, Flaw> {
        let mut all = match arguments.first() {
            None => Dict::new(),
            Some(&counts) => match self.value(counts, depth + 1)? {
                Value::Dict(dict) => dict,
                _ => return unsupported("it holds a Counter that is made from something other than a dict"),
            },
        };
        self.insert(&mut all, items, depth)?;
        Ok(Value::Dict(all))
    }

    fn ordered_pairs(&mut self, pairs: Id, items: &[Id], depth: usize) -> Result<Value, Flaw> {
        let Node::List(pairs) = self.node(pairs) else {
            return corrupt("an OrderedDict is made from something other than a list");
        };
        let mut flat = Vec::new();
        for &pair in pairs.iter() {
            match self.node(pair) {
                Node::Tuple(pair) if pair.len() == 2 => {
                    self.budget.reserve(&mut flat, 2)?;
                    flat.extend(pair);
                }
                _ => return corrupt("an OrderedDict is made from something other than pairs"),
            }
        }
        self.budget.reserve(&mut flat, items.len())?;
        flat.extend(items);
        Ok(Value::OrderedDict(self.dict(&flat, depth)?))
    }

    fn tensor(&mut self, id: Id, dtype: Option<Dtype>, parts: [Id; 4]) -> Result<Value, Flaw> {
        if let Some(tensor) = self.tensors.get(&id) {
            return Ok(Value::Tensor(tensor.clone()));
        }
        let [storage, offset, shape, strides] = parts;
        let storage = self.storage(storage, dtype)?;
        let Node::Int(offset) = *self.node(offset) else { return corrupt("a tensor's offset is not an int") };
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
        let items: &[Id] = match self.node(id) {
            Node::Tuple(items) => items,
            Node::List(items) => items,
            Node::Call(call) => match (self.node(call.callable), self.node(call.arguments)) {
                (Node::Global(name), Node::Tuple(arguments)) if name == "torch.Size" => {
                    match arguments.first().map(|&first| self.node(first)) {
                        Some(Node::Tuple(items)) => items,
                        _ => return corrupt("a tensor's shape is not a tuple"),
                    }
                }
                _ => return corrupt("a tensor's shape is not a tuple"),
            },
            _ => return corrupt("a tensor's shape is not a tuple"),
        };
        self.budget.take(items.len() * size_of::<usize>())?;
        let size = |&id: &Id| match self.node(id) {
            Node::Int(size) => usize::try_from(*size).or_else(|_| corrupt("a tensor's size is negative")),
            _ => corrupt("a tensor's size is not an int"),
        };
        items.iter().map(size).collect()
    }

    fn storage(&mut self, id: Id, untyped_as: Option<Dtype>) -> Result<Storage, Flaw> {
        let Node::Persistent(id) = *self.node(id) else { return corrupt("a tensor has no storage") };
        let stored = StorageId::read(self.graph, id, self.format)?;
        let unit = stored.unit()?;
        let Some(dtype) = untyped_as.or(stored.typed()) else {
            return unsupported(format!(
                "it holds a storage of the kind `{}`, which is not supported",
                stored.kind
            ));
        };
        let (key, len) = (stored.key, stored.len);
        let Some(content) = (self.find)(key) else {
            return corrupt(format!("the storage `{}` is missing", self.format.place(key)));
        };
        let stated = u64::try_from(len).ok().and_then(|len| len.checked_mul(unit));
        if stated != Some(content.len()) || content.len() % dtype.size() as u64 != 0 {
            return corrupt(format!(
                "the storage `{}` has {} bytes, but its tensors expect {len} elements",
                self.format.place(key),
                content.len()
            ));
        }
        if let Some(storage) = self.storages.get(&(key, dtype)) {
            return Ok(storage.clone());
        }
        self.budget.take(256)?;
        let storage = Storage::in_file(content, dtype);
        self.storages.insert((key, dtype), storage.clone());
        Ok(storage)
    }
}

/// Refuses keys that Python cannot hash, and those whose equality is not obvious. Equal keys (`1`, `1.0` and `True`) are
/// one key.
pub(crate) fn check_key(key: &Value) -> Result<(), Flaw> {
    match key {
        Value::List(_) | Value::Dict(_) | Value::OrderedDict(_) => {
            corrupt("a dict or a set has a list or a dict as a key")
        }
        Value::Tensor(_) | Value::Object { .. } => {
            unsupported("a dict or a set has a key that is not a plain value")
        }
        Value::Float(value) if value.is_nan() || (value.is_finite() && value.abs() >= LARGE) => {
            unsupported("a dict or a set has a float as a key that may be equal to another")
        }
        Value::Tuple(items) => items.iter().try_for_each(check_key),
        _ => Ok(()),
    }
}

/// Decodes bytes that pickle protocol 2 stores as a string with one code point for each byte.
fn latin1(text: &str) -> Result<Value, Flaw> {
    let bytes: Option<Vec<u8>> = text.chars().map(|char| u8::try_from(u32::from(char)).ok()).collect();
    bytes.map_or_else(|| corrupt("encoded bytes have code points above 255"), |bytes| Ok(Value::Bytes(bytes)))
}
