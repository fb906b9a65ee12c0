//! What a metric is, and the list of all.

use std::fmt;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::latency::Latencies;
use super::scrape::{Row, Scrape};
use super::{own, worker};

/// A metric with all its series.
#[derive(Debug)]
pub struct Family {
    /// Its name, without what unit and kind add to it.
    pub name: &'static str,
    /// In what it is measured.
    pub unit: Option<Unit>,
    /// Of what kind it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says. Without quotes and backslashes, which one of the formats would have escaped.
    pub help: &'static str,
    /// Its series, as they are now.
    pub(super) tell: fn(&Scrape, &mut Series<'_, '_>) -> fmt::Result,
}

/// What its numbers mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It goes up and down.
    Gauge,
    /// It grows until the supervisor ends.
    Counter,
    /// It is 1; what it says is in its labels.
    Info,
    /// How many were how long.
    Histogram,
}

impl Kind {
    pub(super) const fn metric_type(self) -> MetricType {
        match self {
            Self::Gauge => MetricType::Gauge,
            Self::Counter => MetricType::Counter,
            Self::Info => MetricType::Info,
            Self::Histogram => MetricType::Histogram,
        }
    }
}

impl Family {
    /// The name as whoever queries writes it.
    #[must_use]
    pub fn full_name(&self) -> String {
        let unit = self.unit.as_ref().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let kind = match self.kind {
            Kind::Gauge | Kind::Histogram => "",
            Kind::Counter => "_total",
            Kind::Info => "_info",
        };
        format!("{}{unit}{kind}", self.name)
    }
}

/// All of them, in the order they are told.
#[must_use]
pub fn families() -> Vec<&'static Family> {
    worker::FAMILIES.iter().chain(own::FAMILIES).collect()
}

/// A number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    Whole(u64),
    Real(f64),
}

impl Value {
    /// Microseconds, in seconds.
    #[expect(clippy::cast_precision_loss, reason = "microseconds of 285 years are told exactly")]
    pub(super) fn seconds(usec: u64) -> Self {
        Self::Real(usec as f64 / 1e6)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

/// Where the series of one family are told.
pub(super) struct Series<'e, 'w> {
    encoder: &'e mut MetricEncoder<'w>,
    family: &'static Family,
}

/// The labels of one series.
struct Labels<'a> {
    names: &'static [&'static str],
    values: &'a [&'a str],
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        debug_assert_eq!(self.names.len(), self.values.len(), "a value for each label: {:?}", self.names);
        for pair in self.names.iter().zip(self.values) {
            (*pair.0, *pair.1).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

impl<'e, 'w> Series<'e, 'w> {
    pub(super) const fn new(encoder: &'e mut MetricEncoder<'w>, family: &'static Family) -> Self {
        Self { encoder, family }
    }

    /// One series, with a value for each label.
    pub(super) fn tell(&mut self, values: &[&str], value: impl Into<Value>) -> fmt::Result {
        let labels = Labels { names: self.family.labels, values };
        if self.family.kind == Kind::Info {
            return self.encoder.encode_info(&labels);
        }
        let mut one = self.encoder.encode_family(&labels)?;
        match (self.family.kind, value.into()) {
            (Kind::Counter, Value::Whole(value)) => one.encode_counter::<NoLabelSet, _, u64>(&value, None),
            (Kind::Counter, Value::Real(value)) => one.encode_counter::<NoLabelSet, _, u64>(&value, None),
            (_, Value::Whole(value)) => one.encode_gauge(&value),
            (_, Value::Real(value)) => one.encode_gauge(&value),
        }
    }

    /// A histogram without labels.
    pub(super) fn distribution(&mut self, told: &Latencies) -> fmt::Result {
        self.encoder.encode_histogram::<NoLabelSet>(told.sum, told.count, &told.buckets, None)
    }

    /// One series for each worker that has such a number.
    pub(super) fn of_each(&mut self, scrape: &Scrape, number: impl Fn(&Row) -> Option<Value>) -> fmt::Result {
        for row in &scrape.workers {
            if let Some(value) = number(row) {
                self.tell(&[row.worker.as_str()], value)?;
            }
        }
        Ok(())
    }
}
