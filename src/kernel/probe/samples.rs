//! The facts of several kinds of host, for the tests of the judgement and of its rendering.

use super::{Facts, Files, Launch, Place, Pressure};
use crate::kernel::{
    cgroup::{Controller, Namespace, Why, Withheld},
    place::Mount,
};

/// A new kernel, systemd, root.
pub(crate) fn pure() -> Facts {
    Facts {
        kernel: "6.18.44".into(),
        systemd: Some("257".into()),
        root: true,
        mount: Some(Mount {
            path: "/sys/fs/cgroup".into(),
            root: "/".into(),
            read_only: false,
            nsdelegate: true,
            hybrid: false,
        }),
        own: Some("/user.slice/user-0.slice/session-3.scope".into()),
        place: Ok(Place {
            root: "/sys/fs/cgroup/system.slice/pinfold-run-42-0a1b2c.scope".into(),
            withheld: vec![],
            xattrs: Namespace::Trusted,
            files: Files { memory_peak: true, swap_max: true, cpu_burst: true, pids_events_local: true },
            dying: 12,
        }),
        launch: Ok(Launch { into_cgroup: Ok(()), after_target_kill: Ok(()), after_own_kill: Ok(()) }),
        pidfd: true,
        pidfd_exit_info: true,
        pressure: Pressure { readable: true, plain: true, any_window: true },
        inotify_watches: Some(524_288),
        inotify_instances: Some(1024),
        inotify: Ok(()),
        open_files: 524_288,
        swap: 2 << 30,
        lacking: vec![],
    }
}

/// Controllers bound to v1, no systemd, the kernel that kills at birth.
pub(crate) fn hybrid() -> Facts {
    let mut facts = pure();
    facts.systemd = None;
    facts.own = Some("/".into());
    if let Some(mount) = &mut facts.mount {
        mount.path = "/sys/fs/cgroup/unified".into();
        mount.hybrid = true;
    }
    let v1 = |controller: Controller, mount: &str| Withheld { controller, why: Why::V1 { mount: Some(mount.into()) } };
    if let Ok(place) = &mut facts.place {
        place.root = "/sys/fs/cgroup/unified/pinfold".into();
        place.withheld = vec![
            v1(Controller::Memory, "/sys/fs/cgroup/memory"),
            v1(Controller::Cpu, "/sys/fs/cgroup/cpu"),
            v1(Controller::Pids, "/sys/fs/cgroup/pids"),
            v1(Controller::Io, "/sys/fs/cgroup/blkio"),
        ];
    }
    let killed = || Err("the child was killed before its first instruction (kernel bug, fixed by 8e3599202166)".into());
    facts.launch = Ok(Launch { into_cgroup: Ok(()), after_target_kill: killed(), after_own_kill: killed() });
    facts.inotify_watches = Some(7_500);
    facts.inotify_instances = Some(128);
    facts
}

/// An ordinary user on an older systemd host.
pub(crate) fn rootless() -> Facts {
    let mut facts = pure();
    facts.kernel = "6.1.0-50-amd64".into();
    facts.systemd = Some("252".into());
    facts.root = false;
    if let Ok(place) = &mut facts.place {
        let manager = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service";
        place.root = format!("{manager}/app.slice/pinfold.scope").into();
        let io = Withheld {
            controller: Controller::Io,
            why: Why::NotPassedOn {
                dir: "/sys/fs/cgroup/user.slice/user-1000.slice".into(),
                place: place.root.clone(),
            },
        };
        place.withheld = vec![io];
        place.xattrs = Namespace::User;
        place.files.pids_events_local = false;
        place.dying = 4_000;
    }
    facts.pidfd_exit_info = false;
    facts.pressure = Pressure { readable: true, plain: true, any_window: false };
    facts.open_files = 4_096;
    facts
}

/// A container whose cgroup file system is read-only.
pub(crate) fn read_only() -> Facts {
    let mut facts = pure();
    facts.systemd = None;
    facts.own = Some("/".into());
    facts.place = Err("/sys/fs/cgroup is read-only: what is started there could not be killed; mount it writable (a \
                       container: `-v /sys/fs/cgroup:/sys/fs/cgroup:rw --cgroupns=private`)"
        .into());
    facts.launch = Err("it can be tried only in a place of our own".into());
    facts.lacking = vec![("CAP_SYS_ADMIN".into(), "records that no worker can forge")];
    facts.swap = 0;
    facts
}

/// A container with a shell in its root cgroup.
pub(crate) fn strangers() -> Facts {
    let mut facts = read_only();
    if let Ok(good) = pure().place {
        let refused = |controller| Withheld {
            controller,
            why: Why::Refused { dir: "/sys/fs/cgroup".into(), reason: "bash (pid 1) sit there".into() },
        };
        facts.place = Ok(Place {
            root: "/sys/fs/cgroup/pinfold".into(),
            withheld: Controller::ALL.map(refused).to_vec(),
            xattrs: Namespace::User,
            ..good
        });
    }
    facts.launch = pure().launch;
    facts.pressure = Pressure { readable: false, plain: false, any_window: false };
    facts
}

/// All of them.
pub(crate) fn all() -> Vec<Facts> {
    vec![pure(), hybrid(), rootless(), read_only(), strangers()]
}
