//! What the stream of events says about itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::Event;

/// A line of `GET /v1/events`: what happened, or what is said about the stream itself.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum EventLine {
    /// An event.
    Event(Box<Placed>),
    /// A marker.
    Marker(Marker),
}

/// An event, and its place in the stream.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Placed {
    /// The event.
    #[serde(flatten)]
    pub event: Event,
    /// Its place in the stream of this supervisor: `after=CURSOR` goes on behind it.
    pub cursor: String,
}

/// What `GET /v1/events` says about the stream itself, between events: a line of JSON that has `marker`, or a
/// server-sent event of that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Marker {
    /// What it is about.
    pub marker: MarkerWord,
    /// In words.
    pub what: String,
    /// How many events are missing here, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
}

/// What a [`Marker`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MarkerWord {
    /// At the beginning: not all that was asked for is kept.
    Gap,
    /// The last: who reads was too slow, and is let go.
    Lagged,
    /// The last: the supervisor has ended.
    End,
    /// One that this version does not know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

impl MarkerWord {
    /// As in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Lagged => "lagged",
            Self::End => "end",
            Self::Unknown => "unknown",
        }
    }
}
