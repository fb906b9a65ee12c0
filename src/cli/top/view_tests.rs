use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyCode, crossterm::event::KeyEvent};

use super::super::source::Seen;
use super::super::update::{Message, update};
use super::*;
use crate::api::wire::Usage;
use crate::cli::render::samples::fleet;
use crate::model::{ExitCause, OomScope, Pressures, Stalled};

const HOSTILE: &str = "12:00:01.000 web-1   \u{1b}[2Jexited";

fn screen(model: &Model, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view(model, frame)).unwrap();
    terminal
}

/// One of everything, at its second look.
fn model(width: u16, height: u16) -> Model {
    let mut model = Model::new(Size { width, height }, true);
    for look in [0, 1] {
        let mut workers = fleet();
        let stalled = |some_usec| Some(Stalled { some_usec, full_usec: 0 });
        for worker in workers.iter_mut().filter(|worker| worker.usage.is_some()) {
            let pressure = Pressures { memory: stalled(look * 20_000), cpu: stalled(look * 600_000), io: None };
            worker.usage = Some(Usage {
                memory_bytes: Some(240 << 20),
                memory_peak_bytes: Some(255 << 20),
                memory_high_bytes: Some(250 << 20),
                memory_max_bytes: Some(256 << 20),
                cpu_usec: Some(look * 749_000),
                cpu_periods: Some(look * 10),
                cpu_throttled_periods: Some(look * 3),
                pids: Some(12),
                pids_max: Some(64),
                pressure: Some(pressure),
                io_read_bytes: Some(5 << 20),
                io_written_bytes: Some(0),
                at_usec: Some(look * 1_000_000),
                ..Usage::default()
            });
            worker.cause = Some(ExitCause::Oom { scope: OomScope::Worker });
        }
        let events = vec![format!("12:00:0{look}.000 web-1   started (pid 4711)")];
        update(&mut model, Message::Looked(Seen { workers, events }));
    }
    model
}

fn key(model: &mut Model, code: KeyCode) {
    update(model, Message::Key(KeyEvent::from(code)));
}

#[test]
fn everything_has_its_place_in_eighty_columns() {
    insta::assert_snapshot!(screen(&model(80, 24), 80, 24).backend());
}

#[test]
fn a_large_screen_has_more_of_everything() {
    let mut model = model(140, 50);
    key(&mut model, KeyCode::Down);
    insta::assert_snapshot!(screen(&model, 140, 50).backend());
}

#[test]
fn what_is_asked_and_what_is_typed_stands_in_the_last_line() {
    let mut model = model(80, 24);
    let last = |model: &Model| {
        let shown = screen(model, 80, 24).backend().to_string();
        shown.lines().last().unwrap().trim_matches(['"', ' ']).to_owned()
    };
    key(&mut model, KeyCode::Char('r'));
    assert_eq!(last(&model), "restart web-1? y: yes, any other key: no");
    key(&mut model, KeyCode::Char('n'));
    key(&mut model, KeyCode::Char('/'));
    key(&mut model, KeyCode::Char('w'));
    assert_eq!(last(&model), "names with: w_  Enter: keep, Esc: all");
    key(&mut model, KeyCode::Enter);
    update(&mut model, Message::Said("restarting web-1".into()));
    assert_eq!(last(&model), "restarting web-1");
    update(&mut model, Message::Lost("no supervisor answers".into()));
    assert_eq!(last(&model), "no supervisor answers", "what is wrong goes before what was done");
}

#[test]
fn a_thousand_workers_are_a_screen_of_them() {
    let mut model = Model::new(Size { width: 80, height: 24 }, false);
    let workers =
        (0..1000).map(|i| crate::cli::render::samples::running(&format!("worker-{i}"), crate::model::Readiness::Ready));
    update(&mut model, Message::Looked(Seen { workers: workers.collect(), events: Vec::new() }));
    key(&mut model, KeyCode::End);
    let shown = screen(&model, 80, 24).backend().to_string();
    assert_eq!(shown.matches("worker-").count(), rows_shown(model.size) + 1, "and the one that is chosen: {shown}");
    assert!(shown.contains("worker-999") && !shown.contains("worker-980"), "{shown}");
}

#[test]
fn no_size_is_too_small_and_nothing_steers_the_terminal() {
    let mut model = model(80, 24);
    update(&mut model, Message::Looked(Seen { workers: fleet(), events: vec![HOSTILE.to_owned()] }));
    for (width, height) in [(1, 1), (10, 3), (20, 5), (79, 11), (80, 17), (300, 100)] {
        update(&mut model, Message::Resized(Size { width, height }));
        let shown = screen(&model, width, height).backend().to_string();
        assert!(!shown.contains('\u{1b}'), "{width}x{height}");
    }
}

#[test]
fn without_colours_there_are_none() {
    let coloured = |model: &Model| {
        let terminal = screen(model, 80, 24);
        terminal.backend().buffer().content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    let model = model(80, 24);
    assert!(coloured(&model));
    assert!(!coloured(&Model { colour: false, ..model }));
}
