//! Settings in config files: keys with types, defaults and marks; durations; paths.

mod expand;
mod time_span;

pub use expand::{UnsetVariable, expand};
pub use time_span::TimeSpan;

#[doc(hidden)]
pub use serde;

/// The effect of a key on a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mark {
    /// Changes the result. It is stored in checkpoints and compared on resuming.
    Result,
    /// Changes speed, paths or which files are kept, never a byte of a checkpoint.
    Runtime,
    /// Contains further keys.
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

/// Defines a table: a struct that serde reads and writes, its defaults, and the list of its keys with their marks.
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
