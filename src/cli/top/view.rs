//! The screen. A function of the model and nothing else.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Borders, Cell, Paragraph, Row, Table},
};

use super::model::{Mode, Model, Size, memory_percent, stalled, usage, word};
use crate::api::wire::Worker;
use crate::cli::render::{Tone, inert, size};
use crate::cli::stats::Rates;
use crate::model::State;

/// Lines of what is said about the worker that is chosen, with the line above.
const CHOSEN: u16 = 3;

/// What the rows of a table take beside the names, at least.
const NAME: u16 = 12;

/// Header, rows, the chosen one, events, keys.
fn areas(height: u16) -> [Constraint; 5] {
    // Where there is little room, workers have it.
    let events = if height < 18 { 0 } else { height / 4 + 1 };
    let chosen = if height < 12 { 0 } else { CHOSEN };
    [
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(chosen),
        Constraint::Length(events),
        Constraint::Length(1),
    ]
}

/// How many rows of workers a terminal of this size shows.
pub(super) fn rows_shown(Size { width, height }: Size) -> usize {
    let [_, table, ..] = Layout::vertical(areas(height)).areas::<5>(Rect::new(0, 0, width, height));
    usize::from(table.height.saturating_sub(1))
}

pub(super) fn view(model: &Model, frame: &mut Frame) {
    let [head, table, chosen, events, keys] = Layout::vertical(areas(frame.area().height)).areas(frame.area());
    let rows = model.rows();
    frame.render_widget(self::head(model, rows.len()), head);
    frame.render_widget(self::table(model, &rows, usize::from(table.height.saturating_sub(1))), table);
    frame.render_widget(self::chosen(model), chosen);
    frame.render_widget(self::events(model, events), events);
    frame.render_widget(self::keys(model), keys);
}

fn head(model: &Model, shown: usize) -> Paragraph<'static> {
    let running = model.workers.iter().filter(|(worker, _)| worker.state == State::Running).count();
    // The sum of nothing would be -0.
    let cpu = model.workers.iter().filter_map(|(_, rates)| rates.cpu_percent).fold(0.0, |sum, cpu| sum + cpu);
    let memory: u64 = model.workers.iter().filter_map(|(worker, _)| usage(worker).memory_bytes).sum();
    let count = model.workers.len();
    let workers = if count == 1 { "worker" } else { "workers" };
    let (by, order) = (model.sort.as_str(), if model.reverse { " reversed" } else { "" });
    let filter = match &*model.filter {
        "" => String::new(),
        filter => format!("  {shown} with {filter:?}"),
    };
    let text =
        format!(" {count} {workers}, {running} running  cpu {cpu:.1}%  mem {}  by {by}{order}{filter}", size(memory));
    Paragraph::new(text).bold()
}

fn table<'m>(model: &'m Model, rows: &[&'m (Worker, Rates)], room: usize) -> Table<'m> {
    let shown = rows.iter().skip(model.first).take(room);
    let row = |(worker, rates): &&'m (Worker, Rates)| {
        let usage = usage(worker);
        let memory = memory_percent(&usage);
        let row = Row::new([
            Cell::new(worker.id.as_str()),
            Cell::new(word(worker)).style(model.tone(Tone::of(worker.detail))),
            right(percent(rates.cpu_percent)),
            right(percent(rates.throttled_percent)).style(model.alarm(rates.throttled_percent, 25.0, 75.0)),
            right(bytes(usage.memory_bytes)),
            right(memory.map_or_else(dash, |percent| format!("{percent:.0}%"))).style(model.alarm(memory, 80.0, 95.0)),
            right(bytes(usage.memory_peak_bytes)),
            right(percent(stalled(rates))).style(model.alarm(stalled(rates), 10.0, 50.0)),
            right(usage.pids.map_or_else(dash, |pids| pids.to_string())),
        ]);
        let chosen = model.selected.as_ref() == Some(&worker.id);
        if chosen { row.style(Modifier::REVERSED) } else { row }
    };
    let header = ["CPU", "THR", "MEM", "MEM%", "PEAK", "STALL", "PIDS"].map(|title| right(title.to_owned()));
    let header = [Cell::new("NAME"), Cell::new("STATE")].into_iter().chain(header);
    let widths = [12, 7, 6, 10, 4, 10, 6, 5].map(Constraint::Length);
    let widths = std::iter::once(Constraint::Min(NAME)).chain(widths);
    Table::new(shown.map(row), widths).header(Row::new(header).style(Modifier::UNDERLINED))
}

