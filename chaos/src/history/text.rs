//! The text forms of ids and states in a history, the same as everywhere else.
//!
//! Serde adaptors for types of `state`, which does not use serde: `with = "text"` for a value,
//! `text::option` and `text::list` for several.

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::Serializer;

use argosy_state::agent::AgentMode;
use argosy_state::ids::{
    AgentId, Epoch, FrameworkId, NodeId, OfferId, OrderIndex, Revision, Role, TaskId, TaskKey,
};
use argosy_state::resources::Resources;
use argosy_state::task::TaskState;

/// A value with one text form that parses back to itself.
pub(super) trait Text: Sized {
    fn write(&self) -> String;
    fn read(text: &str) -> Option<Self>;
}

pub(super) fn serialize<T: Text, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&value.write())
}

pub(super) fn deserialize<'a, T: Text, D: Deserializer<'a>>(from: D) -> Result<T, D::Error> {
    read(&String::deserialize(from)?)
}

fn read<T: Text, E: Error>(text: &str) -> Result<T, E> {
    T::read(text).ok_or_else(|| {
        let kind = std::any::type_name::<T>();
        E::custom(format!("{text:?} is no {kind}"))
    })
}

/// Adaptor for optional values.
pub(super) mod option {
    use super::{Deserialize, Deserializer, Serializer, Text, read};

    pub(in super::super) fn serialize<T: Text, S: Serializer>(
        value: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.serialize_some(&value.write()),
            None => to.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'a, T: Text, D: Deserializer<'a>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| read(&text)).transpose()
    }
}

/// Adaptor for lists of values.
pub(super) mod list {
    use super::{Deserialize, Deserializer, Serializer, Text, read};

    pub(in super::super) fn serialize<T: Text, S: Serializer>(
        values: &[T],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(Text::write))
    }

    pub(in super::super) fn deserialize<'a, T: Text, D: Deserializer<'a>>(
        from: D,
    ) -> Result<Vec<T>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| read(text)).collect()
    }
}

/// Implements `Text` for types that implement `Display` and `FromStr`.
macro_rules! as_printed {
    ($($name:ty),*) => {$(
        impl Text for $name {
            fn write(&self) -> String {
                self.to_string()
            }

            fn read(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}

as_printed!(AgentId, FrameworkId, NodeId, OfferId, Resources);

/// Implements `Text` for types that are one number.
macro_rules! as_number {
    ($($name:ident),*) => {$(
        impl Text for $name {
            fn write(&self) -> String {
                self.0.to_string()
            }

            fn read(text: &str) -> Option<Self> {
                text.parse().ok().map(Self)
            }
        }
    )*};
}

as_number!(Epoch, OrderIndex);

/// Implements `Text` for enums, by the names of their variants.
macro_rules! as_named {
    ($name:ident: $($variant:ident),*) => {
        impl Text for $name {
            fn write(&self) -> String {
                match self {
                    $(Self::$variant => stringify!($variant).to_owned(),)*
                }
            }

            fn read(text: &str) -> Option<Self> {
                match text {
                    $(stringify!($variant) => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

as_named!(TaskState: Staging, Starting, Running, Killing, Finished, Failed, Killed, Error, Dropped,
    Gone, GoneByOperator, Unreachable, Unknown);
as_named!(AgentMode: Registered, Unreachable, Draining, Drained, Deactivated, Gone);

/// "12:3": log index and position.
impl Text for Revision {
    fn write(&self) -> String {
        format!("{}:{}", self.index, self.position)
    }

    fn read(text: &str) -> Option<Self> {
        let (index, position) = text.split_once(':')?;
        Some(Self {
            index: index.parse().ok()?,
            position: position.parse().ok()?,
        })
    }
}

impl Text for Role {
    fn write(&self) -> String {
        self.to_string()
    }

    fn read(text: &str) -> Option<Self> {
        Self::new(text).ok()
    }
}

/// "framework-3/web-1".
impl Text for TaskKey {
    fn write(&self) -> String {
        self.to_string()
    }

    fn read(text: &str) -> Option<Self> {
        let (framework, task) = text.split_once('/')?;
        Some(Self {
            framework: framework.parse().ok()?,
            task: TaskId::new(task).ok()?,
        })
    }
}
