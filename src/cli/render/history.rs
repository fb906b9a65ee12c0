//! `history`: the runs of a worker, a line for each.

use std::time::Duration;

use super::reader::Reader;
use super::table::{Field, table};
use super::words::{brief, inert};
use crate::api::wire::History;

/// The table, the newest run first, with a line end behind every row.
#[must_use]
pub fn history_table(history: &History, reader: &Reader) -> String {
    let header = ["RUN", "TRIGGER", "STARTED", "ENDED", "LASTED", "CAUSE"];
    let rows = history.runs.iter().map(|run| {
        [
            Field::from(run.run.to_string()),
            Field::or_dash(run.trigger),
            Field::or_dash(run.started.as_deref().map(|at| reader.date(at))),
            Field::or_dash(run.ended.as_deref().map(|at| reader.date(at))),
            Field::or_dash(run.lasted_ms.map(|ms| brief(Duration::from_millis(ms)))),
            Field::or_dash(run.cause.as_ref().map(|cause| inert(&cause.to_string()).into_owned())),
        ]
    });
    table(Some(header), rows, reader)
}

#[cfg(test)]
mod tests {
    use super::super::samples::reader;
    use super::*;
    use crate::api::wire::PastRun;
    use crate::model::{Begun, Confidence, ExitCause, OomScope, WorkerId};

    #[test]
    fn every_run_is_a_line_and_what_is_not_known_is_a_dash() {
        let at = |time: &str| Some(format!("2026-11-20T{time}.000Z"));
        let run = |run, trigger, started, ended, lasted_ms, cause| PastRun {
            run,
            trigger,
            pid: None,
            started,
            ended,
            lasted_ms,
            cause,
            confidence: Some(Confidence::Certain),
        };
        let oom = Some(ExitCause::Oom { scope: OomScope::Worker });
        let runs = vec![
            run(3, Some(Begun::Operator), at("11:59:00"), None, None, None),
            run(2, Some(Begun::Violation), at("11:00:00"), at("11:58:30"), Some(3_510_000), oom),
            run(1, None, None, at("10:59:59"), None, Some(ExitCause::KilledExternal)),
        ];
        let history = History { worker: WorkerId::new("web-1").unwrap(), runs };
        insta::assert_snapshot!(history_table(&history, &reader()));
    }
}