/// Everything about the one that is chosen.
fn chosen(model: &Model) -> Paragraph<'static> {
    let block = Block::new().borders(Borders::TOP);
    let Some((worker, rates)) = model.chosen() else { return Paragraph::new("").block(block) };
    let usage = usage(worker);
    let limit =
        |name: &str, limit: Option<u64>| limit.map(|limit| format!(" {name} {}", size(limit))).unwrap_or_default();
    let pids = usage.pids.map_or_else(dash, |pids| pids.to_string());
    let pids = usage.pids_max.map_or_else(|| pids.clone(), |max| format!("{pids}/{max}"));
    let first = format!(
        "memory {}{}{} peak {}  cpu {} throttled {}  pids {pids}",
        bytes(usage.memory_bytes),
        limit("high", usage.memory_high_bytes),
        limit("max", usage.memory_max_bytes),
        bytes(usage.memory_peak_bytes),
        percent(rates.cpu_percent),
        percent(rates.throttled_percent),
    );
    let second = format!(
        "run {} restarts {} {}  stalled memory {} cpu {} io {}  read {} written {}",
        worker.run,
        worker.restarts,
        worker.cause.as_ref().map_or_else(dash, |cause| inert(&cause.to_string()).into_owned()),
        percent(rates.memory_stalled_percent),
        percent(rates.cpu_stalled_percent),
        percent(rates.io_stalled_percent),
        bytes(usage.io_read_bytes),
        bytes(usage.io_written_bytes),
    );
    let title = format!(" {} ", worker.id);
    Paragraph::new(vec![Line::from(first), Line::from(second)]).block(block.title(title))
}

fn events(model: &Model, area: Rect) -> Paragraph<'_> {
    let room = usize::from(area.height.saturating_sub(1));
    let skipped = model.events.len().saturating_sub(room);
    let lines: Vec<Line> = model.events.iter().skip(skipped).map(|line| Line::from(line.as_str())).collect();
    Paragraph::new(lines).block(Block::new().borders(Borders::TOP).title(" events "))
}

fn keys(model: &Model) -> Paragraph<'_> {
    let (text, style) = match (&model.mode, &model.lost, &model.said) {
        (Mode::Confirm(order), ..) => {
            (format!(" {} {}? y: yes, any other key: no", order.verb.as_str(), order.worker), model.warn())
        }
        (Mode::Filter, ..) => (format!(" names with: {}_  Enter: keep, Esc: all", model.filter), Style::new()),
        (_, Some(lost), _) => (format!(" {lost}"), model.warn()),
        (_, _, Some(said)) => (format!(" {said}"), Style::new()),
        _ => {
            let keys = " q quit  / filter  s n c t m p sort  i invert  r restart  f freeze or thaw";
            (keys.to_owned(), Style::new().add_modifier(Modifier::DIM))
        }
    };
    Paragraph::new(Line::from(Span::styled(text, style)))
}

impl Model {
    fn painted(&self, colour: Option<Color>) -> Style {
        colour.filter(|_| self.colour).map_or_else(Style::new, |colour| Style::new().fg(colour))
    }

    fn tone(&self, tone: Tone) -> Style {
        self.painted(match tone {
            Tone::Plain => None,
            Tone::Good => Some(Color::Green),
            Tone::Warn => Some(Color::Yellow),
            Tone::Bad => Some(Color::Red),
        })
    }

    fn alarm(&self, value: Option<f64>, warn: f64, bad: f64) -> Style {
        self.tone(match value {
            Some(value) if value >= bad => Tone::Bad,
            Some(value) if value >= warn => Tone::Warn,
            _ => Tone::Plain,
        })
    }

    fn warn(&self) -> Style {
        self.tone(Tone::Warn).add_modifier(Modifier::BOLD)
    }
}

fn right(text: String) -> Cell<'static> {
    Cell::new(Line::from(text).alignment(Alignment::Right))
}

fn bytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(dash, size)
}

fn percent(percent: Option<f64>) -> String {
    percent.map_or_else(dash, |percent| format!("{percent:.1}%"))
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
