//! stub
use crate::model::*;
use std::time::Duration;
pub struct Rules;
#[derive(Clone, Debug, PartialEq)]
pub struct Watchman;
pub enum Finding {
    Opened(Violation),
    Recovered { limit: Limit, lasted: Duration },
    LiftHigh { why: String },
    RearmHigh,
    ThrottleExpired { observed: String },
}
#[allow(unused)]
impl Watchman {
    pub fn new(now: Mono) -> Self {
        Self
    }
    pub fn counted(&mut self, rules: &Rules, grown: Counters, now: Mono) -> Vec<Finding> {
        todo!()
    }
    pub fn pressed(&mut self, rules: &Rules, limit: Limit, now: Mono) -> Vec<Finding> {
        todo!()
    }
    pub fn sampled(&mut self, rules: &Rules, sample: &Sample, now: Mono) -> Vec<Finding> {
        todo!()
    }
    pub fn wanted(&self, rules: &Rules, now: Mono) -> Wanted {
        todo!()
    }
    pub fn deadline(&self, rules: &Rules) -> Option<Mono> {
        None
    }
    pub fn open(&self) -> impl Iterator<Item = Limit> {
        std::iter::empty()
    }
    pub fn lifted(&mut self) {}
}
