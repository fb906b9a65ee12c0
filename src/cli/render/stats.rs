//! `stats`: a line for each worker that runs.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::reader::Reader;
use super::words::size;
use crate::cli::stats::Line;

const HEADER: [&str; 10] =
    ["NAME", "CPU", "THROTTLED", "MEM", "LIMIT", "PEAK", "PIDS", "READ/WRITTEN", "STALLED m/c/io", "RUN"];

/// The table, with a line end behind every row.
#[must_use]
pub fn stats_table(lines: &[Line], reader: &Reader) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    if let Some(width) = reader.width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table.set_header(HEADER);
    for Line { worker, run, usage, rates } in lines {
        let bytes = |bytes: Option<u64>| bytes.map_or_else(dash, size);
        let stalled = [rates.memory_stalled_percent, rates.cpu_stalled_percent, rates.io_stalled_percent];
        let pids = match (usage.pids, usage.pids_max) {
            (Some(pids), Some(max)) => format!("{pids}/{max}"),
            (pids, _) => pids.map_or_else(dash, |pids| pids.to_string()),
        };
        // Where memory is held at `high`, that is where it is felt first.
        let limit = [usage.memory_high_bytes, usage.memory_max_bytes].into_iter().flatten().min();
        let io = match (usage.io_read_bytes, usage.io_written_bytes) {
            (None, None) => dash(),
            (read, written) => format!("{} / {}", bytes(read), bytes(written)),
        };
        table.add_row([
            Cell::new(worker),
            right(percent(rates.cpu_percent)),
            right(percent(rates.throttled_percent)),
            right(bytes(usage.memory_bytes)),
            right(bytes(limit)),
            right(bytes(usage.memory_peak_bytes)),
            right(pids),
            right(io),
            right(if stalled == [None; 3] { dash() } else { stalled.map(percent).join(" ") }),
            right(run.to_string()),
        ]);
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn dash() -> String {
    "-".to_owned()
}

fn percent(percent: Option<f64>) -> String {
    percent.map_or_else(dash, |percent| format!("{percent:.1}%"))
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

#[cfg(test)]
mod tests {
    use super::super::samples::reader;
    use super::*;
    use crate::api::wire::Usage;
    use crate::cli::stats::Rates;
    use crate::model::WorkerId;

    fn lines() -> Vec<Line> {
        let busy = Usage {
            memory_bytes: Some(200 << 20),
            memory_peak_bytes: Some(255 << 20),
            memory_high_bytes: Some(230 << 20),
            memory_max_bytes: Some(256 << 20),
            pids: Some(12),
            pids_max: Some(64),
            io_read_bytes: Some(5 << 20),
            io_written_bytes: Some(0),
            ..Usage::default()
        };
        let rates = Rates {
            cpu_percent: Some(74.9),
            throttled_percent: Some(31.0),
            memory_stalled_percent: Some(0.0),
            cpu_stalled_percent: Some(12.25),
            io_stalled_percent: None,
        };
        let line = |worker, usage, rates| Line { worker: WorkerId::new(worker).unwrap(), run: 3, usage, rates };
        let few = Usage { memory_bytes: Some(512), pids: Some(1), ..Usage::default() };
        vec![
            line("web-1", busy, rates),
            line("free", few, Rates::default()),
            line("x", Usage::default(), Rates::default()),
        ]
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        insta::assert_snapshot!(stats_table(&lines(), &reader()));
    }

    #[test]
    fn a_terminal_of_eighty_columns_has_room_for_it() {
        let table = stats_table(&lines(), &Reader { width: Some(80), ..reader() });
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    }

    #[test]
    fn nobody_is_a_header() {
        assert_eq!(stats_table(&[], &reader()).lines().count(), 1);
    }
}
