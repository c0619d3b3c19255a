//! The types of a tensor's elements.

use bytemuck::Pod;
use std::fmt;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident $name:literal $size:literal $storage:expr;)*) => {
        /// The type of a tensor's elements, as in `torch.dtype`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Dtype { $($(#[$doc])* $variant,)* }

        impl Dtype {
            /// Every type.
            pub const ALL: &'static [Dtype] = &[$(Dtype::$variant,)*];

            /// PyTorch's name, without `torch.`.
            pub fn name(self) -> &'static str {
                match self { $(Dtype::$variant => $name,)* }
            }

            /// Bytes per element.
            pub fn size(self) -> usize {
                match self { $(Dtype::$variant => $size,)* }
            }

            /// The name of the typed storage; newer types have none and are written with an untyped one.
            pub(crate) fn storage_name(self) -> Option<&'static str> {
                match self { $(Dtype::$variant => $storage,)* }
            }
        }
    };
}

dtypes! {
    /// 64-bit float.
    F64 "float64" 8 Some("DoubleStorage");
    /// 32-bit float.
    F32 "float32" 4 Some("FloatStorage");
    /// 16-bit float of IEEE 754.
    F16 "float16" 2 Some("HalfStorage");
    /// The upper half of a 32-bit float.
    BF16 "bfloat16" 2 Some("BFloat16Storage");
    /// 64-bit integer.
    I64 "int64" 8 Some("LongStorage");
    /// 32-bit integer.
    I32 "int32" 4 Some("IntStorage");
    /// 16-bit integer.
    I16 "int16" 2 Some("ShortStorage");
    /// 8-bit integer.
    I8 "int8" 1 Some("CharStorage");
    /// Byte.
    U8 "uint8" 1 Some("ByteStorage");
    /// A byte that is 0 or 1.
    Bool "bool" 1 Some("BoolStorage");
    /// Two 32-bit floats.
    Complex64 "complex64" 8 Some("ComplexFloatStorage");
    /// Two 64-bit floats.
    Complex128 "complex128" 16 Some("ComplexDoubleStorage");
    /// Two 16-bit floats.
    Complex32 "complex32" 4 None;
    /// 16-bit unsigned integer.
    U16 "uint16" 2 None;
    /// 32-bit unsigned integer.
    U32 "uint32" 4 None;
    /// 64-bit unsigned integer.
    U64 "uint64" 8 None;
    /// 8-bit float, 4 bits of exponent.
    F8E4M3Fn "float8_e4m3fn" 1 None;
    /// 8-bit float, 5 bits of exponent.
    F8E5M2 "float8_e5m2" 1 None;
    /// 8-bit float, 4 bits of exponent, one zero.
    F8E4M3FnUz "float8_e4m3fnuz" 1 None;
    /// 8-bit float, 5 bits of exponent, one zero.
    F8E5M2FnUz "float8_e5m2fnuz" 1 None;
    /// A power of two in 8 bits.
    F8E8M0Fnu "float8_e8m0fnu" 1 None;
}

impl Dtype {
    pub(crate) fn by_name(name: &str) -> Option<Dtype> {
        Dtype::ALL.iter().copied().find(|dtype| dtype.name() == name)
    }

    pub(crate) fn by_storage_name(name: &str) -> Option<Dtype> {
        Dtype::ALL.iter().copied().find(|dtype| dtype.storage_name() == Some(name))
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that tensors can hold.
pub trait Element: Pod + Send + Sync + sealed::Sealed {
    /// The type of such a tensor.
    const DTYPE: Dtype;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),*) => {
        $(impl sealed::Sealed for $rust {}
        impl Element for $rust { const DTYPE: Dtype = Dtype::$dtype; })*
    };
}

elements!(f64 => F64, f32 => F32, i64 => I64, i32 => I32, i16 => I16, i8 => I8, u8 => U8, u16 => U16, u32 => U32, u64 => U64);
