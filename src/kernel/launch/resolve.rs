//! A spec and this host, to a plan a child can carry out without looking anything up.
//!
//! It blocks: users and groups come from NSS (which may ask a network), env files from disks. Call it off any loop,
//! with a deadline.
//!
//! The environment, each layer over the one before:
//! 1. `PATH` (a fixed default, as under systemd, so that a worker finds the same programs whoever started us), `LANG`,
//!    `LC_*`, `LANGUAGE` and `TZ` of ours;
//! 2. where `user` is set: `USER`, `LOGNAME`, `HOME`, `SHELL` of that user;
//! 3. `PINFOLD_WORKER` and `PINFOLD_RUN`;
//! 4. the global environment, the env files, the worker's own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::unistd::{Gid, Group, Uid, User};
use serde_bytes::ByteBuf;

use super::env_file;
use super::plan::{Ids, LaunchPlan, Rlimit, Session};
use crate::model::{RunId, Stage, StartError};
use crate::spec::types::{Process, Spec};

/// Where programs are looked for unless the worker's environment says otherwise.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a plan is made from beside the spec.
#[derive(Debug)]
pub struct Context<'a> {
    /// Which run; its name is that of its cgroup.
    pub run: &'a RunId,
    /// The configuration's global environment.
    pub global_env: &'a BTreeMap<String, String>,
    /// Our own environment.
    pub inherited: &'a BTreeMap<OsString, OsString>,
    /// How much of it the program gets.
    pub inherit: Inherit,
    /// The relation to sessions and terminals.
    pub session: Session,
}

/// How much of our environment a program gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inherit {
    /// Language and time zone: a worker.
    AllowList,
    /// All but what is meant for us alone: `pinfold run`, which is one command of a person's shell.
    All,
}

/// Variables by which a service manager talks to one process, which is us.
pub const OURS_ALONE: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// Looks everything up that a launch of `spec` needs.
///
/// # Errors
/// [`Stage::User`] for an unknown user or group, [`Stage::EnvFile`] for an env file that cannot be read.
pub fn resolve(spec: &Spec, context: &Context<'_>) -> Result<LaunchPlan, StartError> {
    let account = Account::look_up(spec.user.as_deref(), spec.group.as_deref())?;
    let mut env = inherited(context);
    env.extend(account.env);
    env.insert(b"PINFOLD_WORKER".to_vec(), context.run.worker.as_str().into());
    env.insert(b"PINFOLD_RUN".to_vec(), context.run.number.to_string().into_bytes());
    env.extend(bytes(context.global_env));
    for file in &spec.env_files {
        match env_file::read(&file.path)? {
            Some(assignments) => env.extend(assignments),
            None if file.optional => {}
            None => {
                return Err(StartError::os(Stage::EnvFile, file.path.display().to_string(), libc::ENOENT));
            }
        }
    }
    env.extend(bytes(&spec.env));

    let program = spec.argv.first().map(String::as_bytes).unwrap_or_default();
    let path = env.get(&b"PATH"[..]).map_or(DEFAULT_PATH.as_bytes(), Vec::as_slice);
    Ok(LaunchPlan {
        cgroup_name: context.run.to_string(),
        candidates: candidates(program, path),
        argv: spec.argv.iter().map(|a| ByteBuf::from(a.as_bytes())).collect(),
        env: env.into_iter().map(|(k, v)| ByteBuf::from([k, v].join(&b'='))).collect(),
        working_directory: ByteBuf::from(spec.working_directory.as_os_str().as_bytes()),
        ids: account.ids,
        umask: spec.umask,
        rlimits: rlimits(&spec.limits.process),
        // 0 is our own: without privileges a niced supervisor could not start anything otherwise.
        nice: (spec.nice != 0).then_some(spec.nice),
        oom_score_adj: spec.oom_score_adj,
        session: context.session,
    })
}

fn bytes(env: &BTreeMap<String, String>) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    env.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec()))
}

fn inherited(context: &Context<'_>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let wanted = |name: &[u8]| match context.inherit {
        Inherit::All => !OURS_ALONE.iter().any(|ours| ours.as_bytes() == name),
        Inherit::AllowList => matches!(name, b"LANG" | b"LANGUAGE" | b"TZ") || name.starts_with(b"LC_"),
    };
    let ours = context.inherited.iter().filter(|(name, _)| wanted(name.as_bytes()));
    let mut env = BTreeMap::from([(b"PATH".to_vec(), DEFAULT_PATH.as_bytes().to_vec())]);
    env.extend(ours.map(|(k, v)| (k.clone().into_vec(), v.clone().into_vec())));
    env
}

/// The files to try for `program`, as execvp(3) would. An empty entry of `PATH`, which means the working directory,
/// is left out: nobody means it.
fn candidates(program: &[u8], path: &[u8]) -> Vec<ByteBuf> {
    if program.contains(&b'/') {
        return vec![ByteBuf::from(program)];
    }
    let directories = path.split(|b| *b == b':').filter(|dir| !dir.is_empty() && !program.is_empty());
    directories.map(|dir| ByteBuf::from([dir.strip_suffix(b"/").unwrap_or(dir), program].join(&b'/'))).collect()
}

