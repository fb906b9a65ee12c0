//! Rows of random events: a bed that keeps the breaker's contract as a worker does, the invariants by name, and a second
//! model of the rules to hold the breaker against.

use proptest::prelude::*;

use super::*;

#[path = "breaker_reference_tests.rs"]
mod reference;

/// What happens to a worker. Times are milliseconds.
#[derive(Debug, Clone, Copy)]
enum Happening {
    Wait(i64),
    /// A program begins: a restart that was due, or somebody's start.
    Starts,
    /// A start comes to nothing, and another is asked for.
    StartFails,
    EndsWell,
    /// It dies, and another run is asked for.
    Crashes,
    /// It ends because it was stopped or is to be replaced.
    IsEnded,
    /// The host restarts: nobody sees the run end, and what was to come is called off.
    HostRestarts,
    Trouble(Class, Severity),
    CalledOff(Class),
    Recovers(Class),
    Reset,
}
use Happening::{
    CalledOff, Crashes, EndsWell, HostRestarts, IsEnded, Recovers, Reset, StartFails, Starts, Trouble, Wait,
};

/// An [`Admission`] in the world's time, in milliseconds, whatever clock the breaker has.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    Admitted { due: f64, attempt: u32, max: Option<u32> },
    Opens { until: Option<f64>, attempts: u32 },
    Refused { until: Option<f64> },
    Muted { until: f64 },
}

/// What came of a happening.
#[derive(Debug, Clone, PartialEq, Default)]
struct Seen {
    asked: Option<(Class, Answer)>,
    changes: Vec<(Class, BreakerState)>,
}

/// The configured numbers; factors in quarters, so that a model can count in whole numbers.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    retries: u32,
    own: [Option<u32>; 2],
    delay: i64,
    rate: f64,
    max_delay: i64,
    jitter: f64,
    reset_after: i64,
    cooldown: Option<i64>,
    grace: i64,
    severities: [u32; 3],
    profile: u32,
}

const SEVERITIES: [Severity; 3] = [Warning, Critical, Emergency];

fn millis(n: i64) -> Duration {
    Duration::from_millis(u64::try_from(n).unwrap())
}

impl Numbers {
    fn policy(&self) -> RestartPolicy {
        let own = |max_retries| BudgetOverride { max_retries, ..Default::default() };
        let severities = SEVERITIES.into_iter().zip(self.severities);
        RestartPolicy {
            max_retries: self.retries,
            retry_delay: millis(self.delay),
            backoff_rate: self.rate,
            max_delay: millis(self.max_delay),
            jitter: self.jitter,
            reset_after: millis(self.reset_after),
            cooldown: self.cooldown.map(millis),
            startup_grace_period: millis(self.grace),
            health_failures: own(self.own[0]),
            resource_violations: own(self.own[1]),
            severity_multipliers: severities.map(|(s, q)| (s.as_str().to_owned(), f64::from(q) / 4.0)).collect(),
            profile: Profile::Batch,
            profile_multipliers: BTreeMap::from([("batch".to_owned(), f64::from(self.profile) / 4.0)]),
            ..Default::default()
        }
    }

    /// The largest budget any severity has.
    fn most(&self, class: Class) -> Option<u32> {
        SEVERITIES.iter().map(|severity| reference::max(self, class, *severity)).max().unwrap()
    }
}

/// A worker as its actor keeps it: one run at most, one restart in flight for each class, a tick before and after
/// everything that happens.
struct Bed {
    policy: RestartPolicy,
    breaker: Breaker,
    /// The world's time.
    now: i64,
    /// What the host's clock says more than the world's.
    ahead: i64,
    run: Option<i64>,
    began: i64,
    in_flight: Vec<Class>,
    /// The one class that is asked for anything.
    only: Option<Class>,
}

