//! The restricted unpickler: a stack machine over plain data. It never imports or runs what a pickle names.

use crate::budget::Budget;
use crate::error::{Flaw, corrupt, unsupported};
use crate::opcode::*;
use crate::{Dtype, value::shortest_int};
use std::collections::BTreeMap;

/// An index into [`Graph::nodes`].
pub(crate) type Id = u32;

/// A value as the pickle builds it. Nodes refer to each other by index: sharing costs nothing, and dropping deeply
/// nested values cannot overflow the stack.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "a third less memory for each of what may be millions of nodes")]
pub(crate) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// More than 8 bytes of two's complement, little-endian, without bytes that only repeat the sign.
    BigInt(&'a [u8]),
    Float(f64),
    Str(&'a str),
    /// A name of [`is_known`].
    Global(String),
    List(Box<Vec<Id>>),
    Tuple(Box<[Id]>),
    /// Keys and values alternate.
    Dict(Box<Vec<Id>>),
    Call(Box<Call>),
    Persistent(Id),
}

/// A callable and its arguments, and the items that were set on the result.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) callable: Id,
    pub(crate) arguments: Id,
    pub(crate) items: Vec<Id>,
}

#[derive(Debug)]
pub(crate) struct Graph<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
    pub(crate) root: Id,
}

/// The names that the reader knows. It refuses any other, even one that no value uses.
fn is_known(name: &str) -> bool {
    const NAMES: [&str; 21] = [
        "__builtin__.bytearray",
        "__builtin__.bytes",
        "__builtin__.complex",
        "__builtin__.set",
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.bytes",
        "builtins.complex",
        "builtins.set",
        "collections.Counter",
        ORDERED_DICT,
        "torch.Size",
        "torch.Tensor",
        "torch._tensor._rebuild_from_type_v2",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
    ];
    NAMES.contains(&name)
        || name == UNTYPED_STORAGE
        || name
            .strip_prefix("torch.")
            .is_some_and(|name| Dtype::by_name(name).is_some() || Dtype::by_storage_name(name).is_some())
}

pub(crate) const ORDERED_DICT: &str = "collections.OrderedDict";
pub(crate) const UNTYPED_STORAGE: &str = "torch.storage.UntypedStorage";

pub(crate) fn parse<'a>(bytes: &'a [u8], budget: &mut Budget) -> Result<Graph<'a>, Flaw> {
    let mut machine = Machine {
        bytes,
        at: 0,
        budget,
        nodes: Vec::new(),
        frozen: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
    };
    let root = machine.run()?;
    if machine.at != bytes.len() {
        return corrupt("the pickle goes on after its end");
    }
    Ok(Graph { root, nodes: machine.nodes })
}

