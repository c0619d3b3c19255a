//! Corpora and tokenizers: files in a defined order become tokens, the same ones every time.

pub mod corpus;
pub mod tokenizer;
