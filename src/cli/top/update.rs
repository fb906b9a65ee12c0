//! What a message changes, and what is to be done then.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{EVENTS, Mode, Model, Order, Size, Sort, Verb};
use super::source::Seen;
use super::view;
use crate::model::{Detail, Readiness};

/// What comes.
#[derive(Debug)]
pub(super) enum Message {
    Key(KeyEvent),
    Resized(Size),
    Looked(Seen),
    /// The supervisor does not answer, and why.
    Lost(String),
    /// What came of an order.
    Said(String),
    End,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Order(Order),
    Quit,
}

pub(super) fn update(model: &mut Model, message: Message) -> Option<Effect> {
    let effect = match message {
        Message::Key(key) => return self::key(model, key),
        Message::End => Some(Effect::Quit),
        Message::Resized(size) => {
            model.size = size;
            None
        }
        Message::Looked(Seen { workers, events }) => {
            let rates = model.looks.rates(&workers);
            model.workers = workers.into_iter().zip(rates).collect();
            model.events.extend(events);
            let old = model.events.len().saturating_sub(EVENTS);
            model.events.drain(..old);
            model.lost = None;
            None
        }
        Message::Lost(why) => {
            model.lost = Some(why);
            None
        }
        Message::Said(what) => {
            model.said = Some(what);
            None
        }
    };
    settle(model);
    effect
}

fn key(model: &mut Model, key: KeyEvent) -> Option<Effect> {
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return Some(Effect::Quit);
    }
    let effect = match model.mode.clone() {
        Mode::Browse => browse(model, key.code),
        Mode::Filter => {
            type_filter(model, key.code);
            None
        }
        Mode::Confirm(order) => {
            model.mode = Mode::Browse;
            matches!(key.code, KeyCode::Char('y' | 'Y')).then_some(Effect::Order(order))
        }
    };
    settle(model);
    effect
}

fn browse(model: &mut Model, code: KeyCode) -> Option<Effect> {
    model.said = None;
    let page = view::rows_shown(model.size);
    match code {
        KeyCode::Char('q') => return Some(Effect::Quit),
        // What was chosen is let go of first.
        KeyCode::Esc if model.filter.is_empty() => return Some(Effect::Quit),
        KeyCode::Esc => model.filter.clear(),
        KeyCode::Down | KeyCode::Char('j') => go(model, |at| at.saturating_add(1)),
        KeyCode::Up | KeyCode::Char('k') => go(model, |at| at.saturating_sub(1)),
        KeyCode::PageDown => go(model, |at| at.saturating_add(page)),
        KeyCode::PageUp => go(model, |at| at.saturating_sub(page)),
        KeyCode::Home | KeyCode::Char('g') => go(model, |_| 0),
        KeyCode::End | KeyCode::Char('G') => go(model, |_| usize::MAX),
        KeyCode::Char('/') => model.mode = Mode::Filter,
        KeyCode::Char('s') => {
            let at = Sort::ALL.iter().position(|sort| *sort == model.sort).unwrap_or(0);
            sort(model, Sort::ALL[(at + 1) % Sort::ALL.len()]);
        }
        KeyCode::Char('n') => sort(model, Sort::Name),
        KeyCode::Char('c') => sort(model, Sort::Cpu),
        KeyCode::Char('t') => sort(model, Sort::Throttled),
        KeyCode::Char('m') => sort(model, Sort::Memory),
        KeyCode::Char('p') => sort(model, Sort::Stalled),
        KeyCode::Char('i') => model.reverse = !model.reverse,
        KeyCode::Char('r') => confirm(model, |_| Verb::Restart),
        KeyCode::Char('f') => confirm(model, |detail| match detail {
            Detail::Running(Readiness::Frozen) => Verb::Thaw,
            _ => Verb::Freeze,
        }),
        _ => {}
    }
    None
}

fn type_filter(model: &mut Model, code: KeyCode) {
    match code {
        KeyCode::Enter => model.mode = Mode::Browse,
        KeyCode::Esc => {
            model.filter.clear();
            model.mode = Mode::Browse;
        }
        KeyCode::Backspace => drop(model.filter.pop()),
        KeyCode::Char(c) => model.filter.extend(c.to_lowercase()),
        _ => {}
    }
}

fn sort(model: &mut Model, by: Sort) {
    // The same once more is the other way round.
    model.reverse = model.sort == by && !model.reverse;
    model.sort = by;
}

fn confirm(model: &mut Model, verb: impl FnOnce(Detail) -> Verb) {
    if let Some((worker, _)) = model.chosen() {
        let order = Order { verb: verb(worker.detail), worker: worker.id.clone() };
        model.mode = Mode::Confirm(order);
    }
}

/// Chooses another row.
fn go(model: &mut Model, to: impl FnOnce(usize) -> usize) {
    let rows = model.rows();
    let at = rows.iter().position(|(worker, _)| Some(&worker.id) == model.selected.as_ref()).unwrap_or(0);
    let to = to(at).min(rows.len().saturating_sub(1));
    model.selected = rows.get(to).map(|(worker, _)| worker.id.clone());
}

/// Keeps a worker chosen that is among the rows, and its row on the screen.
fn settle(model: &mut Model) {
    let rows = model.rows();
    let known = rows.iter().position(|(worker, _)| Some(&worker.id) == model.selected.as_ref());
    let at = known.unwrap_or(0);
    let (selected, count) = (rows.get(at).map(|(worker, _)| worker.id.clone()), rows.len());
    let page = view::rows_shown(model.size).max(1);
    // No room is left empty below the last row.
    let first = model.first.clamp((at + 1).saturating_sub(page), at).min(count.saturating_sub(page));
    (model.selected, model.first) = (selected, first);
}

#[cfg(test)]
#[path = "update_tests.rs"]
mod tests;