impl Bed {
    fn new(policy: RestartPolicy) -> Self {
        let now = 1_000_000;
        let (breaker, in_flight) = (Breaker::default(), Vec::new());
        Self { policy, breaker, now, ahead: 0, run: None, began: now, in_flight, only: None }
    }

    fn clock(&self, at: i64) -> Mono {
        Mono(millis(at + self.ahead))
    }

    #[expect(clippy::cast_precision_loss, reason = "days in milliseconds")]
    fn world(&self, at: Mono) -> f64 {
        at.0.as_secs_f64() * 1e3 - self.ahead as f64
    }

    fn alive_since(&self) -> Option<Mono> {
        self.run.map(|since| self.clock(since))
    }

    fn tick(&mut self) -> Changes {
        self.breaker.tick(&self.policy, self.alive_since(), self.clock(self.now))
    }

    /// Puts the breaker away and takes it up again on a clock that began `age` ms before the worker's last begin.
    fn put_away(&mut self, age: i64) {
        let saved = self.breaker.save(self.clock(self.now));
        self.ahead = age - self.began.min(self.run.unwrap_or(self.began));
        self.breaker = Breaker::restore(&saved, self.clock(self.now));
    }

    fn ask(&mut self, class: Class, severity: Severity, draw: f64) -> Option<(Class, Answer)> {
        if self.only.is_some_and(|only| only != class) {
            return None;
        }
        let (began, alive_since) = (self.clock(self.began), self.alive_since());
        let request = Request { class, severity, began, alive_since };
        let answer = match self.breaker.request(&self.policy, request, self.clock(self.now), draw) {
            Admission::Admitted { due, attempt, max } => {
                self.in_flight.push(class);
                Answer::Admitted { due: self.world(due), attempt, max }
            }
            Admission::Opens { until, attempts } => {
                Answer::Opens { until: until.map(|until| self.world(until)), attempts }
            }
            Admission::Refused { until } => Answer::Refused { until: until.map(|until| self.world(until)) },
            Admission::Muted { until } => Answer::Muted { until: self.world(until) },
        };
        Some((class, answer))
    }

    fn ended(&mut self, clean: bool) -> Option<Changes> {
        let since = self.run.take()?;
        Some(self.breaker.ended(&self.policy, Some(millis(self.now - since)), clean, self.clock(self.now)))
    }

    fn happens(&mut self, happening: Happening, draw: f64) -> Seen {
        if let Wait(time) = happening {
            self.now += time;
        }
        let (mut changes, mut asked) = (self.tick(), None);
        match happening {
            Starts if self.run.is_none() => {
                self.breaker.began();
                (self.run, self.began) = (Some(self.now), self.now);
                self.in_flight.clear();
            }
            StartFails if self.run.is_none() => {
                self.began = self.now;
                changes.extend(self.breaker.ended(&self.policy, None, false, self.clock(self.now)));
                asked = self.ask(Exit, Critical, draw);
            }
            EndsWell => changes.extend(self.ended(true).unwrap_or_default()),
            IsEnded => changes.extend(self.ended(false).unwrap_or_default()),
            Crashes => {
                if let Some(more) = self.ended(false) {
                    changes.extend(more);
                    asked = self.ask(Exit, Critical, draw);
                }
            }
            HostRestarts => {
                self.run = None;
                self.began = self.now;
                self.put_away(5000);
                self.in_flight.clear();
                for class in Class::ALL {
                    self.breaker.withdraw(class);
                }
            }
            // What comes while a restart is in flight joins it.
            Trouble(class, severity) if !self.in_flight.contains(&class) => asked = self.ask(class, severity, draw),
            CalledOff(class) => {
                self.in_flight.retain(|other| *other != class);
                self.breaker.withdraw(class);
            }
            Recovers(class) if self.only.is_none_or(|only| only == class) => {
                changes.extend(self.breaker.recovered(class));
            }
            Reset => changes.extend(self.breaker.reset()),
            Wait(_) | Starts | StartFails | Trouble(..) | Recovers(_) => {}
        }
        changes.extend(self.tick());
        Seen { asked, changes: states(&changes) }
    }
}

