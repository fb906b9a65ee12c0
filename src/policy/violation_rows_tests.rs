//! What holds of every watchman, over rows of random events.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Happening {
    Counted(Counters),
    Pressed(Limit),
    Sampled(Sample),
    /// At the deadline, with this.
    Due(Sample),
    Lifted,
    Rules(bool, bool),
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let stat = (0_u64..40_000_000, 0_u64..2000, 0_u64..2000).prop_map(|(usage_usec, nr_throttled, nr_periods)| {
        CpuStat { usage_usec, nr_throttled, nr_periods, throttled_usec: 0 }
    });
    let stalled =
        (0_u64..100_000_000, 0_u64..100_000_000).prop_map(|(some_usec, full_usec)| Stalled { some_usec, full_usec });
    (proptest::option::of(0..2 * HIGH), proptest::option::of(stat), proptest::option::of(stalled)).prop_map(
        |(resident_bytes, cpu, s)| Sample {
            resident_bytes,
            memory_current_bytes: None,
            cpu,
            pressure: Pressures { memory: s, cpu: s, io: s },
        },
    )
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0_u64..3, 0_u64..3, 0_u64..3).prop_map(|(oom_kill, high, forks)| {
            let events = MemoryEvents { high, oom_kill, ..MemoryEvents::default() };
            Happening::Counted(Counters { memory: Some(events), local: Some(events), pids_max: Some(forks) })
        }),
        (0..Limit::ALL.len()).prop_map(|i| Happening::Pressed(Limit::ALL[i])),
        any_sample().prop_map(Happening::Sampled),
        any_sample().prop_map(Happening::Due),
        any_sample().prop_map(Happening::Due),
        Just(Happening::Lifted),
        (any::<bool>(), any::<bool>()).prop_map(|(enabled, throttle)| Happening::Rules(enabled, throttle)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever comes, in whatever order and however late.
    #[test]
    fn episodes_and_the_tripwire_strictly_alternate(
        story in proptest::collection::vec((happening(), 0_u64..15_000), 1..200),
    ) {
        let enabled = Rules { cpu_time: Some(CpuTime { max: secs(30), parallelism: 2.0 }), ..all() };
        let mut rules = enabled;
        let mut watchman = Watchman::new(at(0.0));
        let (mut now, mut open, mut lifted) = (at(0.0), Vec::new(), false);
        for (happening, later) in story {
            now = now + Duration::from_millis(later);
            let found = match happening {
                Happening::Counted(grown) => watchman.counted(&rules, grown, now),
                Happening::Pressed(limit) => watchman.pressed(&rules, limit, now),
                Happening::Sampled(sample) => watchman.sampled(&rules, &sample, now),
                Happening::Due(sample) => {
                    now = watchman.deadline(&rules).map_or(now, |due| due.max(now));
                    watchman.sampled(&rules, &sample, now)
                }
                Happening::Lifted => {
                    watchman.lifted();
                    lifted |= open.contains(&Limit::MemoryHigh);
                    Vec::new()
                }
                Happening::Rules(on, throttle) => {
                    rules = if on { Rules { memory_high: Some(high(throttle)), ..enabled } } else { Rules::default() };
                    Vec::new()
                }
            };
            for (i, finding) in found.iter().enumerate() {
                match finding {
                    Finding::Opened(v) => {
                        prop_assert!(!open.contains(&v.limit), "opened twice: {v:?}");
                        open.push(v.limit);
                    }
                    Finding::Recovered { limit, .. } => {
                        prop_assert!(open.contains(limit), "{limit} recovered without having been open");
                        prop_assert!(*limit != Limit::CpuTime || !rules.has(Limit::CpuTime));
                        open.retain(|l| l != limit);
                    }
                    Finding::LiftHigh { .. } => {
                        prop_assert!(!std::mem::replace(&mut lifted, true), "lifted twice");
                        prop_assert_eq!(opened(&found[i + 1..=i + 1]), [Limit::MemoryHigh]);
                    }
                    Finding::RearmHigh => {
                        prop_assert!(std::mem::replace(&mut lifted, false), "set again without having been lifted");
                        prop_assert_eq!(recovered(&found[i + 1..=i + 1]), [Limit::MemoryHigh]);
                    }
                    Finding::ThrottleExpired(_) => prop_assert!(open.contains(&Limit::MemoryHigh) && !lifted),
                }
            }
            let mut told: Vec<_> = watchman.open().collect();
            told.sort();
            open.sort();
            prop_assert_eq!(&told, &open);
        }
    }

    /// Time gets on: after each look the next is later; and once all is well, nothing is looked at any more.
    #[test]
    fn every_look_moves_the_deadline_on_and_a_run_that_does_well_becomes_quiet(
        story in proptest::collection::vec((happening(), 0_u64..15_000), 1..60),
    ) {
        let rules = Rules { memory_high: Some(high(true)), ..all() };
        let mut watchman = Watchman::new(at(0.0));
        let mut now = at(0.0);
        for (happening, later) in story {
            now = now + Duration::from_millis(later);
            drop(match happening {
                Happening::Counted(grown) => watchman.counted(&rules, grown, now),
                Happening::Pressed(limit) => watchman.pressed(&rules, limit, now),
                Happening::Sampled(sample) | Happening::Due(sample) => {
                    let found = watchman.sampled(&rules, &sample, now);
                    prop_assert!(watchman.deadline(&rules).is_none_or(|due| due > now));
                    found
                }
                Happening::Lifted | Happening::Rules(..) => Vec::new(),
            });
        }
        let well = Sample {
            resident_bytes: Some(0),
            cpu: Some(CpuStat { nr_throttled: 5000, nr_periods: 5000, ..CpuStat::default() }),
            ..pressure(1 << 40, 1 << 40)
        };
        let mut looks = 0;
        while let Some(due) = watchman.deadline(&rules) {
            now = due.max(now);
            watchman.sampled(&rules, &well, now);
            looks += 1;
            prop_assert!(looks < 100, "it is still looked at: {watchman:?}");
        }
        prop_assert_eq!(watchman.open().count(), 0);
    }

    #[test]
    fn memory_below_high_never_opens_however_much_page_cache_there_is(
        looks in proptest::collection::vec((0_u64..1000, 0..HIGH, 0..64 * HIGH, 0_u64..20_000), 1..100),
        throttle: bool,
    ) {
        let rules = Rules { memory_high: Some(high(throttle)), ..all() };
        let mut watchman = Watchman::new(at(0.0));
        let mut now = at(0.0);
        for (grown, resident, cache, later) in looks {
            now = now + Duration::from_millis(later);
            let sample = Sample { memory_current_bytes: Some(resident + cache), ..self::resident(resident) };
            prop_assert_eq!(watchman.counted(&rules, high_grew(grown), now), []);
            prop_assert_eq!(watchman.sampled(&rules, &sample, now), []);
        }
    }
}
