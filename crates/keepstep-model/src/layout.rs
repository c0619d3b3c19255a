//! The tensors of a model in one flat buffer: their names, shapes and offsets.

/// One tensor of the flat buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamedTensor {
    /// The name of the parameter in the PyTorch model.
    pub name: String,
    /// The shape; linear layers are `[in, out]`.
    pub shape: Vec<usize>,
    /// The index of its first element in the flat buffer.
    pub offset: usize,
    /// Whether weight decay applies. It applies to tensors of two or more dimensions.
    pub decay: bool,
}

impl NamedTensor {
    /// Returns the number of elements.
    #[expect(clippy::len_without_is_empty, reason = "no parameter is empty")]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns the range of the flat buffer that this tensor occupies.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// The place of every parameter in a flat buffer. Tensors follow one another without gaps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    tensors: Vec<NamedTensor>,
    tied: Vec<(String, usize)>,
    num_parameters: usize,
}

impl Layout {
    /// Creates a layout without tensors.
    pub fn new() -> Layout {
        Layout::default()
    }

    /// Adds a tensor after the last one.
    pub fn push(&mut self, name: &str, shape: &[usize]) {
        let tensor = NamedTensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            offset: self.num_parameters,
            decay: shape.len() >= 2,
        };
        self.num_parameters += tensor.len();
        self.tensors.push(tensor);
    }

    /// Adds a second name for the tensor at `index`. State dicts contain both names, in one storage.
    pub fn tie(&mut self, name: &str, index: usize) {
        self.tied.push((name.to_owned(), index));
    }

    /// Returns every tensor, in the order of the buffer.
    pub fn tensors(&self) -> &[NamedTensor] {
        &self.tensors
    }

    /// Returns the second names of tensors, each with the index of its tensor.
    pub fn tied(&self) -> &[(String, usize)] {
        &self.tied
    }

    /// Returns the number of elements in the buffer.
    pub fn num_parameters(&self) -> usize {
        self.num_parameters
    }

    /// Splits a buffer into its tensors, in order.
    ///
    /// # Panics
    /// If the length of the buffer is not that of this layout.
    pub fn split<'a>(&self, flat: &'a [f32]) -> impl Iterator<Item = &'a [f32]> {
        assert_eq!(flat.len(), self.num_parameters, "a buffer of this layout");
        self.tensors.iter().map(|tensor| &flat[tensor.range()])
    }

    /// Splits a mutable buffer into its tensors, in order.
    ///
    /// # Panics
    /// If the length of the buffer is not that of this layout.
    pub fn split_mut<'a>(&self, flat: &'a mut [f32]) -> impl Iterator<Item = &'a mut [f32]> {
        assert_eq!(flat.len(), self.num_parameters, "a buffer of this layout");
        let mut rest = flat;
        self.tensors.iter().map(move |tensor| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(tensor.len());
            rest = tail;
            part
        })
    }
}