fn any_class() -> impl Strategy<Value = Class> {
    prop::sample::select(&Class::ALL[..])
}

fn any_happening() -> impl Strategy<Value = Happening> {
    let trouble = (prop::sample::select(&[Health, Violation][..]), prop::sample::select(&SEVERITIES[..]));
    prop_oneof![
        6 => (0..20_000_i64).prop_map(Wait),
        1 => (100_000..400_000_i64).prop_map(Wait),
        8 => Just(Starts),
        3 => Just(StartFails),
        1 => Just(EndsWell),
        5 => Just(Crashes),
        3 => Just(IsEnded),
        1 => Just(HostRestarts),
        7 => trouble.prop_map(|(class, severity)| Trouble(class, severity)),
        2 => any_class().prop_map(CalledOff),
        1 => any_class().prop_map(Recovers),
        1 => Just(Reset),
    ]
}

fn any_row() -> impl Strategy<Value = Vec<(Happening, f64)>> {
    prop::collection::vec((any_happening(), 0.0..1.0f64), 1..120)
}

fn any_numbers() -> impl Strategy<Value = Numbers> {
    let budgets = (0..4_u32, prop::option::of(0..4_u32), prop::option::of(0..4_u32));
    let delays = (prop_oneof![Just(0), 1..8_000_i64], 1.0..3.0f64, 1..30_000_i64, 0.0..=1.0f64);
    let times = (0..60_000_i64, prop::option::weighted(0.8, 0..60_000_i64), prop_oneof![Just(0), 0..20_000_i64]);
    let factors = (prop::array::uniform3(1..12_u32), 1..12_u32);
    (budgets, delays, times, factors).prop_map(|(budgets, delays, times, factors)| Numbers {
        retries: budgets.0,
        own: [budgets.1, budgets.2],
        delay: delays.0,
        rate: delays.1,
        max_delay: delays.2,
        jitter: delays.3,
        reset_after: times.0,
        cooldown: times.1,
        grace: times.2,
        severities: factors.0,
        profile: factors.1,
    })
}

/// Whether a run has lived long enough for what was counted before it to be forgotten.
fn is_stable(bed: &Bed, numbers: &Numbers) -> bool {
    bed.run.is_some_and(|since| bed.now - since >= numbers.reset_after)
}

/// Lets the time of a [`Wait`] pass before what is to be looked at.
fn arrive(bed: &mut Bed, happening: Happening) -> Happening {
    let Wait(time) = happening else { return happening };
    bed.now += time;
    Wait(0)
}

