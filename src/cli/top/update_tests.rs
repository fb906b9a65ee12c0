use super::*;
use crate::api::wire::{Usage, Worker};
use crate::cli::render::samples::running;

pub(in crate::cli::top) fn worker(name: &str, cpu_usec: u64, memory_bytes: u64, at_usec: u64) -> Worker {
    let usage = Usage {
        cpu_usec: Some(cpu_usec),
        memory_bytes: Some(memory_bytes),
        at_usec: Some(at_usec),
        ..Usage::default()
    };
    Worker { usage: Some(usage), ..running(name, Readiness::Ready) }
}

fn seen(workers: Vec<Worker>) -> Message {
    Message::Looked(Seen { workers, events: Vec::new() })
}

/// `b` burns, `a` has much memory, `c` neither.
fn model() -> Model {
    let mut model = Model::new(Size { width: 80, height: 24 }, false);
    for at in [0, 1_000_000] {
        let fleet = vec![worker("b", at / 2, 1, at), worker("a", 0, 9, at), worker("c", 0, 5, at)];
        update(&mut model, seen(fleet));
    }
    model
}

fn press(model: &mut Model, keys: &str) -> Option<Effect> {
    keys.chars().map(|c| update(model, Message::Key(KeyEvent::from(KeyCode::Char(c))))).last().flatten()
}

fn code(model: &mut Model, code: KeyCode) -> Option<Effect> {
    update(model, Message::Key(KeyEvent::from(code)))
}

fn names(model: &Model) -> Vec<&str> {
    model.rows().iter().map(|(worker, _)| worker.id.as_str()).collect()
}

fn selected(model: &Model) -> &str {
    model.selected.as_ref().map_or("", |id| id.as_str())
}

#[test]
fn rows_are_as_declared_until_a_key_sorts_them() {
    let mut model = model();
    assert_eq!(names(&model), ["b", "a", "c"]);
    press(&mut model, "n");
    assert_eq!(names(&model), ["a", "b", "c"]);
    press(&mut model, "c");
    assert_eq!(names(&model), ["b", "a", "c"], "the largest first; what is equal as it is declared");
    press(&mut model, "m");
    assert_eq!(names(&model), ["a", "c", "b"]);
    press(&mut model, "m");
    assert_eq!(names(&model), ["b", "c", "a"], "the same once more is the other way round");
    for sort in Sort::ALL.into_iter().cycle().skip(5).take(7) {
        assert_ne!(model.sort, sort);
        press(&mut model, "s");
        assert_eq!(model.sort, sort, "s goes through all of them");
    }
}

#[test]
fn what_is_chosen_stays_chosen_wherever_its_row_goes() {
    let mut model = model();
    assert_eq!(selected(&model), "b", "the first to begin with");
    code(&mut model, KeyCode::Down);
    assert_eq!(selected(&model), "a");
    press(&mut model, "c");
    assert_eq!(selected(&model), "a");
    update(&mut model, seen(vec![worker("c", 0, 1, 0), worker("a", 0, 1, 0)]));
    assert_eq!(selected(&model), "a", "another worker has gone");
    update(&mut model, seen(vec![worker("c", 0, 1, 0)]));
    assert_eq!(selected(&model), "c", "it has gone itself");
    update(&mut model, seen(Vec::new()));
    assert_eq!((code(&mut model, KeyCode::Down), selected(&model)), (None, ""), "nobody is there");
    assert_eq!(press(&mut model, "r"), None);
    assert_eq!(model.mode, Mode::Browse, "and nobody can be restarted");
}

#[test]
fn a_filter_is_typed_and_taken_back() {
    let mut model = model();
    press(&mut model, "/Cq");
    assert_eq!((model.filter.as_str(), names(&model)), ("cq", Vec::new()), "letters are letters there, small or not");
    code(&mut model, KeyCode::Backspace);
    code(&mut model, KeyCode::Enter);
    assert_eq!((names(&model), selected(&model)), (vec!["c"], "c"));
    assert_eq!(code(&mut model, KeyCode::Esc), None, "the filter goes first");
    assert_eq!(names(&model).len(), 3);
    assert_eq!(code(&mut model, KeyCode::Esc), Some(Effect::Quit));
}

