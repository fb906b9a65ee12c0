//! stub
use super::restart::RestartPolicy;
use crate::model::*;
use std::time::Duration;
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Breaker;
#[derive(Clone, Debug, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct Saved;
pub enum Admission {
    Admitted { due: Mono, attempt: u32, max: Option<u32> },
    Opens { until: Option<Mono>, attempts: u32 },
    Refused { until: Option<Mono> },
    Muted { until: Mono },
}
pub type Changes = Vec<(Class, BreakerState, &'static str)>;
#[allow(unused)]
impl Breaker {
    pub fn request(
        &mut self,
        policy: &RestartPolicy,
        class: Class,
        severity: Severity,
        began: Mono,
        alive_since: Option<Mono>,
        now: Mono,
        draw: f64,
    ) -> Admission {
        todo!()
    }
    pub fn withdraw(&mut self, class: Class) {}
    pub fn began(&mut self, policy: &RestartPolicy, now: Mono) {}
    pub fn ended(&mut self, policy: &RestartPolicy, ran: Option<Duration>, clean: bool, now: Mono) -> Changes {
        todo!()
    }
    pub fn tick(&mut self, policy: &RestartPolicy, alive_since: Option<Mono>, now: Mono) -> Changes {
        todo!()
    }
    pub fn deadline(&self, policy: &RestartPolicy, alive_since: Option<Mono>) -> Option<Mono> {
        None
    }
    pub fn recovered(&mut self, class: Class) -> Changes {
        todo!()
    }
    pub fn reset(&mut self) -> Changes {
        todo!()
    }
    pub fn is_open(&self, class: Class) -> bool {
        false
    }
    pub fn any_open(&self) -> bool {
        false
    }
    pub fn state(&self, class: Class) -> BreakerState {
        BreakerState::Closed
    }
    pub fn status(&self, policy: &RestartPolicy) -> Vec<BreakerStatus> {
        Vec::new()
    }
    pub fn attempts(&self, class: Class) -> u32 {
        0
    }
    pub fn save(&self, now: Mono) -> Saved {
        Saved
    }
    pub fn restore(saved: &Saved, now: Mono) -> Self {
        Breaker
    }
    pub fn fault(&mut self, now: Mono, draw: f64) -> Mono {
        now
    }
    pub fn after_clean(policy: &RestartPolicy, began: Mono, now: Mono, draw: f64) -> Mono {
        now
    }
}