proptest! {
    #[test]
    fn an_open_breaker_admits_nothing(numbers in any_numbers(), row in any_row()) {
        let mut bed = Bed::new(numbers.policy());
        for (happening, draw) in row {
            let happening = arrive(&mut bed, happening);
            drop(bed.tick());
            let open = Class::ALL.map(|class| bed.breaker.is_open(class));
            if let Some((class, answer)) = bed.happens(happening, draw).asked && open[class as usize] {
                prop_assert!(matches!(answer, Answer::Refused { .. } | Answer::Muted { .. }), "{class:?}: {answer:?}");
            }
        }
    }

    /// Counted from the answers alone, in every window that no stable run, success, recovery or person ends.
    #[test]
    fn no_window_has_more_starts_than_the_budget(numbers in any_numbers(), row in any_row()) {
        /// The restarts of a class that were admitted and not called off, and whether the last is still to come.
        #[derive(Default, Clone, Copy, Debug)]
        struct Made {
            counted: u32,
            trials: u32,
            in_flight: bool,
        }
        let mut bed = Bed::new(numbers.policy());
        let mut made = [Made::default(); 3];
        for (happening, draw) in row {
            let happening = arrive(&mut bed, happening);
            if is_stable(&bed, &numbers) {
                for made in &mut made {
                    made.counted = u32::from(made.in_flight && made.trials == 0);
                }
            }
            let starts = matches!(happening, Starts) && bed.run.is_none();
            let seen = bed.happens(happening, draw);
            for class in Class::ALL {
                let made = &mut made[class as usize];
                let off = matches!(happening, HostRestarts) || matches!(happening, CalledOff(c) if c == class);
                if off && made.in_flight {
                    let last = if made.trials > 0 { &mut made.trials } else { &mut made.counted };
                    *last -= 1;
                }
                made.in_flight &= !off && !starts;
                if matches!(happening, Reset) || matches!(happening, Recovers(c) if c == class) {
                    *made = Made::default();
                }
            }
            for (class, state) in seen.changes {
                match state {
                    BreakerState::Closed => made[class as usize] = Made::default(),
                    BreakerState::Open | BreakerState::HalfOpen => {
                        let made = &mut made[class as usize];
                        // A trial that was not taken in time is one no more.
                        made.in_flight &= made.trials == 0;
                        made.trials = 0;
                    }
                }
            }
            if let Some((class, answer)) = seen.asked {
                let made = &mut made[class as usize];
                match answer {
                    Answer::Admitted { .. } if bed.breaker.state(class) == BreakerState::HalfOpen => {
                        (made.trials, made.in_flight) = (made.trials + 1, true);
                    }
                    Answer::Admitted { .. } => (made.counted, made.in_flight) = (made.counted + 1, true),
                    Answer::Opens { .. } => (made.trials, made.in_flight) = (0, false),
                    Answer::Refused { .. } | Answer::Muted { .. } => {}
                }
                let most = numbers.most(class);
                prop_assert!(made.trials <= 1, "{class:?}: a second trial");
                prop_assert!(most.is_none_or(|most| made.counted <= most), "{class:?}: {made:?} of {most:?}");
            }
        }
    }

    #[test]
    fn decay_never_goes_negative(
        numbers in any_numbers(), calls in prop::collection::vec((0..9_u8, any_class(), 0..30_000_i64), 1..200),
    ) {
        // Any calls in any order, also such as no worker makes.
        let (policy, mut breaker, mut now) = (numbers.policy(), Breaker::default(), 0);
        let mut admitted = [0; 3];
        for (call, class, time) in calls {
            now += time;
            let (past, moment) = (Mono(millis(time.min(now))), Mono(millis(now)));
            let before = Class::ALL.map(|class| breaker.attempts(class));
            match call {
                0..=3 => {
                    let request = Request { class, severity: Critical, began: past, alive_since: None };
                    let answer = breaker.request(&policy, request, moment, 0.5);
                    admitted[class as usize] += u32::from(matches!(answer, Admission::Admitted { .. }));
                }
                4 => breaker.withdraw(class),
                5 => breaker.began(),
                6 => drop(breaker.ended(&policy, Some(millis(time)), time % 2 == 0, moment)),
                7 => drop(breaker.tick(&policy, Some(past), moment)),
                _ => drop(breaker.recovered(class)),
            }
            for class in Class::ALL {
                let (attempts, before) = (breaker.attempts(class), before[class as usize]);
                prop_assert!(attempts <= admitted[class as usize]);
                prop_assert!(call <= 3 || attempts <= before, "only a request counts: {before} to {attempts}");
                prop_assert!(call != 4 || before - attempts <= 1, "a call takes one back at most");
            }
        }
    }

    #[test]
    fn clock_jumps_change_nothing(
        numbers in any_numbers(), row in any_row(), ages in prop::collection::vec(prop::option::of(0..90_000_i64), 120),
    ) {
        let (mut steady, mut jumping) = (Bed::new(numbers.policy()), Bed::new(numbers.policy()));
        for ((happening, draw), age) in row.into_iter().zip(ages) {
            if let Some(age) = age {
                jumping.put_away(age);
            }
            let (expected, seen) = (steady.happens(happening, draw), jumping.happens(happening, draw));
            same(&expected, &seen).map_err(|why| TestCaseError::fail(format!("{happening:?}: {why}")))?;
            prop_assert_eq!(steady.breaker.save(steady.clock(steady.now)), jumping.breaker.save(jumping.clock(jumping.now)));
        }
    }

    #[test]
    fn a_withdrawn_attempt_costs_nothing(
        numbers in any_numbers(), row in any_row(), class in any_class(), severity in prop::sample::select(&SEVERITIES[..]),
    ) {
        let mut bed = Bed::new(numbers.policy());
        for (happening, draw) in row {
            bed.happens(happening, draw);
            let before = bed.breaker.clone();
            if bed.in_flight.contains(&class) {
                continue;
            }
            if let Some((_, Answer::Admitted { .. })) = bed.ask(class, severity, draw) {
                prop_assert_ne!(&bed.breaker, &before);
                bed.happens(CalledOff(class), draw);
                prop_assert_eq!(&bed.breaker, &before);
            }
            bed.breaker = before;
        }
    }

    #[test]
    fn classes_do_not_touch_each_other(numbers in any_numbers(), row in any_row(), class in any_class()) {
        let (mut all, mut alone) = (Bed::new(numbers.policy()), Bed::new(numbers.policy()));
        alone.only = Some(class);
        for (happening, draw) in row {
            let mine = |seen: Seen| Seen {
                asked: seen.asked.filter(|(other, _)| *other == class),
                changes: seen.changes.into_iter().filter(|(other, _)| *other == class).collect(),
            };
            prop_assert_eq!(mine(all.happens(happening, draw)), mine(alone.happens(happening, draw)));
            let of = |bed: &Bed| bed.breaker.status(&bed.policy).into_iter().find(|status| status.class == class);
            prop_assert_eq!(of(&all), of(&alone));
        }
    }

    #[test]
    fn jitter_moves_a_due_time_within_its_share_and_below_max_delay(
        numbers in any_numbers(), draws in prop::collection::vec(0.0..1.0f64, 1..8), class in any_class(),
    ) {
        let varied = RestartPolicy { max_retries: 0, health_failures: BudgetOverride::default(),
            resource_violations: BudgetOverride::default(), ..numbers.policy() };
        let plain = RestartPolicy { jitter: 0.0, ..varied.clone() };
        let mut breaker = Breaker::default();
        let mut previous = at(1000.0);
        for draw in draws {
            let due = |breaker: &mut Breaker, policy: &RestartPolicy| {
                let request = Request { class, severity: Critical, began: at(1000.0), alive_since: None };
                match breaker.request(policy, request, at(1000.0), draw) {
                    Admission::Admitted { due, .. } => due,
                    other => panic!("{other:?}"),
                }
            };
            let delay = due(&mut breaker.clone(), &plain).since(previous).as_secs_f64();
            let due = due(&mut breaker, &varied);
            let (off, share) = (due.since(previous).as_secs_f64() - delay, delay * numbers.jitter + 1e-6);
            prop_assert!(off.abs() <= share, "{off} s off, of {share} s");
            prop_assert!(due.since(previous) <= varied.max_delay);
            previous = due;
        }
    }

    #[test]
    fn a_tick_more_changes_nothing_and_the_deadline_is_the_next_that_does(
        numbers in any_numbers(), row in any_row(), parts in prop::collection::vec(0.0..1.0f64, 120),
    ) {
        let (mut seldom, mut often) = (Bed::new(numbers.policy()), Bed::new(numbers.policy()));
        for ((happening, draw), part) in row.into_iter().zip(parts) {
            let (rest, mut early) = match happening {
                Wait(time) => {
                    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a part of a wait")]
                    let first = (time as f64 * part) as i64;
                    (Wait(time - first), often.happens(Wait(first), draw).changes)
                }
                other => (other, Vec::new()),
            };
            let seen = often.happens(rest, draw);
            early.extend(seen.changes);
            early.sort_by_key(|(class, _)| *class);
            let expected = Seen { changes: early, ..seen };
            let mut seen = seldom.happens(happening, draw);
            seen.changes.sort_by_key(|(class, _)| *class);
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(&seldom.breaker, &often.breaker);

            let (alive, now) = (often.alive_since(), often.clock(often.now));
            match often.breaker.deadline(&often.policy, alive) {
                None => {
                    let mut later = often.breaker.clone();
                    prop_assert_eq!(later.tick(&often.policy, alive, now + secs(1e6)), []);
                    prop_assert_eq!(&later, &often.breaker);
                }
                Some(deadline) => {
                    prop_assert!(deadline > now, "a deadline that has passed would be a busy loop");
                    let mut later = often.breaker.clone();
                    prop_assert_eq!(later.tick(&often.policy, alive, Mono(deadline.0.saturating_sub(Duration::from_nanos(1)))), []);
                    prop_assert_eq!(&later, &often.breaker);
                    drop(later.tick(&often.policy, alive, deadline));
                    prop_assert_ne!(&later, &often.breaker);
                }
            }
        }
    }

    #[test]
    fn a_row_of_happenings_agrees_with_the_naive_model(numbers in any_numbers(), row in any_row()) {
        let mut bed = Bed::new(numbers.policy());
        let mut model = reference::Model::new(numbers, bed.now);
        for (happening, draw) in row {
            let before = Class::ALL.map(|class| bed.breaker.state(class));
            let seen = bed.happens(happening, draw);
            let expected = model.happens(happening, draw);
            let seen_now = Seen { asked: seen.asked, changes: Vec::new() };
            same(&Seen { asked: expected, ..Seen::default() }, &seen_now)
                .map_err(|why| TestCaseError::fail(format!("{happening:?}: {why}")))?;
            for class in Class::ALL {
                let (state, attempts) = (model.state(class), model.standing(class).len());
                prop_assert_eq!(bed.breaker.state(class), state, "{:?} after {:?}", class, happening);
                prop_assert_eq!(usize::try_from(bed.breaker.attempts(class)), Ok(attempts), "{:?} after {:?}", class, happening);
                // What is told is what became of it; an answer that opens tells itself.
                let opens = matches!(seen.asked, Some((c, Answer::Opens { .. })) if c == class);
                let told = seen.changes.iter().rev().find(|(c, _)| *c == class).map(|(_, state)| *state);
                let told = if opens { Some(BreakerState::Open) } else { told };
                prop_assert_eq!(told.unwrap_or(before[class as usize]), state, "{:?} after {:?}", class, happening);
            }
        }
    }
}

/// Whether two accounts are the same but for the rounding of moments to nanoseconds.
fn same(expected: &Seen, seen: &Seen) -> Result<(), String> {
    let near = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() < 0.01,
        (a, b) => a.is_none() && b.is_none(),
    };
    let alike = match (expected.asked, seen.asked) {
        (None, None) => true,
        (Some((class, a)), Some((other, b))) if class == other => match (a, b) {
            (Answer::Admitted { due, attempt, max }, Answer::Admitted { due: d, attempt: a, max: m }) => {
                near(Some(due), Some(d)) && (attempt, max) == (a, m)
            }
            (Answer::Opens { until, attempts }, Answer::Opens { until: u, attempts: a }) => {
                near(until, u) && attempts == a
            }
            (Answer::Refused { until }, Answer::Refused { until: u }) => near(until, u),
            (Answer::Muted { until }, Answer::Muted { until: u }) => near(Some(until), Some(u)),
            _ => false,
        },
        _ => false,
    };
    let same = alike && expected.changes == seen.changes;
    if same { Ok(()) } else { Err(format!("expected {expected:?}, not {seen:?}")) }
}
