//! Settings as people write them: each key with its type, its default and its mark; spans of time; paths.

mod expand;
mod time_span;

pub use expand::{UnsetVariable, expand};
pub use time_span::TimeSpan;

#[doc(hidden)]
pub use serde;

/// What a key means to a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mark {
    /// It changes the result: stored in checkpoints and compared on resuming.
    Result,
    /// It changes speed, places or what is kept, never a byte of a checkpoint.
    Runtime,
    /// A table of further keys.
    Section(&'static [Key]),
}

/// A key of a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its mark.
    pub mark: Mark,
}

/// Defines a table: a struct that serde reads, the defaults, and the list of its keys with their marks.
#[macro_export]
macro_rules! settings {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$field_meta:meta])* $mark:ident $field:ident : $ty:ty = $default:expr, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, $crate::settings::serde::Serialize, $crate::settings::serde::Deserialize)]
        #[serde(crate = "keepstep::settings::serde")]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $ty, )*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $( $field: $default, )* }
            }
        }

        impl $name {
            /// The keys of this table.
            pub const KEYS: &'static [$crate::settings::Key] = &[
                $( $crate::settings::Key {
                    name: stringify!($field),
                    mark: $crate::settings!(@mark $mark $ty),
                }, )*
            ];
        }
    };
    (@mark result $ty:ty) => { $crate::settings::Mark::Result };
    (@mark runtime $ty:ty) => { $crate::settings::Mark::Runtime };
    (@mark section $ty:ty) => { $crate::settings::Mark::Section(<$ty>::KEYS) };
}
