//! A worker's limits as an ordered list of files and values (pure), and that list put in force.
//!
//! ```text
//! Limits ─ plan ─▶ [swap.max, oom.group, high, max, cpu.max, burst, weight, pids.max, io.max …] ─ apply ─▶ Effective
//! ```
//! Every value is rounded to the kernel's grain first, written, read back and compared: what the kernel says is the
//! truth, and a limit that is not in force is a failed start, never a warning.

use super::{
    controller::Withheld,
    dir::{Dir, DirError},
    disk::{self, Disk},
    handle,
    setting::Setting,
};
use crate::{
    model::{Stage, StartError},
    spec::types::{Cpu, Limits, Memory, OomGroup, SwapMax},
};

/// The shortest quota the kernel takes.
const MIN_QUOTA_USEC: u64 = 1_000;

/// What of the host a plan depends on.
#[derive(Debug, Clone)]
pub struct Host {
    /// Bytes in a page.
    pub page_size: u64,
    /// The controllers that runs cannot have, and why.
    pub withheld: Vec<Withheld>,
}

/// The limits of a run as the kernel has them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Effective {
    /// File and content, in the order they were set.
    pub files: Vec<(&'static str, String)>,
}

impl Effective {
    /// The content of `file`, if it was set.
    #[must_use]
    pub fn get(&self, file: &str) -> Option<&str> {
        self.files.iter().find(|(f, _)| *f == file).map(|(_, text)| text.as_str())
    }
}

/// Plans and applies `limits` to the fresh cgroup `dir`.
///
/// # Errors
/// Stage `limit`, with the file and the reason.
pub fn set(dir: &Dir, limits: &Limits, host: &Host) -> Result<Effective, StartError> {
    let disks = disks(limits)?;
    let plan = plan(limits, &disks, host)?;
    apply(dir, &plan)
}

/// The disk of each of `limits.io`, in their order.
///
/// # Errors
/// Where a path has none.
pub fn disks(limits: &Limits) -> Result<Vec<Disk>, StartError> {
    limits.io.iter().map(|io| disk::of_path(&io.path)).collect()
}

/// What is to be written, in this order: swap before memory, so that lowering memory cannot push into swap; quota
/// before burst, which must fit in it. `disks` are those of `limits.io`.
///
/// # Errors
/// Where a limit needs a controller that is withheld, or a value has no place in the kernel's range.
pub fn plan(limits: &Limits, disks: &[Disk], host: &Host) -> Result<Vec<Setting>, StartError> {
    let mut settings = memory(&limits.memory, host.page_size);
    cpu(&limits.cpu, &mut settings)?;
    settings.extend(limits.pids.max.map(Setting::PidsMax));
    settings.extend(limits.io.iter().zip(disks).map(|(io, &disk)| Setting::IoMax {
        disk,
        rbps: io.rbps,
        wbps: io.wbps,
        riops: io.riops,
        wiops: io.wiops,
    }));
    match settings.iter().find_map(|s| Some((s, host.withheld.iter().find(|w| w.controller == s.controller())?))) {
        Some((setting, withheld)) => Err(StartError::refused(
            Stage::Limit,
            format!("{} needs {withheld}, or remove the limit", blame(setting, limits)),
        )),
        None => Ok(settings),
    }
}

/// The file to name where a controller is missing: the one the user asked for, not one that follows from it.
fn blame(setting: &Setting, limits: &Limits) -> &'static str {
    match setting {
        Setting::SwapMax(_) | Setting::OomGroup(_) if limits.memory.max.is_some() => "memory.max",
        other => other.file(),
    }
}

fn memory(memory: &Memory, page_size: u64) -> Vec<Setting> {
    let grain = |bytes| grain(bytes, page_size);
    let mut settings = Vec::new();
    if memory.max.is_some() {
        settings.push(Setting::SwapMax(match memory.swap_max {
            SwapMax::Max => None,
            SwapMax::Bytes(bytes) => Some(grain(bytes)),
        }));
        settings.push(Setting::OomGroup(memory.oom_scope == OomGroup::Worker));
    }
    settings.extend(memory.high.map(|bytes| Setting::MemoryHigh(grain(bytes))));
    settings.extend(memory.max.map(|bytes| Setting::MemoryMax(grain(bytes))));
    settings
}