#[test]
fn nothing_is_done_to_a_worker_without_a_second_key() {
    let mut model = model();
    let order = |verb| Order { verb, worker: "b".parse().unwrap() };
    assert_eq!(press(&mut model, "r"), None);
    assert_eq!(model.mode, Mode::Confirm(order(Verb::Restart)));
    assert_eq!(press(&mut model, "q"), None, "any other key is a no, not a wish to quit");
    assert_eq!(press(&mut model, "ry"), Some(Effect::Order(order(Verb::Restart))));
    assert_eq!(press(&mut model, "fy"), Some(Effect::Order(order(Verb::Freeze))));
    let frozen = Worker { detail: Detail::Running(Readiness::Frozen), ..worker("b", 0, 0, 0) };
    update(&mut model, seen(vec![frozen]));
    assert_eq!(press(&mut model, "fy"), Some(Effect::Order(order(Verb::Thaw))), "what is frozen is thawed");
}

#[test]
fn an_order_is_about_the_worker_that_was_named_whatever_comes_meanwhile() {
    let mut model = model();
    press(&mut model, "r");
    update(&mut model, seen(vec![worker("z", 0, 0, 0)]));
    let Some(Effect::Order(order)) = press(&mut model, "y") else { panic!() };
    assert_eq!(order.worker.as_str(), "b");
}

#[test]
fn the_chosen_row_is_on_the_screen_and_the_screen_is_full() {
    let mut model = Model::new(Size { width: 80, height: 24 }, false);
    update(&mut model, seen((0..1000).map(|i| worker(&format!("w{i}"), 0, 0, 0)).collect()));
    let page = view::rows_shown(model.size);
    assert!((8..20).contains(&page), "{page}");
    code(&mut model, KeyCode::PageDown);
    assert_eq!((selected(&model), model.first), (&*format!("w{page}"), 1));
    code(&mut model, KeyCode::End);
    assert_eq!((selected(&model), model.first), ("w999", 1000 - page));
    update(&mut model, Message::Resized(Size { width: 80, height: 60 }));
    assert_eq!(model.first, 1000 - view::rows_shown(model.size), "a larger screen is filled, too");
    code(&mut model, KeyCode::Up);
    assert_eq!(model.first, 1000 - view::rows_shown(model.size), "what is on the screen does not move it");
    code(&mut model, KeyCode::Home);
    assert_eq!((selected(&model), model.first), ("w0", 0));
    update(&mut model, Message::Resized(Size { width: 1, height: 1 }));
    code(&mut model, KeyCode::End);
    assert_eq!(selected(&model), "w999", "no size is too small");
}

#[test]
fn events_are_kept_for_a_screen_and_no_longer() {
    let mut model = model();
    let events = (0..3 * EVENTS).map(|i| i.to_string()).collect();
    update(&mut model, Message::Looked(Seen { workers: Vec::new(), events }));
    assert_eq!((model.events.len(), model.events.back().map(String::as_str)), (EVENTS, Some("299")));
}

#[test]
fn a_supervisor_that_is_lost_is_told_until_it_answers() {
    let mut model = model();
    update(&mut model, Message::Lost("gone".into()));
    assert_eq!((model.lost.as_deref(), names(&model).len()), (Some("gone"), 3), "what was known stays on the screen");
    update(&mut model, seen(Vec::new()));
    assert_eq!(model.lost, None);
}

#[test]
fn control_c_and_signals_end_it_from_everywhere() {
    let control_c = || Message::Key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
    for keys in ["", "/", "r"] {
        let mut model = model();
        press(&mut model, keys);
        assert_eq!(update(&mut model, control_c()), Some(Effect::Quit), "{keys}");
        assert_eq!(update(&mut model, Message::End), Some(Effect::Quit));
    }
}
