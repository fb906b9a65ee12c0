use super::*;
use crate::spec::types::{Memory, Pids};

fn id(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn spec(program: &str) -> Spec {
    Spec::new(vec![program.to_owned()])
}

fn limited(pids: u64) -> Spec {
    Spec { limits: Limits { pids: Pids { max: Some(pids), ..Pids::default() }, ..Limits::default() }, ..spec("x") }
}

fn patient() -> Spec {
    let mut patient = spec("x");
    patient.stop.timeout = Duration::from_secs(99);
    patient
}

fn worker(name: &str, spec: Spec) -> Worker {
    Worker { id: id(name), declared_as: id(name), enabled: true, registered: false, spec: Arc::new(spec) }
}

fn config(workers: Vec<Worker>) -> Config {
    Config { workers, ..Config::default() }
}

fn standing(name: &str, spec: Spec, life: Life) -> Standing {
    Standing { id: id(name), spec: Arc::new(spec), enabled: true, origin: Origin::Config, life }
}

fn present(workers: Vec<Standing>) -> Present {
    Present { workers, ..Present::default() }
}

/// The steps, each by its first two words.
fn brief(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(Step::words).map(|(verb, what, _)| format!("{verb} {what}")).collect()
}

/// What is done about one worker that is `life` with `spec("x")` and is to be `next`.
fn about(life: Life, next: Spec) -> Vec<String> {
    brief(&diff(&config(vec![worker("w", next)]), &present(vec![standing("w", spec("x"), life)])))
}

#[test]
fn what_has_not_changed_is_untouched_whatever_it_does() {
    for life in [Life::Up, Life::Failed, Life::Done, Life::Never, Life::Down, Life::Final] {
        let plan = diff(&config(vec![worker("w", spec("x"))]), &present(vec![standing("w", spec("x"), life)]));
        assert_eq!((plan.steps.len(), plan.untouched), (0, vec![id("w")]), "{life:?}");
    }
}

#[test]
fn a_change_takes_the_least_that_brings_it_about() {
    assert_eq!(about(Life::Up, patient()), ["update w"]);
    assert_eq!(about(Life::Up, limited(9)), ["set limits w"]);
    assert_eq!(about(Life::Up, spec("y")), ["restart w"]);
    let all_at_once = Spec { argv: vec!["y".into()], stop: patient().stop, ..limited(9) };
    assert_eq!(about(Life::Up, all_at_once), ["restart w"], "once, not three times");
}

#[test]
fn who_was_taken_down_stays_down_and_who_failed_is_tried_again() {
    for (life, expected) in [
        (Life::Failed, "start w"),
        (Life::Done, "update w"),
        (Life::Never, "update w"),
        (Life::Down, "update w"),
        (Life::Final, "update w"),
    ] {
        for next in [patient(), limited(9), spec("y")] {
            assert_eq!(about(life, next), [expected], "{life:?}");
        }
    }
}

#[test]
fn a_worker_that_is_enabled_or_not_any_more_is_started_or_stopped() {
    let with = |was, is, life| {
        let desired = config(vec![Worker { enabled: is, ..worker("w", spec("x")) }]);
        brief(&diff(&desired, &present(vec![Standing { enabled: was, ..standing("w", spec("x"), life) }])))
    };
    assert_eq!(with(true, false, Life::Up), ["stop w"]);
    assert_eq!(with(false, true, Life::Never), ["start w"]);
    assert_eq!(with(false, true, Life::Down), ["start w"], "a reload had stopped it");
    assert_eq!(with(false, true, Life::Final), ["update w"], "only a person starts it again");
    assert_eq!(with(true, false, Life::Down), ["update w"]);
}

#[test]
fn who_is_new_comes_and_who_is_gone_goes_before_that() {
    let desired = config(vec![
        worker("new", spec("x")),
        Worker { enabled: false, ..worker("later", spec("x")) },
        worker("stays", spec("x")),
    ]);
    let there = present(vec![standing("gone", spec("x"), Life::Up), standing("stays", spec("x"), Life::Up)]);
    let plan = diff(&desired, &there);
    assert_eq!(brief(&plan), ["remove gone", "add new", "add later"]);
    assert_eq!(
        plan.steps[1..],
        [Step::Add { worker: id("new"), start: true }, Step::Add { worker: id("later"), start: false }]
    );
}

#[test]
fn what_a_program_made_is_no_configurations_to_take_or_to_change() {
    let of_a_program = |name: &str| Standing { origin: Origin::Program, ..standing(name, spec("x"), Life::Up) };
    let desired = config(vec![worker("same-name", spec("y"))]);
    let plan = diff(&desired, &present(vec![of_a_program("job"), of_a_program("same-name")]));
    assert_eq!(brief(&plan), ["leave alone job", "leave alone same-name"]);
    assert!(plan.is_empty());
}

#[test]
fn what_was_registered_is_declared_beside_the_files_until_one_of_them_takes_it_over() {
    let registered = |name: &str| Standing { origin: Origin::Registered, ..standing(name, spec("x"), Life::Up) };
    let there = || present(vec![registered("web"), registered("db")]);
    let of_api = |name: &str| Worker { registered: true, ..worker(name, spec("x")) };
    let plan = diff(&config(vec![of_api("web"), of_api("db")]), &there());
    assert_eq!((plan.steps.len(), &plan.registered), (0, &vec![id("web"), id("db")]));
    // Whose it is takes no new run; another program does, and that is said beside it.
    let plan = diff(&config(vec![worker("web", spec("x")), worker("db", spec("y"))]), &there());
    assert_eq!(brief(&plan), ["update web", "restart db"]);
    assert_eq!(plan.steps[0].words().2, "declared over the API → in the configuration");
    assert_eq!(plan.steps[1].words().2, "declared over the API → in the configuration, command");
    assert_eq!(plan.registered, []);
    // What no declaration is left of goes.
    assert_eq!(brief(&diff(&config(vec![of_api("db")]), &there())), ["remove web"]);
}

#[test]
fn the_global_environment_is_no_reason_for_a_restart() {
    let env = |value: &str| BTreeMap::from([("A".to_owned(), value.to_owned()), ("B".to_owned(), "same".to_owned())]);
    let desired = Config { env: env("new"), ..config(vec![worker("w", spec("x"))]) };
    let there = Present { env: env("old"), ..present(vec![standing("w", spec("x"), Life::Up)]) };
    assert_eq!(diff(&desired, &there).steps, [Step::SetEnv { variables: vec!["A".into()] }]);
}

#[test]
fn slices_come_before_their_workers_and_go_behind_them() {
    let slice = |name: &str, max| Slice {
        name: SliceName::new(name).unwrap(),
        limits: Limits { memory: Memory { max: Some(max), ..Memory::default() }, ..Limits::default() },
    };
    let inside = |name: &str| Spec { slice: SliceName::new(name).ok(), ..spec("x") };
    let desired = Config {
        slices: vec![slice("made", 1 << 30), slice("other", 2 << 30), slice("same", 1 << 30)],
        ..config(vec![worker("moves", inside("made"))])
    };
    let there = Present {
        slices: vec![slice("gone", 1 << 30), slice("other", 1 << 30), slice("same", 1 << 30)],
        ..present(vec![standing("moves", inside("gone"), Life::Up)])
    };
    let plan = diff(&desired, &there);
    assert_eq!(brief(&plan), ["make slice made", "change slice other", "restart moves", "remove slice gone"]);
    let Step::ChangeSlice { changes, .. } = &plan.steps[1] else { panic!() };
    assert_eq!((&*changes[0].key, changes[0].to.as_deref()), ("memory.max_rss", Some("2 GiB")));
}

#[test]
fn what_is_found_alive_is_adopted_and_changed_as_a_reload_would() {
    let found = |name: &str, number, found| Left { run: RunId::new(id(name), number), found };
    let alive = |spec: &Spec| FoundLeft::Alive { launched_by: spec.digest() };
    let desired = config(vec![
        worker("same", limited(9)),
        worker("changed", spec("y")),
        worker("strange", spec("x")),
        worker("none", spec("x")),
        Worker { enabled: false, ..worker("off", spec("y")) },
    ]);
    let left = vec![
        found("same", 1, alive(&limited(5))),
        found("changed", 2, alive(&spec("x"))),
        found("strange", 3, FoundLeft::Strangers),
        found("gone", 4, alive(&spec("x"))),
        found("empty", 5, FoundLeft::Empty),
        found("off", 6, alive(&spec("x"))),
    ];
    let plan = diff(&desired, &Present { left, ..Present::default() });
    assert_eq!(
        brief(&plan),
        [
            "adopt same",
            "adopt changed",
            "leave alone strange.3",
            "stop gone.4",
            "remove empty.5",
            "adopt off",
            "add none",
            "restart changed",
        ]
    );
}

#[test]
fn a_plan_survives_its_way_over_the_socket() {
    let plan = diff(
        &config(vec![worker("w", limited(9)), worker("n", spec("x"))]),
        &present(vec![standing("w", spec("x"), Life::Up), standing("gone", spec("x"), Life::Up)]),
    );
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    insta::assert_json_snapshot!(plan);
}

fn file(path: &str, keep: u32) -> Sink {
    Sink::Jsonl(crate::spec::types::JsonlSink { path: path.into(), max_size: 1 << 20, keep })
}

#[test]
fn of_the_sinks_what_goes_is_before_what_changes_and_that_before_what_comes() {
    let desired = Config { history: vec![file("/new", 1), file("/b", 2), file("/same", 1)], ..config(Vec::new()) };
    let before = vec![file("/same", 1), file("/gone", 1), file("/b", 1)];
    let plan = diff(&desired, &Present { history: before, ..Present::default() });
    assert_eq!(brief(&plan), ["remove sink jsonl /gone", "change sink jsonl /b", "add sink jsonl /new"]);
    assert_eq!(plan.steps[1].words().2, "keep");
    let other_order = Config { history: vec![file("/b", 1), file("/a", 1)], ..config(Vec::new()) };
    let there = Present { history: vec![file("/a", 1), file("/b", 1)], ..Present::default() };
    assert!(diff(&other_order, &there).is_empty(), "in which order they are declared is no change");
}

mod whatever_is_declared {
    use proptest::prelude::*;

    use super::*;

    fn any_spec() -> impl Strategy<Value = Spec> {
        prop_oneof![Just(spec("x")), Just(spec("y")), Just(limited(9)), Just(limited(10)), Just(patient())]
    }

    fn any_life() -> impl Strategy<Value = Life> {
        prop_oneof![
            Just(Life::Up),
            Just(Life::Failed),
            Just(Life::Done),
            Just(Life::Never),
            Just(Life::Down),
            Just(Life::Final)
        ]
    }

    proptest! {
        #[test]
        fn every_worker_is_spoken_of_once_and_a_second_look_finds_nothing(
            desired in proptest::collection::btree_map("[a-d]", (any_spec(), any::<bool>()), 0..4),
            there in proptest::collection::btree_map("[a-d]", (any_spec(), any::<bool>(), any_life()), 0..4),
        ) {
            let workers = desired.iter().map(|(name, (spec, enabled))| Worker { enabled: *enabled, ..worker(name, spec.clone()) });
            let desired = config(workers.collect());
            let there = there.iter().map(|(name, (spec, enabled, life))| Standing { enabled: *enabled, ..standing(name, spec.clone(), *life) });
            let there: Vec<Standing> = there.collect();
            let plan = diff(&desired, &present(there.clone()));
            let mut told: Vec<String> = plan.steps.iter().map(|step| step.words().1).collect();
            told.extend(plan.untouched.iter().map(WorkerId::to_string));
            told.sort();
            let mut all: Vec<String> = desired.workers.iter().map(|w| w.id.to_string()).chain(there.iter().map(|s| s.id.to_string())).collect();
            all.sort();
            all.dedup();
            prop_assert_eq!(told, all);
            // What it is after the steps.
            let after = desired.workers.iter().map(|worker| Standing {
                id: worker.id.clone(),
                spec: Arc::clone(&worker.spec),
                enabled: worker.enabled,
                origin: Origin::Config,
                life: if worker.enabled { Life::Up } else { Life::Down },
            });
            prop_assert!(diff(&desired, &present(after.collect())).steps.is_empty());
        }
    }
}