const fn grain(bytes: u64, page_size: u64) -> u64 {
    bytes - bytes % if page_size == 0 { 1 } else { page_size }
}

fn cpu(cpu: &Cpu, settings: &mut Vec<Setting>) -> Result<(), StartError> {
    let quota = match cpu.max_percent {
        Some(percent) => {
            let (quota, period) = quota(percent)?;
            settings.push(Setting::CpuMax { quota, period });
            Some(quota)
        }
        None => None,
    };
    if let Some(burst) = cpu.burst_usec {
        match quota {
            Some(quota) if burst > quota => {
                return Err(StartError::refused(
                    Stage::Limit,
                    format!("cpu.max.burst of {burst} µs is above the quota of {quota} µs, which the kernel refuses"),
                ));
            }
            // It carries over what of a quota was left: without one it means nothing.
            None => {}
            Some(_) => settings.push(Setting::CpuBurst(burst)),
        }
    }
    settings.extend(cpu.weight.map(Setting::CpuWeight));
    Ok(())
}

/// Quota and period for `percent` of one CPU, rounded down to microseconds.
fn quota(percent: f64) -> Result<(u64, u64), StartError> {
    let period = u64::try_from(Cpu::period(percent).as_micros()).unwrap_or(u64::MAX);
    #[expect(clippy::cast_precision_loss, reason = "at most a million")]
    let quota = (percent * period as f64 / 100.0).floor();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates; checked below")]
    let quota = quota as u64;
    if quota >= MIN_QUOTA_USEC {
        return Ok((quota, period));
    }
    Err(StartError::refused(
        Stage::Limit,
        format!("cpu.max of {percent} % is below 0.1 %, the least the kernel can enforce"),
    ))
}

/// Puts `plan` in force on the fresh cgroup `dir`.
///
/// # Errors
/// At the first setting that is refused or reads back differently.
pub fn apply(dir: &Dir, plan: &[Setting]) -> Result<Effective, StartError> {
    let mut effective = Effective { files: Vec::with_capacity(plan.len()) };
    for setting in plan {
        let file = setting.file();
        match setting.write(dir) {
            Ok(()) => effective.files.push((file, read_back(dir, setting)?)),
            // A kernel without swap has no file to forbid it with, and nothing to forbid.
            Err(e) if e.is_absent() && *setting == Setting::SwapMax(Some(0)) && no_swap() => {}
            Err(e) => return Err(refused(dir, setting, &e)),
        }
    }
    Ok(effective)
}

/// Puts one setting in force on a living run. A `memory.max` below its use reclaims and kills *in this call*: whoever
/// shrinks comes here last, off the loop, after reclaiming.
///
/// # Errors
/// Where it is refused or reads back differently.
pub fn change(dir: &Dir, setting: &Setting) -> Result<String, StartError> {
    setting.write_through(&handle::load(dir), dir).map_err(|e| refused(dir, setting, &e))?;
    read_back(dir, setting)
}

/// Takes `memory.high` of a living run out of force, or puts it in force again as `memory` says: the first never waits, the second
/// reclaims within the call what is above it. Nothing to do where none is configured.
///
/// # Errors
/// Where it is refused or reads back differently.
pub fn tripwire(dir: &Dir, memory: &Memory, page_size: u64, armed: bool) -> Result<(), StartError> {
    let Some(high) = memory.high else { return Ok(()) };
    let setting = if armed { Setting::MemoryHigh(grain(high, page_size)) } else { Setting::NoMemoryHigh };
    setting.write(dir).map_err(|e| refused(dir, &setting, &e))?;
    if !armed {
        // Somebody who arms it aside can have written in between, and lifts it again: there is nothing to compare.
        return Ok(());
    }
    match read_back(dir, &setting) {
        // Lifted in between, by whoever had the last word.
        Err(_) if Setting::NoMemoryHigh.is_in(&dir.read("memory.high").unwrap_or_default()) => Ok(()),
        other => other.map(drop),
    }
}

