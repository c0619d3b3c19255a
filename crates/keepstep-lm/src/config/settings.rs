//! The one tree of settings: each key with its type, its default and its mark.

/// What a key means to a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mark {
    /// It changes the result: stored in checkpoints and compared on resuming.
    Functional,
    /// It changes speed, places or what is kept, never a byte of a checkpoint.
    Operational,
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
macro_rules! settings {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$field_meta:meta])* $mark:ident $field:ident : $ty:ty = $default:expr, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
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
            pub const KEYS: &'static [$crate::config::settings::Key] = &[
                $( $crate::config::settings::Key {
                    name: stringify!($field),
                    mark: $crate::config::settings::settings!(@mark $mark $ty),
                }, )*
            ];
        }
    };
    (@mark functional $ty:ty) => { $crate::config::settings::Mark::Functional };
    (@mark operational $ty:ty) => { $crate::config::settings::Mark::Operational };
    (@mark section $ty:ty) => { $crate::config::settings::Mark::Section(<$ty>::KEYS) };
}

pub(super) use settings;
