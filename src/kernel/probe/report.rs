//! The judgement of [`Facts`]: pure, one [`Check`] for each, in the order a person should read them.

use super::{Facts, Place, Pressure};
use crate::{
    kernel::cgroup::{Controller, Namespace, Withheld},
    kernel::pressure::LOOK,
    model::{Check, Soundness},
};

/// Below this many inotify watches a fleet of usual size does not fit.
const FEW_WATCHES: u64 = 16_384;
/// Below this many open files neither does.
const FEW_FILES: u64 = 8_192;
/// From here on dying cgroups are a leak.
const MANY_DYING: u64 = 1_000;

/// Judges `facts`. The host is usable where no check [is fatal](Check::is_fatal).
#[must_use]
pub fn report(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![kernel(facts), cgroup2(facts), place(facts)];
    if let Ok(place) = &facts.place {
        checks.extend(Controller::ALL.map(|c| controller(c, place)));
        checks.extend(files(place, facts.swap));
        checks.push(records(place));
        checks.push(dying(place));
    }
    checks.extend(launch(facts));
    checks.push(pidfd(facts));
    checks.push(exit_info(facts));
    checks.push(pressure(facts.pressure));
    checks.push(inotify(facts));
    checks.push(open_files(facts));
    checks.push(privileges(facts));
    checks
}

fn ok(name: &str, fact: impl Into<String>) -> Check {
    Check { name: name.to_owned(), verdict: Soundness::Ok, fact: fact.into(), cost: None, fix: None, required: false }
}

fn bad(verdict: Soundness, name: &str, fact: impl Into<String>, cost: &str, fix: impl Into<Option<String>>) -> Check {
    Check { verdict, cost: Some(cost.to_owned()), fix: fix.into(), ..ok(name, fact) }
}

fn required(check: Check) -> Check {
    Check { required: true, ..check }
}

fn kernel(facts: &Facts) -> Check {
    let manager = match &facts.systemd {
        Some(version) => format!("systemd {version}"),
        None => "no systemd".to_owned(),
    };
    ok("kernel", format!("Linux {}, {manager}", facts.kernel))
}

fn cgroup2(facts: &Facts) -> Check {
    let Some(mount) = &facts.mount else {
        return required(bad(
            Soundness::Missing,
            "cgroup2",
            "no cgroup2 file system is mounted, or it does not show our own cgroup",
            "nothing can be run",
            "boot with systemd.unified_cgroup_hierarchy=1, or `mount -t cgroup2 cgroup2 /sys/fs/cgroup`".to_owned(),
        ));
    };
    let at = mount.path.display();
    required(if mount.hybrid {
        bad(
            Soundness::Degraded,
            "cgroup2",
            format!("at {at}, beside cgroup v1 (hybrid)"),
            "controllers that v1 has bound are missing below",
            "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all".to_owned(),
        )
    } else {
        ok("cgroup2", format!("at {at}"))
    })
}

fn place(facts: &Facts) -> Check {
    required(match &facts.place {
        Ok(place) => ok("place", format!("{} is ours to write", place.root.display())),
        Err(why) => {
            // The sentence itself says what to do.
            bad(Soundness::Missing, "place", why.clone(), "nothing can be run", None)
        }
    })
}

fn controller(controller: Controller, place: &Place) -> Check {
    let limits = match controller {
        Controller::Memory => "limits.memory",
        Controller::Cpu => "limits.cpu",
        Controller::Pids => "limits.pids",
        Controller::Io => "limits.io",
    };
    let check = match place.withheld.iter().find(|w| w.controller == controller) {
        None => ok(controller.name(), format!("{limits} can be enforced")),
        Some(withheld) => bad(
            Soundness::Missing,
            controller.name(),
            reason(withheld),
            &format!("a worker with {limits} fails its start; others run"),
            withheld.why.fix(controller),
        ),
    };
    // Holding workers to these three is what pinfold is for. systemd gives users no io unless it is told to.
    if controller == Controller::Io { check } else { required(check) }
}

/// The sentence without its fix, which has a line of its own.
fn reason(withheld: &Withheld) -> String {
    let text = withheld.to_string();
    let fix = format!(": {}", withheld.why.fix(withheld.controller));
    text.strip_suffix(&fix).unwrap_or(&text).to_owned()
}

fn files(place: &Place, swap: u64) -> Vec<Check> {
    let mut checks = Vec::new();
    let newer = |version: &str| format!("a newer kernel (Linux {version})");
    if place.has(Controller::Memory) {
        checks.push(if place.files.memory_peak {
            ok("memory.peak", "peak use is reported")
        } else {
            bad(Soundness::Degraded, "memory.peak", "absent", "reports have no peak memory", newer("5.19"))
        });
        let mib = swap / (1 << 20);
        checks.push(match (place.files.swap_max, swap) {
            (true, 0) => ok("swap", "none on this host"),
            (true, _) => ok("swap", format!("{mib} MiB; a worker with max_rss gets none of it unless swap_max is set")),
            (false, 0) => ok("swap", "none on this host, and no file to forbid it with"),
            (false, _) => bad(
                Soundness::Missing,
                "swap",
                format!("{mib} MiB, and memory.swap.max is absent"),
                "a worker with max_rss fails its start: it could swap instead",
                "boot with swapaccount=1, or `swapoff -a`".to_owned(),
            ),
        });
    }
    if place.has(Controller::Cpu) && !place.files.cpu_burst {
        checks.push(bad(
            Soundness::Degraded,
            "cpu.max.burst",
            "absent",
            "a worker with limits.cpu.burst fails its start",
            newer("5.14"),
        ));
    }
    if place.has(Controller::Pids) && !place.files.pids_events_local {
        checks.push(bad(
            Soundness::Degraded,
            "pids.events.local",
            "absent",
            "a fork refused by a limit above a worker counts as the worker's own",
            newer("6.12"),
        ));
    }
    checks
}

