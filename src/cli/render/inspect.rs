//! `inspect`: a line for each setting.

use super::reader::Reader;
use super::table::{Field, table};
use super::words::{inert, size};
use crate::api::wire::{Inspection, Provenance, Setting};

/// The table, with a line end behind every row.
#[must_use]
pub fn inspection(inspection: &Inspection, reader: &Reader) -> String {
    let rows = inspection.settings.iter().map(|setting| {
        let requested = match &setting.requested {
            _ if setting.withheld => "(withheld)".to_owned(),
            Some(text) => inert(text).into_owned(),
            None => "-".to_owned(),
        };
        [inert(&setting.name).into_owned(), requested, effective(setting), source(&setting.source)].map(Field::from)
    });
    table(Some(["SETTING", "REQUESTED", "EFFECTIVE", "SOURCE"]), rows, reader)
}

fn effective(setting: &Setting) -> String {
    let (Some(value), Some(from)) = (&setting.effective, &setting.read_from) else { return "-".to_owned() };
    let bytes = ["memory.max", "memory.high", "memory.swap.max"].contains(&from.as_str());
    match value.parse::<u64>() {
        Ok(number) if bytes && number > 0 => format!("{from} {}", size(number)),
        _ => format!("{from} {}", inert(value)),
    }
}

fn source(source: &Provenance) -> String {
    match source {
        Provenance::Default => "default".to_owned(),
        Provenance::Worker { file, line } => format!("{}:{line}", inert(file)),
        Provenance::Registered => "registered over the API".to_owned(),
        Provenance::Defaults { file, line } => format!("defaults, {}:{line}", inert(file)),
        Provenance::Global { file, line } => format!("env, {}:{line}", inert(file)),
        Provenance::SetForRun { for_: None } => "set, for this run".to_owned(),
        Provenance::SetForRun { for_: Some(time) } => format!("set --for {}", inert(time)),
        Provenance::SetToLast => "set --persist".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{HOSTILE, reader};
    use super::*;
    use crate::api::wire::Origin;
    use crate::model::{State, WorkerId};

    #[test]
    fn each_setting_is_a_line_and_none_can_steer_a_terminal() {
        let setting = |name: &str, requested: Option<&str>, read: Option<(&str, &str)>, source| Setting {
            name: name.into(),
            requested: requested.map(str::to_owned),
            withheld: false,
            effective: read.map(|(_, value)| value.into()),
            read_from: read.map(|(from, _)| from.into()),
            source,
        };
        let at = || ("/etc/pinfold/pinfold.yaml".to_owned(), 7);
        let (file, line) = at();
        let memory = setting(
            "limits.memory.max_rss",
            Some("64MiB"),
            Some(("memory.max", "67108864")),
            Provenance::Worker { file, line },
        );
        let (file, line) = at();
        let token = Setting { withheld: true, ..setting("env.TOKEN", None, None, Provenance::Global { file, line }) };
        let inspected = Inspection {
            id: WorkerId::new("web").unwrap(),
            declared_as: WorkerId::new("web").unwrap(),
            origin: Origin::Registered,
            state: State::Running,
            run: 1,
            pid: Some(4711),
            cgroup: Some("/sys/fs/cgroup/pinfold/workers/web.1".into()),
            settings: vec![
                memory,
                setting("limits.pids.max", Some("9"), Some(("pids.max", "9")), Provenance::SetToLast),
                setting("limits.memory.high", None, Some(("memory.high", "max")), Provenance::Default),
                setting("limits.cpu.weight", Some("7"), None, Provenance::SetForRun { for_: Some("10m".into()) }),
                token,
                setting("umask", Some("0077"), None, Provenance::Registered),
                setting("args", Some(HOSTILE), None, Provenance::Defaults { file: HOSTILE.into(), line: 1 }),
            ],
        };
        insta::assert_snapshot!(inspection(&inspected, &reader()), @r"
        SETTING                REQUESTED                         EFFECTIVE          SOURCE
        limits.memory.max_rss  64MiB                             memory.max 64 MiB  /etc/pinfold/pinfold.yaml:7
        limits.pids.max        9                                 pids.max 9         set --persist
        limits.memory.high     -                                 memory.high max    default
        limits.cpu.weight      7                                 -                  set --for 10m
        env.TOKEN              (withheld)                        -                  env, /etc/pinfold/pinfold.yaml:7
        umask                  0077                              -                  registered over the API
        args                   x\u{1b}[2J\nroot# \u{202e}\u{9b}  -                  defaults, x\u{1b}[2J\nroot# \u{202e}\u{9b}:1
        ");
    }
}
