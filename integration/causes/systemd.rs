//! The same deaths as services of systemd.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf, process::Command};

use pinfold::clock;

use super::{
    Scarce,
    deaths::{By, Death, Main, Places, SLICE_MIB, SLICES},
    open, say,
    support::{process::Process, run::finish, wait_until},
};

/// What systemd says of a service that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    result: String,
    /// `CLD_EXITED` (1), `CLD_KILLED` (2), `CLD_DUMPED` (3).
    code: i32,
    status: i32,
    active: String,
    main: i32,
}

impl Said {
    pub(crate) fn is(&self, result: &str, main: Main) -> bool {
        let fits = match main {
            Main::Exited(code) => (self.code, self.status) == (1, code),
            Main::Killed(signal) => (self.code, self.status) == (2, signal),
            Main::Any => true,
        };
        fits && self.result == result
    }

    /// Without the numbers of which every one is another.
    pub(crate) fn words(&self) -> String {
        match (self.code, self.status) {
            (1, 0) | (0, _) => self.result.clone(),
            (1, 203) => format!("{} 203", self.result),
            (1, _) => format!("{} N", self.result),
            (_, 9) => format!("{} KILL", self.result),
            (_, 15) => format!("{} TERM", self.result),
            _ => format!("{} N", self.result),
        }
    }

    fn over(&self) -> bool {
        ["inactive", "failed"].contains(&self.active.as_str())
    }
}

/// Our units, as files; gone at the end.
struct Units {
    prefix: String,
    files: Vec<PathBuf>,
}

impl Units {
    fn new(deaths: &[&Death]) -> Self {
        let prefix = format!("pinfold-it-{}", std::process::id());
        let mut units = Self { prefix, files: Vec::new() };
        let mut target = "[Unit]\nDefaultDependencies=no\n".to_owned();
        for death in deaths {
            let name = units.service(death);
            // As long as the target is up systemd remembers how they ended.
            writeln!(target, "Wants={name}").unwrap();
            let mut text = format!(
                "[Unit]\nDefaultDependencies=no\n[Service]\nType=exec\nStandardOutput=null\nStandardError=null\n\
                 LimitCORE=0\nMemorySwapMax=0\nExecStart={}\n",
                death.command.join(" ")
            );
            for line in death.service.iter().flatten() {
                writeln!(text, "{line}").unwrap();
            }
            if let Some(slice) = death.slice {
                writeln!(text, "Slice=pinfoldit{slice}.slice").unwrap();
            }
            units.write(&name, &text);
        }
        for slice in 0..SLICES {
            units.write(&format!("pinfoldit{slice}.slice"), &format!("[Slice]\nMemoryMax={SLICE_MIB}M\n"));
        }
        let name = units.target();
        units.write(&name, &target);
        systemctl(&["daemon-reload"]);
        units
    }

    fn write(&mut self, name: &str, text: &str) {
        let path = PathBuf::from("/run/systemd/system").join(name);
        fs::write(&path, text).unwrap();
        self.files.push(path);
    }

    fn target(&self) -> String {
        format!("{}.target", self.prefix)
    }

    fn service(&self, death: &Death) -> String {
        format!("{}-{}.service", self.prefix, death.id)
    }

    /// What systemd says now.
    fn said(&self, deaths: &[&Death]) -> BTreeMap<String, Said> {
        let names: Vec<String> = deaths.iter().map(|d| self.service(d)).collect();
        let wanted = ["-p", "Id,ActiveState,MainPID,Result,ExecMainCode,ExecMainStatus"];
        let shown =
            systemctl(&[&["show"], &wanted[..], &names.iter().map(String::as_str).collect::<Vec<_>>()].concat());
        let blocks = shown.split("\n\n").map(|block| {
            let value = |key: &str| {
                let line = block.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
                line.unwrap_or_else(|| panic!("systemctl show gave no {key}: {block}")).to_owned()
            };
            let number = |key: &str| value(key).parse().unwrap_or_else(|e| panic!("{key}: {e}: {block}"));
            let id = value("Id");
            let id = id.strip_prefix(&format!("{}-", self.prefix)).and_then(|id| id.strip_suffix(".service"));
            let said = Said {
                result: value("Result"),
                code: number("ExecMainCode"),
                status: number("ExecMainStatus"),
                active: value("ActiveState"),
                main: number("MainPID"),
            };
            (id.expect("one of ours").to_owned(), said)
        });
        blocks.collect()
    }

    fn wait_over(&self, what: &str, deaths: &[&Death]) {
        wait_until(what, || self.said(deaths).values().all(Said::over).then_some(()));
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        let services = format!("{}-*", self.prefix);
        for args in [["stop", &self.target()], ["kill", &services], ["stop", &services], ["reset-failed", &services]] {
            let _done = finish(Command::new("systemctl").args(args));
        }
        for file in &self.files {
            fs::remove_file(file).unwrap();
        }
        let _reloaded = finish(Command::new("systemctl").arg("daemon-reload"));
    }
}

fn systemctl(args: &[&str]) -> String {
    let ran = finish(Command::new("systemctl").args(args));
    assert_eq!(ran.code, Some(0), "systemctl {}: {}", args[0], ran.stderr);
    ran.stdout.trim().to_owned()
}

/// Lets all die that systemd can have; what it says of each.
pub(crate) fn answers(places: &Places, all: &[Death]) -> BTreeMap<String, Said> {
    let all: Vec<&Death> = all.iter().filter(|d| d.service.is_some()).collect();
    let (last, first): (Vec<&Death>, Vec<&Death>) = all.iter().partition(|d| d.kind == "oom-of-the-host");
    let began = clock::monotonic();
    let units = Units::new(&all);
    systemctl(&["start", &units.target()]);
    places.wait_ready(all.iter().copied());
    let begun = units.said(&all);
    say(began, &format!("{} services of systemd run", begun.values().filter(|s| s.main != 0).count()));
    let kill = |death: &Death, signal: i32| {
        let main = begun[&death.id].main;
        Process::open(main).unwrap_or_else(|| panic!("{} is gone already", death.id)).signal_number(signal);
    };

    let gate = open(&places.gate);
    std::thread::scope(|scope| {
        for (command, by) in [(&["stop"][..], By::Stop), (&["kill", "--signal=KILL"], By::Kill)] {
            let names: Vec<String> = first.iter().filter(|d| d.by == by).map(|d| units.service(d)).collect();
            if !names.is_empty() {
                let names =
                    move || systemctl(&[command, &names.iter().map(String::as_str).collect::<Vec<_>>()].concat());
                scope.spawn(names);
            }
        }
        for death in &first {
            if let By::Stranger(signal) = death.by {
                kill(death, signal);
            }
        }
        places.wait_children(first.iter().copied());
        for death in first.iter().filter(|d| d.by == By::StrangerAfterChild) {
            kill(death, 9);
        }
    });
    units.wait_over("the services' end", &first);
    drop(gate);
    say(began, "the first wave is over");
    if !last.is_empty() {
        let scarce = Scarce::new();
        let gate = open(&places.last_gate);
        units.wait_over("the end of the services when the host is out of memory", &last);
        drop((gate, scarce));
        say(began, "the host's memory ran out");
    }
    units.said(&all)
}
