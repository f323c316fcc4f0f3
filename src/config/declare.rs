//! How a part of the configuration is declared, once: what is read, what it means when it is absent, and its JSON Schema.

/// Declares a part of the configuration: its keys, their types and defaults. A key without a default is required.
macro_rules! record {
    (
        $(#[$($doc:tt)*])*
        pub struct $name:ident {
            $( $(#[$($field_doc:tt)*])* $field:ident : $type:ty $(= $default:expr)?, )*
        }
    ) => {
        $(#[$($doc)*])*
        #[derive(Clone, Debug)]
        pub struct $name { $( $(#[$($field_doc)*])* pub $field: $type, )* }

        impl $name {
            /// What is read.
            pub const KEYS: &[&str] = &[$(stringify!($field)),*];
        }

        impl $crate::config::shape::Shape for $name {
            fn read(node: &$crate::config::shape::Node<'_>) -> Option<Self> {
                let map = node.map()?;
                $( let $field: Option<$type> = $crate::config::declare::record!(@read map, $field $(, $default)?); )*
                map.finish();
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
}

/// Declares a closed set of words.
macro_rules! choice {
    (
        $(#[$doc:meta])*
        pub enum $name:ident { $( $(#[$variant_doc:meta])* $word:literal => $variant:ident, )* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $( $(#[$variant_doc])* $variant, )* }

        impl $crate::config::shape::Shape for $name {
            fn read(node: &$crate::config::shape::Node<'_>) -> Option<Self> {
                match node.word(&[$($word),*])?.as_str() {
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
