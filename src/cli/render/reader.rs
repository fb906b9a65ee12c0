//! Who reads: everything about the other side of stdout that changes what is written to it.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use anstyle::{AnsiColor, Style};
use jiff::{Timestamp, tz::TimeZone};

use crate::model::{Detail, Readiness, State, StoppedDetail, StoppingDetail};

/// A reader. A pipe has neither width nor colour.
#[derive(Debug, Clone)]
pub struct Reader {
    /// Columns of the terminal; `None` is as many as it takes.
    pub width: Option<u16>,
    /// Whether colours are seen, and wanted.
    pub colour: bool,
    /// Whose clock is on the wall.
    pub zone: Zone,
    /// What it says.
    pub now: Timestamp,
}

/// A time zone that is looked for when it is first asked for: finding the system's takes a look into every directory of
/// its database, a millisecond that most of what is shown has no use for. Clones look once.
#[derive(Debug, Clone)]
pub struct Zone(Arc<OnceLock<TimeZone>>);

impl Zone {
    /// The system's (`TZ`, else `/etc/localtime`).
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::default())
    }

    pub(super) fn get(&self) -> &TimeZone {
        self.0.get_or_init(TimeZone::system)
    }
}

impl From<TimeZone> for Zone {
    fn from(zone: TimeZone) -> Self {
        Self(Arc::new(zone.into()))
    }
}

/// How something is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
}

impl Tone {
    pub(super) const fn colour(self) -> Option<AnsiColor> {
        match self {
            Self::Plain => None,
            Self::Good => Some(AnsiColor::Green),
            Self::Warn => Some(AnsiColor::Yellow),
            Self::Bad => Some(AnsiColor::Red),
        }
    }

    pub(super) fn style(self) -> Style {
        Style::new().fg_color(self.colour().map(Into::into))
    }

    /// Of a state.
    pub(in crate::cli) const fn of(detail: Detail) -> Self {
        match detail {
            Detail::Running(Readiness::Ready) => Self::Good,
            Detail::Stopped(StoppedDetail::Failed | StoppedDetail::BreakerOpen)
            | Detail::Stopping(StoppingDetail::Unkillable) => Self::Bad,
            Detail::Stopped(StoppedDetail::Never | StoppedDetail::Done | StoppedDetail::Stopped) => Self::Plain,
            Detail::Stopped(StoppedDetail::Waiting)
            | Detail::Preparing
            | Detail::Launching
            | Detail::Running(_)
            | Detail::Stopping(_) => Self::Warn,
        }
    }
}

impl Reader {
    /// `text` in the colour of `tone`, where colours are seen.
    pub(super) fn painted(&self, tone: Tone, text: &str) -> String {
        if !self.colour || tone == Tone::Plain {
            return text.to_owned();
        }
        let style = tone.style();
        format!("{style}{text}{style:#}")
    }

    /// A moment of an event, with its day. What is no moment is shown as it is, made inert.
    pub(super) fn date(&self, time: &str) -> String {
        self.told(time, "%F %T")
    }

    /// The same without the day.
    pub(super) fn time(&self, time: &str) -> String {
        self.told(time, "%T%.3f")
    }

    fn told(&self, time: &str, format: &str) -> String {
        match time.parse::<Timestamp>() {
            Ok(time) => time.to_zoned(self.zone.get().clone()).strftime(format).to_string(),
            Err(_) => super::inert(time).into_owned(),
        }
    }
}

/// `running`, `running (degraded)`, `stopped (failed)`: a detail is named where it says more than the state.
pub(super) fn state_words(state: State, detail: Detail) -> Cow<'static, str> {
    match detail {
        Detail::Running(Readiness::Ready) | Detail::Stopped(StoppedDetail::Stopped) => state.as_str().into(),
        detail => format!("{} ({})", state.as_str(), detail.as_str()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{fleet, reader};
    use super::*;
    use crate::api::wire::Glimpse;

    #[test]
    fn a_table_without_a_time_of_day_looks_for_no_zone() {
        let reader = Reader { zone: Zone::system(), ..reader() };
        let shown: Vec<Glimpse> = fleet().iter().map(Glimpse::from).collect();
        assert!(super::super::worker_table(&shown, &reader).lines().count() > shown.len());
        assert!(reader.zone.0.get().is_none());
        reader.date("2026-11-20T12:00:00Z");
        assert!(reader.zone.0.get().is_some(), "it is found when it is needed");
    }
}
