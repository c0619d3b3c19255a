//! The places where GPT-2 applies dropout.

/// A site of dropout masks. The number is part of the masks' definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Site {
    Embedding = 0,
    AttentionWeights = 1,
    AttentionOutput = 2,
    MlpOutput = 3,
}

impl From<Site> for u64 {
    fn from(site: Site) -> u64 {
        site as u64
    }
}