fn records(place: &Place) -> Check {
    match place.xattrs {
        Namespace::Trusted => ok("records", "trusted.* attributes: no worker can forge a run's record"),
        Namespace::User => bad(
            Soundness::Degraded,
            "records",
            "user.* attributes",
            "a worker of our own user could change its run's record",
            "run as root with CAP_SYS_ADMIN".to_owned(),
        ),
    }
}

fn dying(place: &Place) -> Check {
    let fact = format!("{} removed cgroups still hold memory", place.dying);
    if place.dying < MANY_DYING {
        return ok("dying", fact);
    }
    let cost = "kernel memory; at 65535 no worker can start (ENOSPC)";
    bad(Soundness::Degraded, "dying", fact, cost, "`echo 3 > /proc/sys/vm/drop_caches` lets them go".to_owned())
}

fn launch(facts: &Facts) -> Vec<Check> {
    let launch = match &facts.launch {
        Ok(launch) => launch,
        Err(why) => {
            let cost = "unknown until there is a place";
            return vec![bad(Soundness::Degraded, "clone3", format!("not tried: {why}"), cost, None)];
        }
    };
    let mut checks = vec![match &launch.into_cgroup {
        Ok(()) => ok("clone3", "into a cgroup: a worker is born in its own"),
        Err(why) => bad(
            Soundness::Degraded,
            "clone3",
            format!("into a cgroup fails ({why}): the fallback moves each worker before it may begin"),
            "10 ms a start where starts are sporadic",
            "a newer kernel, or a container profile that allows clone3".to_owned(),
        ),
    }];
    for (name, result, cost) in [
        ("kill, then clone", &launch.after_target_kill, "none: every run has a fresh cgroup"),
        ("clone after kill", &launch.after_own_kill, "none: a kill of our own cgroup ends us as well"),
    ] {
        checks.push(match result {
            Ok(()) => ok(name, "no spurious SIGKILL"),
            Err(why) => bad(Soundness::Degraded, name, why.clone(), cost, "Linux 6.1.191, 6.19 or newer".to_owned()),
        });
    }
    checks
}

fn pidfd(facts: &Facts) -> Check {
    required(if facts.pidfd {
        ok("pidfd", "a process is signalled and waited for by descriptor")
    } else {
        let fix = "Linux 5.3 or newer, or a container profile that allows pidfd_open".to_owned();
        bad(Soundness::Missing, "pidfd", "pidfd_open is refused", "nothing can be run", fix)
    })
}

fn exit_info(facts: &Facts) -> Check {
    if facts.pidfd_exit_info {
        return ok("pidfd exit status", "known even where nobody waited");
    }
    let cost = "an exit while keeper and supervisor are both away has cause `unknown`";
    bad(Soundness::Degraded, "pidfd exit status", "not told by this kernel", cost, "Linux 6.15 or newer".to_owned())
}

fn pressure(pressure: Pressure) -> Check {
    let every = LOOK.as_secs();
    match pressure {
        Pressure { readable: false, .. } => bad(
            Soundness::Missing,
            "pressure",
            "no pressure information",
            &format!(
                "limits.pressure cannot be watched, nor io.max; throttling by cpu.max is looked for every {every} s instead of \
                 being told"
            ),
            "boot with psi=1".to_owned(),
        ),
        Pressure { plain: true, any_window: true, .. } => ok("pressure", "triggers of any window"),
        Pressure { plain: true, any_window: false, .. } => ok(
            "pressure",
            format!("triggers whose window is a multiple of 2 s; any other is looked at every {every} s"),
        ),
        Pressure { plain: false, any_window: true, .. } => bad(
            Soundness::Degraded,
            "pressure",
            "triggers for the privileged only",
            "a kernel thread for each worker with cpu.max_percent, io or pressure",
            "Linux 6.1 or newer".to_owned(),
        ),
        Pressure { plain: false, any_window: false, .. } => bad(
            Soundness::Degraded,
            "pressure",
            "readable, but triggers are refused",
            &format!(
                "limits.pressure and throttling by cpu.max are looked for every {every} s instead of being told; io.max is \
                 not watched"
            ),
            "CAP_SYS_RESOURCE, or Linux 6.1 or newer".to_owned(),
        ),
    }
}

