//! The text: which of the two formats somebody wants, and the families in it one after the other.

use std::{fmt, sync::Arc};

use mediatype::{
    MediaType, MediaTypeList, Name, ReadParams,
    names::{_STAR, APPLICATION, PLAIN, Q, TEXT},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, prometheus_text, text},
    registry::Registry,
};

use super::family::{Family, Series};
use super::scrape::Scrape;

const VERSION: Name<'static> = Name::new_unchecked("version");
const OPENMETRICS_TEXT: Name<'static> = Name::new_unchecked("openmetrics-text");

/// A format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exposition {
    /// Prometheus' text format 0.0.4, which everybody reads.
    #[default]
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Exposition {
    /// What somebody wants who sends this `Accept`: OpenMetrics where it is named and nothing else is liked better. Whoever likes
    /// neither gets the text: a scrape that fails says less than one that is not understood.
    #[must_use]
    pub fn wanted(accept: &str) -> Self {
        let mut likes = (0.0_f64, 0.0_f64);
        for wanted in MediaTypeList::new(accept).flatten() {
            let quality = wanted.get_param(Q).map_or(Some(1.0), |q| q.as_str().parse().ok());
            // What has no quality that can be read is not liked at all.
            let quality = quality.filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0);
            match Self::named(&wanted) {
                Some(Self::OpenMetrics) => likes.1 = likes.1.max(quality),
                Some(Self::Text) => likes.0 = likes.0.max(quality),
                None => {}
            }
        }
        let (text, open_metrics) = likes;
        if open_metrics > 0.0 && open_metrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    fn named(wanted: &MediaType<'_>) -> Option<Self> {
        let version = wanted.get_param(VERSION);
        let of = |known: &str| version.is_none_or(|version| version.unquoted_str() == known);
        // Names compare without regard to case.
        let is = |ty: Name, subty: Name| wanted.ty == ty && wanted.subty == subty;
        if is(APPLICATION, OPENMETRICS_TEXT) && of("1.0.0") {
            Some(Self::OpenMetrics)
        } else if is(TEXT, PLAIN) && of("0.0.4") || is(TEXT, _STAR) || is(_STAR, _STAR) {
            Some(Self::Text)
        } else {
            None
        }
    }

    /// Its `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// One family. All of them, one behind the other, and the [`end`](Self::end) are the whole text.
    ///
    /// # Errors
    /// None that can come of a `String`.
    pub fn family(self, family: &'static Family, scrape: &Arc<Scrape>) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(One { family, scrape: Arc::clone(scrape) }));
        let mut out = String::new();
        match self {
            Self::Text => prometheus_text::encode(&mut out, &registry)?,
            Self::OpenMetrics => text::encode_registry(&mut out, &registry)?,
        }
        Ok(out)
    }

    /// What stands behind the last family.
    ///
    /// # Errors
    /// None that can come of a `String`.
    pub fn end(self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        match self {
            Self::Text => {}
            Self::OpenMetrics => text::encode_eof(&mut out)?,
        }
        Ok(out)
    }
}

/// One family at one moment, for prometheus-client.
#[derive(Debug)]
struct One {
    family: &'static Family,
    scrape: Arc<Scrape>,
}

impl Collector for One {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Family { name, help, unit, kind, tell, .. } = self.family;
        let mut encoder = encoder.encode_descriptor(name, help, unit.as_ref(), kind.metric_type())?;
        tell(&self.scrape, &mut Series::new(&mut encoder, self.family))
    }
}

#[cfg(test)]
#[path = "exposition_tests.rs"]
mod tests;
