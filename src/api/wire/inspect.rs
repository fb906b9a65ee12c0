//! Every setting of a worker: what is asked for, what the kernel holds it to, and who says so.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manager::diff::Origin;
use crate::model::{State, WorkerId};

/// `GET /v1/workers/{id}/inspect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Inspection {
    /// Its name.
    pub id: WorkerId,
    /// The id it was declared under.
    pub declared_as: WorkerId,
    /// Who declared it.
    #[serde(default)]
    pub origin: Origin,
    /// Its state.
    pub state: State,
    /// The number of the current or last run.
    pub run: u32,
    /// The main process, while it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The cgroup of its run, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// In the order of the configuration.
    pub settings: Vec<Setting>,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Setting {
    /// Its key, as below `unit`; a variable of the environment as `env.NAME`.
    pub name: String,
    /// What is asked for, as it is written: variables as `${NAME}`, lists as JSON. Absent where nothing is, and where it is not for
    /// whoever asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<String>,
    /// Whether it is kept from whoever asks, who is no admin: a value of the environment, of a header or of a query may be a secret.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withheld: bool,
    /// What holds for the current run, in the kernel's words. Absent where the kernel has no part in it, cannot be asked, or nothing runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<String>,
    /// Where that was read: a file of the cgroup, or a name of `/proc/PID`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_from: Option<String>,
    /// Who says so.
    pub source: Provenance,
}

/// Who says what a setting is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Provenance {
    /// Nobody: it is the default.
    Default,
    /// The worker's declaration.
    Worker {
        /// The file.
        file: String,
        /// Its line.
        line: usize,
    },
    /// The worker's declaration, which was registered over the API.
    Registered,
    /// `defaults`.
    Defaults {
        /// The file.
        file: String,
        /// Its line.
        line: usize,
    },
    /// The global `env`.
    Global {
        /// The file.
        file: String,
        /// Its line.
        line: usize,
    },
    /// `set`, for the present run.
    SetForRun {
        /// For how long (`10m`), where not until its end.
        #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
        for_: Option<String>,
    },
    /// `set --persist`.
    SetToLast,
}