pub(super) fn read_back(dir: &Dir, setting: &Setting) -> Result<String, StartError> {
    let mut buf = [0; 4096];
    let text = dir.read_into(setting.file(), &mut buf).map_err(|e| refused(dir, setting, &e))?;
    in_force(setting, text)?;
    Ok(text.trim_end().to_owned())
}

/// Holds the kernel's answer against what was written.
fn in_force(setting: &Setting, text: &str) -> Result<(), StartError> {
    if setting.is_in(text) {
        return Ok(());
    }
    Err(StartError::refused(
        Stage::Limit,
        format!("{} was set to {} and the kernel made it {:?}", setting.file(), setting.value(), text.trim_end()),
    ))
}

pub(super) fn refused(dir: &Dir, setting: &Setting, e: &DirError) -> StartError {
    // By a look: cgroups-rs opens with O_CREAT, so the kernel says EACCES of a file that is not there.
    if !dir.has(setting.file()) {
        let path = dir.path().join(setting.file());
        let what = format!(
            "{} is not there: either the {} controller is not enabled for this cgroup, or the kernel is older than it",
            path.display(),
            setting.controller()
        );
        return StartError { stage: Stage::Limit, errno: 0, what };
    }
    StartError::os(Stage::Limit, format!("{} {}", setting.file(), setting.value()), e.errno())
}

