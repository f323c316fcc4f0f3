//! How a part of the configuration is declared, once: what is read, what it means when it is absent, and its JSON Schema.

/// Declares a part of the configuration: its keys, their types and defaults. A key without a default is required. `later` are
/// keys of the contract that this version doesn't have yet.
macro_rules! record {
    (
        $(#[$($doc:tt)*])*
        pub struct $name:ident {
            $( $(#[$($field_doc:tt)*])* $field:ident : $type:ty $(= $default:expr)?, )*
        }
        $(later $later:expr;)?
    ) => {
        $(#[$($doc)*])*
        #[derive(Clone, Debug)]
        pub struct $name { $( $(#[$($field_doc)*])* pub $field: $type, )* }

        impl $name {
            /// What is read.
            pub const KEYS: &[&str] = &[$(stringify!($field)),*];
            /// What later versions will read.
            pub const LATER: &[&str] = $crate::config::declare::record!(@later $($later)?);
        }

        impl $crate::config::shape::Shape for $name {
            fn read(node: &$crate::config::shape::Node<'_>) -> Option<Self> {
                let map = node.map()?;
                $( let $field: Option<$type> = $crate::config::declare::record!(@read map, $field $(, $default)?); )*
                map.finish(Self::LATER);
                Some($name { $( $field: $field?, )* })
            }

            fn schema(parts: &mut $crate::config::schema::Parts) -> serde_json::Value {
                let doc = $crate::config::declare::doc_lines!($([$($doc)*])*);
                $crate::config::schema::record(parts, stringify!($name), doc, |parts, fields| {
                    $( fields.add::<$type>(
                        parts,
                        stringify!($field),
                        $crate::config::declare::doc_lines!($([$($field_doc)*])*),
                        $crate::config::declare::record!(@default $($default)?),
                    ); )*
                })
            }
        }
    };
    (@read $map:ident, $field:ident) => { $map.required(stringify!($field)) };
    (@read $map:ident, $field:ident, $default:expr) => { Some($map.optional(stringify!($field), || $default)) };
    (@default) => { None };
    (@default $default:expr) => { Some($default) };
    (@later) => { &[] };
    (@later $later:expr) => { &$later };
}

/// Declares a closed set of words. `later` are words of the contract that this version doesn't have yet.
macro_rules! choice {
    (
        $(#[$doc:meta])*
        pub enum $name:ident { $( $(#[$variant_doc:meta])* $word:literal => $variant:ident, )* }
        $(later $later:expr;)?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $( $(#[$variant_doc])* $variant, )* }

        impl $crate::config::shape::Shape for $name {
            fn read(node: &$crate::config::shape::Node<'_>) -> Option<Self> {
                let later: &[&str] = $crate::config::declare::record!(@later $($later)?);
                match node.word(&[$($word),*], later)?.as_str() {
                    $( $word => Some($name::$variant), )*
                    _ => None,
                }
            }

            fn schema(_: &mut $crate::config::schema::Parts) -> serde_json::Value {
                $crate::config::schema::words(&[$($word),*])
            }

            fn written(&self) -> Option<serde_json::Value> {
                Some(match self { $( $name::$variant => $word.into(), )* })
            }
        }
    };
}

/// The lines of a docstring, out of all attributes.
macro_rules! doc_lines {
    (@one doc = $text:literal) => { $text };
    (@one $($other:tt)*) => { "" };
    ($([$($attribute:tt)*])*) => {{
        let lines: &[&str] = &[$( $crate::config::declare::doc_lines!(@one $($attribute)*) ),*];
        lines
    }};
}

pub(crate) use {choice, doc_lines, record};
