//! The rules of the module's header a second time, naively: nothing is summed up. The whole history is kept, and every
//! answer is looked up in it; counts in whole quarters, times in milliseconds.

use super::*;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fact {
    Begins,
    Ends,
    Admitted {
        class: Class,
        due: f64,
        trial: bool,
    },
    CalledOff(Class),
    Opens(Class),
    /// Everything before it is forgotten.
    Forgotten(Class),
}

pub(super) struct Model {
    numbers: Numbers,
    history: Vec<(i64, Fact)>,
    now: i64,
    began: i64,
}

/// The budget, in whole numbers.
pub(super) fn max(numbers: &Numbers, class: Class, severity: Severity) -> Option<u32> {
    let written = match class {
        Exit => None,
        Health => numbers.own[0],
        Violation => numbers.own[1],
    };
    let more = if class == Violation && numbers.retries > 0 { 2 } else { 0 };
    match written.unwrap_or(numbers.retries + more) {
        0 => None,
        max => Some((max * numbers.severities[severity as usize] * numbers.profile / 16).max(1)),
    }
}

impl Model {
    pub(super) fn new(numbers: Numbers, now: i64) -> Self {
        Self { numbers, history: Vec::new(), now, began: now }
    }

    /// What has happened since the class was last forgotten.
    fn chapter(&self, class: Class) -> &[(i64, Fact)] {
        let from = self.history.iter().rposition(|(_, fact)| *fact == Fact::Forgotten(class));
        &self.history[from.map_or(0, |at| at + 1)..]
    }

    /// The run that lives: when it began.
    fn alive(&self) -> Option<i64> {
        let of_runs = |(_, fact): &&(i64, Fact)| matches!(fact, Fact::Begins | Fact::Ends);
        self.history.iter().rev().find(of_runs).filter(|(_, fact)| *fact == Fact::Begins).map(|(at, _)| *at)
    }

    /// Whether what `rest` begins with was called off: before any run began and anything else came of the class.
    fn is_called_off(class: Class, rest: &[(i64, Fact)]) -> bool {
        let next = rest[1..].iter().map(|(_, fact)| *fact).find(|fact| match fact {
            Fact::Begins => true,
            Fact::Admitted { class: c, .. } | Fact::CalledOff(c) | Fact::Opens(c) => *c == class,
            Fact::Ends | Fact::Forgotten(_) => false,
        });
        next == Some(Fact::CalledOff(class))
    }

    /// Whether a run that began in `rest` lived long enough, seen at `now`.
    fn is_outlived(&self, rest: &[(i64, Fact)], now: i64) -> bool {
        rest.iter().enumerate().any(|(i, (began, fact))| {
            let end = rest[i..].iter().find(|(_, fact)| *fact == Fact::Ends).map_or(now, |(at, _)| *at);
            *fact == Fact::Begins && end - began >= self.numbers.reset_after
        })
    }

    /// When each of the restarts that count was due.
    pub(super) fn standing(&self, class: Class) -> Vec<f64> {
        let chapter = self.chapter(class);
        // An open class neither counts nor forgets.
        let opened = chapter.iter().position(|(_, fact)| *fact == Fact::Opens(class));
        let (closed, now) = opened.map_or((chapter, self.now), |at| (&chapter[..at], chapter[at].0));
        let counts = |(i, (_, fact)): (usize, &(i64, Fact))| match fact {
            Fact::Admitted { class: c, due, trial: false } if *c == class => {
                let lost = Self::is_called_off(class, &chapter[i..]) || self.is_outlived(&closed[i..], now);
                (!lost).then_some(*due)
            }
            _ => None,
        };
        closed.iter().enumerate().filter_map(counts).collect()
    }

    /// When the class's cooldown ends, or `None` while it is closed; `hold` is the end of time.
    fn cooled(&self, class: Class) -> Option<i64> {
        let opened = self.chapter(class).iter().rev().find(|(_, fact)| *fact == Fact::Opens(class));
        opened.map(|(at, _)| self.numbers.cooldown.map_or(i64::MAX, |cooldown| at + cooldown))
    }

