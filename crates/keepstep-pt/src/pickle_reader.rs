//! The restricted unpickler: a stack machine over plain data. It looks nothing up and runs nothing; what a pickle names
//! is a name.

use crate::budget::Budget;
use crate::error::{Flaw, corrupt, unsupported};
use crate::opcode::*;
use std::collections::BTreeMap;

/// An index into [`Graph::nodes`].
pub(crate) type Id = u32;

/// What a pickle builds, before anything is made of it. Nodes refer to each other by index, so that sharing costs
/// nothing and no nesting can overflow the stack when it is dropped.
#[derive(Debug)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    BigInt(Vec<u8>),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    Global(String),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    /// Keys and values in turn.
    Dict(Vec<Id>),
    /// A callable and its arguments, and the items that were set on the result.
    Call {
        callable: Id,
        arguments: Id,
        items: Vec<Id>,
    },
    Persistent(Id),
}

#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    pub(crate) root: Id,
}

/// What each node and each reference is charged, growth of vectors included.
const NODE_BYTES: usize = 2 * size_of::<Node>();
const ID_BYTES: usize = 2 * size_of::<Id>();

pub(crate) fn parse(bytes: &[u8], budget: &mut Budget) -> Result<Graph, Flaw> {
    let mut machine = Machine {
        bytes,
        at: 0,
        budget,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
    };
    let root = machine.run()?;
    if machine.at != bytes.len() {
        return corrupt("there is something after the end of the pickle");
    }
    Ok(Graph { root, nodes: machine.nodes })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    budget: &'a mut Budget,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl<'a> Machine<'a> {
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
                self.budget.take(len)?;
                self.push(Node::Str(text.to_owned()))
            }
            SHORT_BINSTRING => {
                let [len] = self.array()?;
                self.byte_string(len.into())
            }
            BINSTRING => {
                let len = u32::from_le_bytes(self.array()?) as usize;
                self.byte_string(len)
            }
            GLOBAL => {
                let (module, name) = (self.line()?, self.line()?);
                self.budget.take(module.len() + name.len())?;
                self.push(Node::Global(format!("{module}.{name}")))
            }
            EMPTY_LIST => self.push(Node::List(Vec::new())),
            EMPTY_TUPLE => self.push(Node::Tuple(Vec::new())),
            EMPTY_DICT => self.push(Node::Dict(Vec::new())),
            MARK => {
                self.budget.take(2 * size_of::<usize>())?;
                self.marks.push(self.stack.len());
                Ok(())
            }
            TUPLE => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items))
            }
            LIST => {
                let items = self.pop_mark()?;
                self.push(Node::List(items))
            }
            DICT => {
                let items = self.pop_mark()?;
                self.push_dict(items)
            }
            TUPLE1 | TUPLE2 | TUPLE3 => {
                let items = self.pop_many(usize::from(opcode - TUPLE1) + 1)?;
                self.push(Node::Tuple(items))
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
            REDUCE | NEWOBJ => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                self.push(Node::Call { callable, arguments, items: Vec::new() })
            }
            // State that a constructor's result is given: kept out, nothing that is read has any that matters.
            BUILD => {
                self.pop()?;
                self.top().map(|_| ())
            }
            POP => self.pop().map(|_| ()),
            POP_MARK => self.pop_mark().map(|_| ()),
            DUP => {
                let top = self.top()?;
                self.push_id(top)
            }
            0x8b => unsupported("it holds an int of more than 255 bytes"),
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

    fn byte_string(&mut self, len: usize) -> Result<(), Flaw> {
        let bytes = self.take(len)?;
        self.budget.take(len)?;
        self.push(Node::Bytes(bytes.to_vec()))
    }

    fn push(&mut self, node: Node) -> Result<(), Flaw> {
        self.budget.take(NODE_BYTES)?;
        let Ok(id) = Id::try_from(self.nodes.len()) else { return unsupported("it holds too many values") };
        self.nodes.push(node);
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Result<(), Flaw> {
        // The stack's own growth, and the container that the reference ends up in.
        self.budget.take(2 * ID_BYTES)?;
        self.stack.push(id);
        Ok(())
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, Flaw> {
        if self.stack.len() <= self.floor() {
            return corrupt("the pickle takes more from its stack than there is");
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
            Some(start) if start >= self.floor() => Ok(self.stack.split_off(start)),
            _ => corrupt("the pickle takes more from its stack than there is"),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, Flaw> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => corrupt("the pickle closes a mark that it has not set"),
        }
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
            None => corrupt("the pickle refers to something that it has not stored"),
        }
    }

    fn push_dict(&mut self, items: Vec<Id>) -> Result<(), Flaw> {
        if items.len().is_multiple_of(2) {
            self.push(Node::Dict(items))
        } else {
            corrupt("a dict has a key without a value")
        }
    }

    fn extend_list(&mut self, new: Vec<Id>) -> Result<(), Flaw> {
        let top = self.top()?;
        match &mut self.nodes[top as usize] {
            Node::List(items) => items.extend(new),
            _ => return corrupt("the pickle appends to something that is no list"),
        }
        Ok(())
    }

    fn extend_dict(&mut self, new: Vec<Id>) -> Result<(), Flaw> {
        if !new.len().is_multiple_of(2) {
            return corrupt("a dict has a key without a value");
        }
        let top = self.top()?;
        match &mut self.nodes[top as usize] {
            Node::Dict(items) | Node::Call { items, .. } => items.extend(new),
            _ => return corrupt("the pickle sets items of something that is no dict"),
        }
        Ok(())
    }
}

/// Two's complement, little-endian; empty is 0.
fn long(bytes: &[u8]) -> Node {
    if bytes.len() > 8 {
        return Node::BigInt(bytes.to_vec());
    }
    let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut value = [if negative { 0xff } else { 0 }; 8];
    value[..bytes.len()].copy_from_slice(bytes);
    Node::Int(i64::from_le_bytes(value))
}