struct Machine<'a, 'b> {
    bytes: &'a [u8],
    at: usize,
    budget: &'b mut Budget,
    nodes: Vec<Node<'a>>,
    /// The nodes that were passed to a call. Python has already consumed them, so later opcodes may not modify them.
    frozen: Vec<bool>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl<'a> Machine<'a, '_> {
    fn run(&mut self) -> Result<Id, Flaw> {
        if self.take(1)? != [PROTO] {
            return corrupt("the pickle does not begin with a protocol");
        }
        let [protocol] = self.array()?;
        if protocol != 2 {
            return unsupported(format!(
                "it is pickled with protocol {protocol}; PyTorch's files have protocol 2"
            ));
        }
        loop {
            let [opcode] = self.array()?;
            if opcode == STOP {
                let root = self.pop()?;
                return if self.stack.is_empty() && self.marks.is_empty() {
                    Ok(root)
                } else {
                    corrupt("the pickle leaves something on its stack")
                };
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), Flaw> {
        match opcode {
            NONE => self.push(Node::None),
            NEWTRUE => self.push(Node::Bool(true)),
            NEWFALSE => self.push(Node::Bool(false)),
            BININT => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Node::Int(value.into()))
            }
            BININT1 => {
                let [value] = self.array()?;
                self.push(Node::Int(value.into()))
            }
            BININT2 => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Node::Int(value.into()))
            }
            LONG1 => {
                let [len] = self.array()?;
                let node = long(self.take(len.into())?);
                self.push(node)
            }
            BINFLOAT => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Node::Float(value))
            }
            BINUNICODE => {
                let len = u32::from_le_bytes(self.array()?) as usize;
                let text = self.take(len)?;
                let Ok(text) = std::str::from_utf8(text) else { return corrupt("a string is not UTF-8") };
                self.push(Node::Str(text))
            }
            // Written by Python 2. `torch.load` decodes it as UTF-8 too.
            SHORT_BINSTRING => {
                let [len] = self.array()?;
                let text = self.take(len.into())?;
                let Ok(text) = std::str::from_utf8(text) else { return corrupt("a string is not UTF-8") };
                self.push(Node::Str(text))
            }
            GLOBAL => {
                let (module, name) = (self.line()?, self.line()?);
                self.budget.take(2 * (module.len() + name.len() + 1))?;
                let name = format!("{module}.{name}");
                if !is_known(&name) {
                    return unsupported(format!(
                        "it refers to the class or function `{name}`, and only plain values and tensors are read; save the \
                         state_dict instead of the object"
                    ));
                }
                self.push(Node::Global(name))
            }
            EMPTY_LIST => {
                self.budget.take(size_of::<Vec<Id>>())?;
                self.push(Node::List(Box::default()))
            }
            EMPTY_TUPLE => self.push(Node::Tuple(Box::default())),
            EMPTY_DICT => {
                self.budget.take(size_of::<Vec<Id>>())?;
                self.push(Node::Dict(Box::default()))
            }
            MARK => {
                self.budget.reserve(&mut self.marks, 1)?;
                self.marks.push(self.stack.len());
                Ok(())
            }
            TUPLE => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items.into_boxed_slice()))
            }
            TUPLE1 | TUPLE2 | TUPLE3 => {
                let items = self.pop_many(usize::from(opcode - TUPLE1) + 1)?;
                self.push(Node::Tuple(items.into_boxed_slice()))
            }
            APPEND => {
                let item = self.pop()?;
                self.extend_list(vec![item])
            }
            APPENDS => {
                let items = self.pop_mark()?;
                self.extend_list(items)
            }
            SETITEM => {
                let items = self.pop_many(2)?;
                self.extend_dict(items)
            }
            SETITEMS => {
                let items = self.pop_mark()?;
                self.extend_dict(items)
            }
            BINPUT => {
                let [at] = self.array()?;
                self.put(at.into())
            }
            LONG_BINPUT => {
                let at = u32::from_le_bytes(self.array()?);
                self.put(at)
            }
            BINGET => {
                let [at] = self.array()?;
                self.get(at.into())
            }
            LONG_BINGET => {
                let at = u32::from_le_bytes(self.array()?);
                self.get(at)
            }
            BINPERSID => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))
            }
            REDUCE => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                if !matches!(self.nodes[callable as usize], Node::Global(_)) {
                    return corrupt("the pickle calls something other than a name");
                }
                self.freeze(arguments)?;
                self.budget.take(size_of::<Call>())?;
                self.push(Node::Call(Box::new(Call { callable, arguments, items: Vec::new() })))
            }
            BUILD => {
                self.pop()?;
                self.build()
            }
            0x8b => unsupported("it holds an int of more than 255 bytes"),
            POP | POP_MARK | DUP | LIST | DICT | BINSTRING | NEWOBJ => {
                unsupported(format!("it uses the opcode 0x{opcode:02x}, which PyTorch's files do not have"))
            }
            0x8c..=0x98 => unsupported("it uses opcodes of a newer pickle protocol than PyTorch writes"),
            other => {
                corrupt(format!("the pickle has an unknown opcode 0x{other:02x} at byte {}", self.at - 1))
            }
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Flaw> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else { return corrupt("the pickle ends too early") };
        let part = &self.bytes[self.at..end];
        self.at = end;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn line(&mut self) -> Result<&'a str, Flaw> {
        let rest = &self.bytes[self.at..];
        let Some(len) = rest.iter().take(1024).position(|&byte| byte == b'\n') else {
            return corrupt("a global's name does not end");
        };
        let line = self.take(len + 1)?;
        match std::str::from_utf8(&line[..len]) {
            Ok(line) => Ok(line),
            Err(_) => corrupt("a global's name is not UTF-8"),
        }
    }

    fn push(&mut self, node: Node<'a>) -> Result<(), Flaw> {
        self.budget.reserve(&mut self.nodes, 1)?;
        self.budget.reserve(&mut self.frozen, 1)?;
        let Ok(id) = Id::try_from(self.nodes.len()) else { return unsupported("it holds too many values") };
        self.nodes.push(node);
        self.frozen.push(false);
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Result<(), Flaw> {
        self.budget.reserve(&mut self.stack, 1)?;
        self.stack.push(id);
        Ok(())
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, Flaw> {
        if self.stack.len() <= self.floor() {
            return corrupt("the pickle takes more values from its stack than it holds");
        }
        self.stack.pop().map_or_else(|| corrupt("the pickle's stack is empty"), Ok)
    }

    fn top(&self) -> Result<Id, Flaw> {
        match self.stack.last() {
            Some(&top) if self.stack.len() > self.floor() => Ok(top),
            _ => corrupt("the pickle refers to the top of an empty stack"),
        }
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, Flaw> {
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= self.floor() => self.split_off(start),
            _ => corrupt("the pickle takes more values from its stack than it holds"),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, Flaw> {
        match self.marks.pop() {
            Some(mark) => self.split_off(mark),
            None => corrupt("the pickle closes a mark that it never set"),
        }
    }

    fn split_off(&mut self, start: usize) -> Result<Vec<Id>, Flaw> {
        let mut items = Vec::new();
        self.budget.take((self.stack.len() - start) * size_of::<Id>())?;
        items.reserve_exact(self.stack.len() - start);
        items.extend(self.stack.drain(start..));
        Ok(items)
    }

    fn top_to_change(&self) -> Result<Id, Flaw> {
        let top = self.top()?;
        if self.frozen[top as usize] {
            return unsupported("it changes a list or a dict after passing it to a constructor");
        }
        Ok(top)
    }

    /// Sets an object's state. The state of an OrderedDict is its attributes, which the reader ignores. It refuses other
    /// objects with state.
    fn build(&self) -> Result<(), Flaw> {
        if let Node::Call(call) = &self.nodes[self.top()? as usize]
            && let Node::Global(name) = &self.nodes[call.callable as usize]
            && name == ORDERED_DICT
        {
            return Ok(());
        }
        unsupported("it gives state to something other than an OrderedDict")
    }

    /// Forbids later opcodes to modify anything that the arguments of a call hold.
    fn freeze(&mut self, arguments: Id) -> Result<(), Flaw> {
        let mut reached = vec![arguments];
        while let Some(id) = reached.pop() {
            if std::mem::replace(&mut self.frozen[id as usize], true) {
                continue;
            }
            let items: &[Id] = match &self.nodes[id as usize] {
                Node::List(items) | Node::Dict(items) => items,
                Node::Tuple(items) => items,
                Node::Call(call) => &call.items,
                _ => continue,
            };
            self.budget.reserve(&mut reached, items.len())?;
            reached.extend(items);
        }
        self.budget.give_back(reached.capacity() * size_of::<Id>());
        Ok(())
    }

    fn put(&mut self, at: u32) -> Result<(), Flaw> {
        let top = self.top()?;
        self.budget.take(32)?;
        self.memo.insert(at, top);
        Ok(())
    }

    fn get(&mut self, at: u32) -> Result<(), Flaw> {
        match self.memo.get(&at) {
            Some(&id) => self.push_id(id),
            None => corrupt("the pickle refers to a value that it never stored"),
        }
    }

    fn extend_list(&mut self, new: Vec<Id>) -> Result<(), Flaw> {
        let top = self.top_to_change()?;
        match &mut self.nodes[top as usize] {
            Node::List(items) => extend(self.budget, items, new),
            _ => corrupt("the pickle appends to something other than a list"),
        }
    }

    fn extend_dict(&mut self, new: Vec<Id>) -> Result<(), Flaw> {
        if !new.len().is_multiple_of(2) {
            return corrupt("a dict has a key without a value");
        }
        let top = self.top_to_change()?;
        match &mut self.nodes[top as usize] {
            Node::Dict(items) => extend(self.budget, items, new),
            Node::Call(call) => extend(self.budget, &mut call.items, new),
            _ => corrupt("the pickle sets items of something other than a dict"),
        }
    }
}

/// Adds items whose memory the budget already counts.
fn extend(budget: &mut Budget, items: &mut Vec<Id>, new: Vec<Id>) -> Result<(), Flaw> {
    if items.is_empty() {
        budget.give_back(items.capacity() * size_of::<Id>());
        *items = new;
    } else {
        budget.reserve(items, new.len())?;
        items.extend(&new);
        budget.give_back(new.capacity() * size_of::<Id>());
    }
    Ok(())
}

/// An int from two's complement, little-endian. No bytes mean 0.
fn long(bytes: &[u8]) -> Node<'_> {
    let bytes = shortest_int(bytes);
    if bytes.len() > 8 {
        return Node::BigInt(bytes);
    }
    let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut value = [if negative { 0xff } else { 0 }; 8];
    value[..bytes.len()].copy_from_slice(bytes);
    Node::Int(i64::from_le_bytes(value))
}