fn rlimits(process: &Process) -> Vec<Rlimit> {
    let limit = |resource, value: Option<u64>| value.map(|value| Rlimit { resource, soft: value, hard: value });
    let all = [
        limit(libc::RLIMIT_NOFILE, process.max_file_descriptors),
        limit(libc::RLIMIT_CORE, process.max_core_size),
        limit(libc::RLIMIT_MEMLOCK, process.max_locked_memory),
    ];
    all.into_iter().flatten().collect()
}

/// Who a worker is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Account {
    ids: Option<Ids>,
    env: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Account {
    /// By name or number; all digits are a number, as systemd has it. A number that the user database does not know
    /// is allowed, but only with a group beside it: it has none of its own, and Docker's answer to that, group 0,
    /// is root's.
    fn look_up(user: Option<&str>, group: Option<&str>) -> Result<Self, StartError> {
        let gid = group.map(find_group).transpose()?;
        let Some(user) = user else {
            let Some(gid) = gid else { return Ok(Self::default()) };
            let uid = Uid::effective();
            let known = User::from_uid(uid).map_err(|e| lookup_failed("user", &uid.to_string(), e))?;
            let groups = known.map_or(Ok(vec![gid]), |known| supplementary(&known, gid))?;
            return Ok(Self { ids: Some(Ids { uid: uid.as_raw(), gid, groups }), env: Vec::new() });
        };
        let number = number(user);
        let known = match number {
            Some(uid) => User::from_uid(Uid::from_raw(uid)),
            None => User::from_name(user),
        };
        match (known.map_err(|e| lookup_failed("user", user, e))?, number, gid) {
            (Some(known), _, gid) => {
                let gid = gid.unwrap_or(known.gid.as_raw());
                let groups = supplementary(&known, gid)?;
                let name = known.name.into_bytes();
                let env = vec![
                    (b"USER".to_vec(), name.clone()),
                    (b"LOGNAME".to_vec(), name),
                    (b"HOME".to_vec(), known.dir.into_os_string().into_vec()),
                    (b"SHELL".to_vec(), known.shell.into_os_string().into_vec()),
                ];
                Ok(Self { ids: Some(Ids { uid: known.uid.as_raw(), gid, groups }), env })
            }
            (None, Some(uid), Some(gid)) => {
                Ok(Self { ids: Some(Ids { uid, gid, groups: vec![gid] }), env: Vec::new() })
            }
            (None, Some(uid), None) => Err(StartError::refused(
                Stage::User,
                format!("user {uid} is not in the user database, so its group is not known: set `group` too"),
            )),
            (None, None, _) => Err(StartError::refused(Stage::User, format!("there is no user {user:?} on this host"))),
        }
    }
}

fn number(name: &str) -> Option<u32> {
    // The highest number is setresuid(2)'s "leave it": taking it would leave the worker root.
    let digits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    name.parse().ok().filter(|n| digits && *n != u32::MAX)
}

fn find_group(group: &str) -> Result<u32, StartError> {
    if let Some(gid) = number(group) {
        return Ok(gid);
    }
    match Group::from_name(group).map_err(|e| lookup_failed("group", group, e))? {
        Some(found) => Ok(found.gid.as_raw()),
        None => Err(StartError::refused(Stage::User, format!("there is no group {group:?} on this host"))),
    }
}

fn supplementary(user: &User, gid: u32) -> Result<Vec<u32>, StartError> {
    let failed = |e| lookup_failed("the groups of user", &user.name, e);
    let name = std::ffi::CString::new(user.name.as_bytes()).map_err(|_| failed(nix::errno::Errno::EINVAL))?;
    let groups = nix::unistd::getgrouplist(&name, Gid::from_raw(gid)).map_err(failed)?;
    Ok(groups.into_iter().map(Gid::as_raw).collect())
}

