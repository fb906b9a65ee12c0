//! Declarations that readers are made of. One of a record, by its keys ([`record!`](super::declare::record)), gives its
//! reader, its layering over `defaults` and its JSON Schema, so that the three cannot differ; one of a choice, by its names
//! ([`choice!`](super::declare::choice)), reader and schema.

use schemars::SchemaGenerator;

use super::decode::{Decode, Shape};

/// The schema of one key: that of its type, with the key's own description.
pub(super) fn described<T: Decode>(schemas: &mut SchemaGenerator, doc: &str) -> serde_json::Value {
    let mut schema = schemas.subschema_for::<Shape<T>>();
    schema.insert("description".to_owned(), doc.trim().into());
    schema.to_value()
}

/// A key that is a word of the language, as the configuration writes it: `type` of `r#type`.
pub(super) const fn bare(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

/// Declares a record: its keys, their types and what they mean.
macro_rules! record {
    (
        $(#[doc = $about:literal])*
        $(#[allow($($allowed:tt)*)])?
        $name:ident
        $(requires [$($required:ident),*])?
        $(later [$($later:ident),*])?
        { $( $(#[doc = $doc:literal])* $field:ident $(| $alias:ident)? : $type:ty, )* }
    ) => {
        $(#[doc = $about])*
        $(#[allow($($allowed)*)])?
        #[derive(Debug, Clone, Default)]
        pub(in $crate::spec) struct $name {
            $( $(#[doc = $doc])* pub(in $crate::spec) $field: $crate::spec::decode::Field<$type>, )*
        }

        impl $name {
            const KEYS: &'static [&'static str] = &[$( $crate::spec::declare::bare(stringify!($field)) ),*];
            const LATER: &'static [&'static str] = &[$( $( stringify!($later) ),* )?];
        }

        impl $crate::spec::decode::Decode for $name {
            fn decode(
                node: &$crate::spec::tree::Node,
                at: &$crate::spec::problem::Place,
                cx: &mut $crate::spec::decode::Cx<'_>,
            ) -> Option<Self> {
                let mut record = Self::default();
                for entry in cx.entries(node, at, Self::KEYS)? {
                    match entry.key.as_str() {
                        $(
                            key if key == $crate::spec::declare::bare(stringify!($field))
                                $(|| key == stringify!($alias))? => record.$field.take(entry, at, cx),
                        )*
                        _ => cx.unknown_key(entry, at, Self::KEYS, Self::LATER),
                    }
                    if cx.report.full() {
                        break;
                    }
                }
                $( $(
                    if record.$required.is_absent() {
                        let key = stringify!($required);
                        cx.report.add(at, format!("{key} is missing"), format!("add the key {key}"));
                    }
                )* )?
                Some(record)
            }

            fn fill(&mut self, base: &Self) {
                $( self.$field.fill(&base.$field); )*
            }

            fn name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn schema(schemas: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let mut properties = serde_json::Map::new();
                $(
                    let schema = $crate::spec::declare::described::<$type>(schemas, concat!($($doc, "\n"),*));
                    $( properties.insert(stringify!($alias).to_owned(), schema.clone()); )?
                    properties.insert($crate::spec::declare::bare(stringify!($field)).to_owned(), schema);
                )*
                let required: &[&str] = &[$( $( stringify!($required) ),* )?];
                let mut schema = schemars::json_schema!({
                    "type": "object",
                    "description": concat!($($about, "\n"),*).trim(),
                    "additionalProperties": false,
                    "properties": properties,
                });
                if !required.is_empty() {
                    schema.insert("required".to_owned(), required.into());
                }
                schema
            }
        }
    };
}
pub(super) use record;

/// Declares a value that is one of a few names.
macro_rules! choice {
    ($name:ident => $type:ty, $what:literal, { $($word:literal => $value:expr,)* } $(refuses $refused:literal: $why:literal)?) => {
        #[doc = concat!("One of a few names: ", $what, ".")]
        #[derive(Debug, Clone, Copy)]
        pub(in $crate::spec) struct $name(pub(in $crate::spec) $type);

        impl $crate::spec::decode::Names for $name {
            const NAMES: &'static [&'static str] = &[$($word),*];
            const CALLED: &'static str = stringify!($name);
        }

        impl $crate::spec::decode::FromWord for $name {
            const WHAT: &'static str = $what;
            const LIKE: &'static str = concat!("one of the names", $(" ", $word),*);

            fn from_word(word: &$crate::spec::decode::Word<'_>) -> Result<Self, $crate::spec::decode::Wrong> {
                use $crate::spec::decode::{Names, Wrong};
                match &*word.text {
                    $( $word => Ok(Self($value)), )*
                    $( $refused => Err(Wrong::is($why).fix(format!("write one of {}", Self::NAMES.join(", ")))), )?
                    other => {
                        let near = $crate::spec::decode::suggest(other, Self::NAMES.iter().copied())
                            .map_or_else(String::new, |near| format!("did you mean {near}? "));
                        let fix = format!("{near}write one of {}", Self::NAMES.join(", "));
                        Err(Wrong::is(concat!("is not ", $what)).fix(fix))
                    }
                }
            }

            fn name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn schema() -> schemars::Schema {
                schemars::json_schema!({ "anyOf": [
                    { "type": "string", "enum": [$($word),*] },
                    $crate::spec::units::variable(),
                ] })
            }
        }
    };
}
pub(super) use choice;
