//! What the kernel enforces is what `/metrics` and `pinfold stats` tell of it.

use pinfold::model::State;
use serde_json::Value;

use crate::support::{
    Case,
    door::{series, text},
    misbehaving,
    run::finish,
    up::Up,
    wait_until,
};
use crate::{MIB, OOM};

#[test]
fn limits_and_what_they_have_done_are_in_the_metrics() {
    let case = Case::with_limits(true);
    let limits = |limits: &str| format!("limits: {{{limits}}}");
    let leaker = limits("memory: {max_rss: 32MiB}");
    let burner = limits("memory: {max_rss: 64MiB, high: 48MiB}, cpu: {max_percent: 20}, pids: {max: 16}");
    let mut up = Up::start(
        &case,
        &(misbehaving("leaker", &["leak"], &[&leaker, "restart: {policy: never}"])
            + &misbehaving("burner", &["burn"], &[&burner])),
    );
    assert_eq!(up.exited("leaker", 1), OOM);
    up.state("leaker", State::Stopped, "failed");
    up.state("burner", State::Running, "ready");
    let told = wait_until("periods in which it was throttled", || {
        let text = text(&case.socket(), "/metrics", "*/*");
        let throttled = series(&text)["pinfold_worker_cpu_throttled_periods_total{worker=\"burner\"}"];
        (throttled > 0.0).then_some(text)
    });
    let told = series(&told);
    let mib = |mib: u64| (mib * MIB) as f64;
    for (name, value) in [
        ("exits_total{worker=\"leaker\",cause=\"oom\"}", 1.0),
        ("violations_total{worker=\"leaker\",resource=\"memory\",severity=\"critical\"}", 1.0),
        ("memory_max_bytes{worker=\"burner\"}", mib(64)),
        ("memory_high_bytes{worker=\"burner\"}", mib(48)),
        ("pids_max{worker=\"burner\"}", 16.0),
        ("pids_current{worker=\"burner\"}", 1.0),
    ] {
        assert_eq!(told.get(&*format!("pinfold_worker_{name}")), Some(&value), "{name}");
    }
    let of_burner = |name: &str| told[&*format!("pinfold_worker_{name}{{worker=\"burner\"}}")];
    assert!(of_burner("memory_peak_bytes") >= of_burner("memory_current_bytes") / 2.0);
    assert!(of_burner("cpu_throttled_periods_total") <= of_burner("cpu_periods_total"));
    assert!(of_burner("cpu_throttled_seconds_total") > 0.0 && of_burner("cpu_usage_seconds_total") > 0.0);
    let leaked = told["pinfold_worker_cpu_usage_seconds_total{worker=\"leaker\"}"];
    assert!(leaked > 0.0, "what a run has used that is over");
    assert!(!told.contains_key("pinfold_worker_memory_max_bytes{worker=\"leaker\"}"), "what is over holds nothing");
    assert!(told.contains_key("pinfold_worker_io_bytes_total{worker=\"burner\",direction=\"read\"}"));

    let ran = finish(case.pinfold("stats").args(["burner", "--no-stream", "-o", "json"]));
    let line: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    let number = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key}: {line}"));
    assert!(number("throttled_percent") > 50.0 && number("cpu_percent") < 60.0, "{line}");
    assert_eq!((number("memory_max_bytes"), number("pids_max")), (mib(64), 16.0));
    let table = finish(case.pinfold("stats").args(["burner", "--no-stream"])).stdout;
    assert!(table.contains("48 MiB") && table.contains("1/16"), "{table}");
    up.stop();
}