fn lookup_failed(what: &str, name: &str, errno: nix::errno::Errno) -> StartError {
    let what = if what == "user" { name.to_owned() } else { format!("{what} {name}") };
    StartError::os(Stage::User, what, errno as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WorkerId;
    use crate::spec::types::EnvFile;

    fn plan(spec: &Spec, inherit: Inherit) -> Result<LaunchPlan, StartError> {
        let os = |(k, v): (&str, &str)| (OsString::from(k), OsString::from(v));
        let inherited =
            [("LANG", "xx_YY"), ("LC_TIME", "C"), ("PATH", "/odd"), ("SECRET", "s"), ("NOTIFY_SOCKET", "@n")];
        let run = RunId::new(WorkerId::new("web-1").unwrap(), 7);
        let context = Context {
            run: &run,
            global_env: &BTreeMap::from([("A".into(), "global".into()), ("B".into(), "global".into())]),
            inherited: &inherited.map(os).into(),
            inherit,
            session: Session::New,
        };
        resolve(spec, &context)
    }

    fn env_of(plan: &LaunchPlan, key: &str) -> Option<String> {
        let prefix = format!("{key}=");
        let mut found = plan.env.iter().filter_map(|e| e.strip_prefix(prefix.as_bytes()));
        found.next().map(|v| String::from_utf8(v.to_vec()).unwrap())
    }

    #[test]
    fn a_worker_inherits_language_and_nothing_secret() {
        let plan = plan(&Spec::new(vec!["true".into()]), Inherit::AllowList).unwrap();
        assert_eq!(env_of(&plan, "LANG").as_deref(), Some("xx_YY"));
        assert_eq!(env_of(&plan, "LC_TIME").as_deref(), Some("C"));
        assert_eq!(env_of(&plan, "SECRET"), None);
        assert_eq!(env_of(&plan, "PATH").as_deref(), Some(DEFAULT_PATH));
        assert_eq!(env_of(&plan, "PINFOLD_WORKER").as_deref(), Some("web-1"));
        assert_eq!(env_of(&plan, "PINFOLD_RUN").as_deref(), Some("7"));
        assert_eq!(plan.cgroup_name, "web-1.7");
    }

    #[test]
    fn a_command_of_a_shell_inherits_all_but_the_service_managers_channel() {
        let plan = plan(&Spec::new(vec!["true".into()]), Inherit::All).unwrap();
        assert_eq!(env_of(&plan, "SECRET").as_deref(), Some("s"));
        assert_eq!(env_of(&plan, "NOTIFY_SOCKET"), None);
        assert_eq!(plan.candidates, [ByteBuf::from(*b"/odd/true")]);
    }

    #[test]
    fn the_nearer_environment_wins() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            EnvFile { path: dir.path().join(name), optional: false }
        };
        let mut spec = Spec::new(vec!["true".into()]);
        spec.env_files = vec![file("1", "B=first\nC=first\nD=first"), file("2", "C=second\nD=second")];
        spec.env_files.push(EnvFile { path: dir.path().join("absent"), optional: true });
        spec.env = BTreeMap::from([("D".into(), "own".into()), ("PATH".into(), "/x/::/y".into())]);
        let plan = plan(&spec, Inherit::AllowList).unwrap();
        let seen = ["A", "B", "C", "D"].map(|k| env_of(&plan, k).unwrap());
        assert_eq!(seen, ["global", "first", "second", "own"]);
        assert_eq!(plan.candidates, [ByteBuf::from(*b"/x/true"), ByteBuf::from(*b"/y/true")]);
    }

    #[test]
    fn a_missing_env_file_is_named_unless_it_is_optional() {
        let mut spec = Spec::new(vec!["true".into()]);
        spec.env_files = vec![EnvFile { path: "/nonexistent/env".into(), optional: false }];
        let err = plan(&spec, Inherit::AllowList).unwrap_err();
        assert_eq!(err.to_string(), "env_file /nonexistent/env: No such file or directory");
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let nobody = Account::look_up(Some("nobody"), None).unwrap();
        let ids = nobody.ids.clone().unwrap();
        assert_ne!(ids.uid, 0);
        assert_eq!(Account::look_up(Some(&ids.uid.to_string()), None).unwrap(), nobody);
        assert!(nobody.env.contains(&(b"USER".to_vec(), b"nobody".to_vec())));
        let grouped = Account::look_up(Some("nobody"), Some("daemon")).unwrap().ids.unwrap();
        assert_eq!((grouped.uid, grouped.gid), (ids.uid, find_group("daemon").unwrap()));
        assert!(grouped.groups.contains(&grouped.gid));
    }

    #[test]
    fn an_unknown_number_needs_a_group_and_never_gets_roots() {
        let err = Account::look_up(Some("4711000"), None).unwrap_err().to_string();
        assert_eq!(err, "user: user 4711000 is not in the user database, so its group is not known: set `group` too");
        let ids = Account::look_up(Some("4711000"), Some("4711001")).unwrap().ids.unwrap();
        assert_eq!(ids, Ids { uid: 4_711_000, gid: 4_711_001, groups: vec![4_711_001] });
    }

    #[test]
    fn an_unknown_name_is_a_sentence() {
        let err = Account::look_up(Some("nosuch"), None).unwrap_err().to_string();
        assert_eq!(err, "user: there is no user \"nosuch\" on this host");
        let err = Account::look_up(None, Some("nosuch")).unwrap_err().to_string();
        assert_eq!(err, "user: there is no group \"nosuch\" on this host");
    }

    #[test]
    fn the_number_that_means_leave_it_is_no_user() {
        let err = Account::look_up(Some("4294967295"), Some("0")).unwrap_err().to_string();
        assert_eq!(err, "user: there is no user \"4294967295\" on this host");
    }
}