fn inotify(facts: &Facts) -> Check {
    if let Err(why) = &facts.inotify {
        let fix = "`sysctl fs.inotify.max_user_instances=512`".to_owned();
        let cost = "`up` cannot start";
        return required(bad(Soundness::Missing, "inotify", format!("no instance: {why}"), cost, fix));
    }
    let watches = facts.inotify_watches.unwrap_or(0);
    let fact = format!("{watches} watches, {} instances for this user", facts.inotify_instances.unwrap_or(0));
    if watches >= FEW_WATCHES {
        return ok("inotify", fact);
    }
    let cost = format!("beyond about {} workers, what happens inside one is seen at its exit only", watches / 2);
    let fix = "`sysctl fs.inotify.max_user_watches=524288`".to_owned();
    bad(Soundness::Degraded, "inotify", fact, &cost, fix)
}

fn open_files(facts: &Facts) -> Check {
    if facts.open_files == u64::MAX {
        return ok("open files", "no limit");
    }
    let fact = format!("at most {}", facts.open_files);
    if facts.open_files >= FEW_FILES {
        return ok("open files", fact);
    }
    let cost = format!("about {} workers at most", facts.open_files / 4);
    bad(Soundness::Degraded, "open files", fact, &cost, "LimitNOFILE=524288 in the unit, or `ulimit -Hn`".to_owned())
}

fn privileges(facts: &Facts) -> Check {
    if !facts.root {
        let root_fix = "run as root with a `user` for each worker".to_owned();
        let cost = "workers run as this user and could lift their own limits: they bind honest workers only";
        return bad(Soundness::Degraded, "privileges", "not root", cost, root_fix);
    }
    if facts.lacking.is_empty() {
        return ok("privileges", "root with all capabilities that are of use");
    }
    let names = facts.lacking.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ");
    let uses = facts.lacking.iter().map(|(_, what)| *what).collect::<Vec<_>>().join("; ");
    let cost = format!("unavailable: {uses}");
    bad(
        Soundness::Degraded,
        "privileges",
        format!("root without {names}"),
        &cost,
        format!("CapabilityBoundingSet={names} in the unit, --cap-add for a container"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::probe::samples;

    fn find<'a>(checks: &'a [Check], name: &str) -> &'a Check {
        checks.iter().find(|c| c.name == name).unwrap_or_else(|| panic!("no check {name}"))
    }

    #[test]
    fn a_pure_host_has_nothing_to_mend() {
        let checks = report(&samples::pure());
        for check in &checks {
            assert_eq!(check.verdict, Soundness::Ok, "{check:?}");
            assert!(check.cost.is_none() && check.fix.is_none(), "{check:?}");
        }
        let names: std::collections::BTreeSet<_> = checks.iter().map(|c| &c.name).collect();
        assert_eq!(names.len(), checks.len(), "each fact once");
    }

    #[test]
    fn whatever_is_not_ok_says_what_it_costs() {
        for facts in samples::all() {
            for check in report(&facts) {
                assert_eq!(check.verdict != Soundness::Ok, check.cost.is_some(), "{check:?}");
            }
        }
    }

    #[test]
    fn a_host_that_cannot_hold_workers_to_their_limits_is_not_fit() {
        let fatal = |facts: &Facts| -> Vec<String> {
            report(facts).into_iter().filter(Check::is_fatal).map(|c| c.name).collect()
        };
        assert_eq!(fatal(&samples::hybrid()), ["memory", "cpu", "pids"]);
        assert_eq!(fatal(&samples::read_only()), ["place"]);
        assert_eq!(fatal(&samples::pure()), [""; 0]);
    }

    #[test]
    fn swap_that_cannot_be_forbidden_is_told_only_where_there_is_some() {
        let mut facts = samples::pure();
        facts.place.as_mut().unwrap().files.swap_max = false;
        facts.swap = 0;
        assert_eq!(find(&report(&facts), "swap").verdict, Soundness::Ok);
        facts.swap = 1 << 30;
        assert_eq!(find(&report(&facts), "swap").verdict, Soundness::Missing);
    }

    #[test]
    fn what_pressure_costs_is_told_for_each_kind_of_host() {
        let with = |readable, plain, any_window| {
            let facts = Facts { pressure: Pressure { readable, plain, any_window }, ..samples::pure() };
            let check = find(&report(&facts), "pressure").clone();
            (check.verdict, check.cost.unwrap_or_default())
        };
        assert_eq!(with(true, true, true).0, Soundness::Ok);
        assert_eq!(with(true, true, false).0, Soundness::Ok);
        assert!(with(true, false, true).1.contains("kernel thread"));
        assert!(with(true, false, false).1.contains("every 4 s"));
        assert!(with(false, false, false).1.contains("cannot be watched"));
    }

    #[test]
    fn both_cases_of_the_spurious_kill_are_told_apart_and_neither_stops_us() {
        let mut facts = samples::pure();
        facts.launch.as_mut().unwrap().after_own_kill = Err("killed at birth".to_owned());
        let checks = report(&facts);
        assert_eq!(find(&checks, "clone after kill").verdict, Soundness::Degraded);
        assert_eq!(find(&checks, "kill, then clone").verdict, Soundness::Ok);
        assert!(!checks.iter().any(Check::is_fatal));
    }
}