/// Whether the host has no swap: `/proc/swaps` is missing or lists none.
pub(super) fn no_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").map_or(true, |text| text.lines().count() < 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::cgroup::{Controller, Why},
        spec::types::{Io, Pids},
    };

    const HOST: Host = Host { page_size: 4096, withheld: Vec::new() };

    fn text(plan: &[Setting]) -> Vec<String> {
        plan.iter().map(|s| format!("{} = {}", s.file(), s.value())).collect()
    }

    fn full() -> Limits {
        Limits {
            memory: Memory { max: Some(100_000_000), high: Some(90_000_000), ..Memory::default() },
            cpu: Cpu { max_percent: Some(75.0), weight: Some(200), burst_usec: Some(5000), ..Cpu::default() },
            pids: Pids { max: Some(64), ..Pids::default() },
            io: vec![Io {
                path: "/data".into(),
                rbps: None,
                wbps: Some(20_000_000),
                riops: None,
                wiops: None,
                policy: crate::spec::types::ViolationPolicy::Log,
            }],
            ..Limits::default()
        }
    }

    #[test]
    fn values_are_in_the_kernels_grain_and_order() {
        let plan = plan(&full(), &[Disk { major: 8, minor: 0 }], &HOST).unwrap();
        assert_eq!(
            text(&plan),
            [
                "memory.swap.max = 0",
                "memory.oom.group = 1",
                "memory.high = 89997312",
                "memory.max = 99999744",
                "cpu.max = 75000 100000",
                "cpu.max.burst = 5000",
                "cpu.weight = 200",
                "pids.max = 64",
                "io.max = 8:0 wbps=20000000",
            ]
        );
        let plan = super::plan(&full(), &[Disk { major: 8, minor: 0 }], &Host { page_size: 65536, ..HOST }).unwrap();
        assert!(text(&plan).contains(&"memory.max = 99942400".to_owned()), "a page is not 4096 bytes everywhere");
    }

    #[test]
    fn no_limits_touch_no_file() {
        assert_eq!(plan(&Limits::default(), &[], &HOST).unwrap(), []);
        let swap_alone = Memory { swap_max: SwapMax::Bytes(1 << 20), ..Memory::default() };
        assert_eq!(memory(&swap_alone, 4096), [], "swap_max is a part of memory.max");
    }

    #[test]
    fn oom_scope_and_swap_follow_the_configuration() {
        let limits =
            Memory { max: Some(8192), swap_max: SwapMax::Max, oom_scope: OomGroup::Process, ..Memory::default() };
        assert_eq!(
            text(&memory(&limits, 4096)),
            ["memory.swap.max = max", "memory.oom.group = 0", "memory.max = 8192"]
        );
    }

    #[test]
    fn a_small_share_of_a_cpu_gets_a_longer_period_instead_of_a_larger_quota() {
        assert_eq!(quota(250.0).unwrap(), (250_000, 100_000));
        assert_eq!(quota(1.0).unwrap(), (1000, 100_000));
        assert_eq!(quota(0.5).unwrap(), (5000, 1_000_000));
        assert!(quota(0.05).unwrap_err().what.contains("below 0.1 %"));
        assert!(quota(f64::NAN).is_err());
    }

    #[test]
    fn a_burst_above_the_quota_is_refused_before_anything_is_written() {
        let cpu_limits = Cpu { max_percent: Some(5.0), burst_usec: Some(6000), ..Cpu::default() };
        let err = cpu(&cpu_limits, &mut Vec::new()).unwrap_err();
        assert_eq!(
            err.to_string(),
            "limit: cpu.max.burst of 6000 µs is above the quota of 5000 µs, which the kernel refuses"
        );
    }

    #[test]
    fn a_missing_controller_is_one_sentence_with_the_limit_the_owner_and_the_fix() {
        let v1 = Why::V1 { mount: Some("/sys/fs/cgroup/memory".into()) };
        let host = Host { page_size: 4096, withheld: vec![Withheld { controller: Controller::Memory, why: v1 }] };
        let err = plan(&full(), &[Disk { major: 8, minor: 0 }], &host).unwrap_err();
        assert_eq!(
            err.to_string(),
            "limit: memory.max needs the memory controller, which this host has bound to cgroup v1 \
             (/sys/fs/cgroup/memory): boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all, \
             or remove the limit"
        );
        let pids_only = Limits { pids: Pids { max: Some(4), ..Pids::default() }, ..Limits::default() };
        assert!(plan(&pids_only, &[], &host).is_ok(), "a limit that needs it not is not refused");
    }

    fn fixture(files: &[(&str, &str)]) -> (tempfile::TempDir, Dir) {
        let tmp = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(tmp.path().join(name), text).unwrap();
        }
        let dir = Dir::on_any_fs(tmp.path());
        (tmp, dir)
    }

    #[test]
    fn what_was_applied_is_what_the_files_say() {
        let (_tmp, dir) = fixture(&[("pids.max", "max\n"), ("cpu.max", "max 100000\n"), ("cpu.weight", "100\n")]);
        let settings = [Setting::CpuMax { quota: 5000, period: 100_000 }, Setting::CpuWeight(7), Setting::PidsMax(9)];
        let effective = apply(&dir, &settings).unwrap();
        assert_eq!(effective.get("cpu.max"), Some("5000 100000"));
        assert_eq!(effective.get("cpu.weight"), Some("7"));
        assert_eq!(effective.get("pids.max"), Some("9"));
        assert_eq!(effective.get("memory.max"), None);
        assert_eq!(dir.read("pids.max").unwrap(), "9");
    }

    #[test]
    fn a_value_the_kernel_changed_is_a_failed_start() {
        let err = in_force(&Setting::MemoryMax(5000), "4096\n").unwrap_err();
        assert_eq!(err.to_string(), "limit: memory.max was set to 5000 and the kernel made it \"4096\"");
    }

    #[test]
    fn the_file_that_is_not_there_is_named() {
        let (_tmp, dir) = fixture(&[("cpu.weight", "100\n")]);
        let err = apply(&dir, &[Setting::CpuWeight(9), Setting::CpuBurst(9)]).unwrap_err();
        assert!(err.what.contains("cpu.max.burst is not there"), "{err}");
    }

    #[test]
    fn the_tripwire_is_lifted_and_set_again_in_the_kernels_grain() {
        let (_tmp, dir) = fixture(&[("memory.high", "89997312\n")]);
        let memory = full().memory;
        tripwire(&dir, &memory, 4096, false).unwrap();
        assert_eq!(dir.read("memory.high").unwrap(), "max");
        tripwire(&dir, &memory, 4096, true).unwrap();
        assert_eq!(dir.read("memory.high").unwrap(), "89997312");
        tripwire(&dir, &Memory::default(), 4096, false).unwrap();
        assert_eq!(dir.read("memory.high").unwrap(), "89997312", "not ours to lift");
    }
}