    pub(super) fn state(&self, class: Class) -> BreakerState {
        match self.cooled(class) {
            None => BreakerState::Closed,
            Some(until) if until > self.now => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// What has happened since the trial that was admitted last, it included, if there is one.
    fn trial(&self, class: Class) -> Option<&[(i64, Fact)]> {
        let chapter = self.chapter(class);
        let opened = chapter.iter().rposition(|(_, fact)| *fact == Fact::Opens(class))?;
        let asked = |(_, fact): &(i64, Fact)| matches!(fact, Fact::Admitted { class: c, .. } if *c == class);
        let rest = &chapter[opened + chapter[opened..].iter().rposition(asked)?..];
        (!Self::is_called_off(class, rest)).then_some(rest)
    }

    fn write(&mut self, fact: Fact) {
        self.history.push((self.now, fact));
    }

    /// Writes down what time alone has done.
    fn settle(&mut self) {
        let length = self.numbers.cooldown.unwrap_or(i64::MAX).min(self.numbers.reset_after);
        for class in Class::ALL {
            while self.state(class) == BreakerState::HalfOpen {
                let begins = |(_, fact): &(i64, Fact)| *fact == Fact::Begins;
                let quiet_since = match (self.trial(class), self.alive()) {
                    (None, Some(began)) => Some(began.max(self.cooled(class).unwrap())),
                    (Some(trial), Some(began)) if trial.iter().any(begins) => Some(began),
                    _ => None,
                };
                let unborn_since = match (self.trial(class), self.alive()) {
                    (Some(trial), None) if !trial.iter().any(begins) => {
                        let end = trial.iter().rev().find(|(_, fact)| *fact == Fact::Ends);
                        Some(end.unwrap_or(&trial[0]).0)
                    }
                    _ => None,
                };
                if quiet_since.is_some_and(|since| since + length <= self.now) {
                    self.write(Fact::Forgotten(class));
                } else if let Some(since) = unborn_since
                    && since + 120_000 + length <= self.now
                {
                    self.history.push((since + 120_000 + length, Fact::Opens(class)));
                } else {
                    break;
                }
            }
        }
    }

    fn ends(&mut self, clean: bool) -> bool {
        let lived = self.alive().is_some();
        if lived && clean {
            for class in Class::ALL {
                let unborn =
                    self.trial(class).is_some_and(|trial| !trial.iter().any(|(_, fact)| *fact == Fact::Begins));
                if self.state(class) == BreakerState::HalfOpen && !unborn {
                    self.write(Fact::Forgotten(class));
                }
            }
        }
        if lived {
            self.write(Fact::Ends);
        }
        lived
    }

    #[expect(clippy::cast_precision_loss, reason = "days in milliseconds")]
    fn ask(&mut self, class: Class, severity: Severity, draw: f64) -> (Class, Answer) {
        let numbers = self.numbers;
        if class != Exit
            && let Some(until) = self.alive().map(|since| since + numbers.grace)
            && self.now < until
        {
            return (class, Answer::Muted { until: until as f64 });
        }
        let standing = self.standing(class);
        let max = max(&numbers, class, severity);
        let used = max.is_some_and(|max| standing.len() >= usize::try_from(max).unwrap());
        let finite = |until: i64| (until < i64::MAX).then_some(until as f64);
        let answer = match self.state(class) {
            BreakerState::Open => Answer::Refused { until: finite(self.cooled(class).unwrap()) },
            BreakerState::HalfOpen if self.trial(class).is_none() => {
                self.write(Fact::Admitted { class, due: self.now as f64, trial: true });
                Answer::Admitted { due: self.now as f64, attempt: 1, max: Some(1) }
            }
            BreakerState::Closed if !used => {
                let factor = f64::from(numbers.severities[severity as usize] * numbers.profile) / 16.0;
                let twice = if class == Violation { 2.0 } else { 1.0 };
                let mut delay = match numbers.delay as f64 * twice * factor {
                    0.0 => 0.0,
                    delay => delay.max(1000.0),
                };
                for _ in &standing {
                    delay *= numbers.rate;
                }
                let longest = numbers.max_delay as f64;
                let delay = (delay.min(longest) * (1.0 + numbers.jitter * (2.0 * draw - 1.0))).min(longest);
                let from = standing.last().copied().unwrap_or(self.began as f64);
                let due = (from + delay).max(self.now as f64);
                self.write(Fact::Admitted { class, due, trial: false });
                Answer::Admitted { due, attempt: u32::try_from(standing.len()).unwrap() + 1, max }
            }
            BreakerState::Closed | BreakerState::HalfOpen => {
                self.write(Fact::Opens(class));
                let attempts = u32::try_from(standing.len()).unwrap();
                Answer::Opens { until: finite(self.cooled(class).unwrap()), attempts }
            }
        };
        (class, answer)
    }

    /// Whether a restart of the class is to come, which more trouble joins.
    fn is_in_flight(&self, class: Class) -> bool {
        let rest = self.history.iter().rev().map(|(_, fact)| *fact);
        let last = rest.clone().find(|fact| match fact {
            Fact::Begins => true,
            Fact::Admitted { class: c, .. } | Fact::CalledOff(c) => *c == class,
            Fact::Ends | Fact::Opens(_) | Fact::Forgotten(_) => false,
        });
        matches!(last, Some(Fact::Admitted { .. }))
    }

    pub(super) fn happens(&mut self, happening: Happening, draw: f64) -> Option<(Class, Answer)> {
        if let Wait(time) = happening {
            self.now += time;
        }
        self.settle();
        let mut asked = None;
        match happening {
            Starts if self.alive().is_none() => {
                self.began = self.now;
                self.write(Fact::Begins);
            }
            StartFails if self.alive().is_none() => {
                self.began = self.now;
                asked = Some(self.ask(Exit, Critical, draw));
            }
            EndsWell => drop(self.ends(true)),
            IsEnded => drop(self.ends(false)),
            Crashes if self.ends(false) => asked = Some(self.ask(Exit, Critical, draw)),
            HostRestarts => {
                self.ends(false);
                self.began = self.now;
                self.history.extend(Class::ALL.map(|class| (self.now, Fact::CalledOff(class))));
            }
            Trouble(class, severity) if !self.is_in_flight(class) => asked = Some(self.ask(class, severity, draw)),
            CalledOff(class) => self.write(Fact::CalledOff(class)),
            Recovers(class) => self.write(Fact::Forgotten(class)),
            Reset => self.history.extend(Class::ALL.map(|class| (self.now, Fact::Forgotten(class)))),
            Wait(_) | Starts | StartFails | Crashes | Trouble(..) => {}
        }
        self.settle();
        asked
    }
}
