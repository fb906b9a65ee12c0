//! How pinfold itself does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::history::SinkHealth;
use crate::store;

/// `GET /v1/health`: that there is an answer says that the supervisor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// `ok`; `degraded` while the store is; `going_down` while every worker is being stopped.
    pub status: String,
    /// Of pinfold.
    pub version: String,
    /// The supervisor's process.
    pub pid: u32,
    /// Its parent, the keeper, which is the main process of a service.
    #[serde(default)]
    pub keeper: u32,
    /// For how long the API has been answering.
    pub uptime_ms: u64,
    /// How many workers there are.
    pub workers: usize,
    /// How many of them run.
    pub running: usize,
    /// How the store does.
    pub store: StoreHealth,
    /// How each history sink is, in the order of the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<SinkHealth>,
    /// How often the binary was replaced since `up`.
    #[serde(default)]
    pub reexecs: u32,
    /// Why the supervisor before this one has ended, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
}

/// Whether what outlives the supervisor gets where it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreHealth {
    /// `ok`, or `degraded`: what happens is kept in memory until the store can be written.
    pub status: String,
    /// Why it is degraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Since when, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Of how many workers something waits to be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<usize>,
    /// How many starts and exits of runs had no room in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}

impl From<&store::Health> for StoreHealth {
    fn from(health: &store::Health) -> Self {
        match health {
            store::Health::Ok { .. } => {
                Self { status: "ok".to_owned(), why: None, since: None, pending: None, lost: None }
            }
            store::Health::Degraded { why, since, pending, lost } => Self {
                status: "degraded".to_owned(),
                why: Some(why.clone()),
                since: Some(format!("{since:.3}")),
                pending: Some(*pending),
                lost: Some(*lost),
            },
        }
    }
}
