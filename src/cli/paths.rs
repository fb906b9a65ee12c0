//! Where things are: flags over `PINFOLD_*` over the defaults of root or of a user. Pure: what it needs to know of the
//! process comes in as a [`Who`].

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::args::Globals;

/// The runtime directory of a supervisor that runs as root.
pub const SYSTEM_RUNTIME: &str = "/run/pinfold";

/// Who asks, from where.
pub struct Who<'a> {
    /// Whether the effective user is root.
    pub root: bool,
    /// The working directory, which relative paths are relative to.
    pub cwd: &'a Path,
    /// An environment variable.
    pub var: &'a dyn Fn(&str) -> Option<OsString>,
}

/// Where everything of one instance is. Absolute paths all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// What to read as configuration.
    pub config: ConfigSource,
    /// Sockets and locks; gone at the next boot.
    pub runtime: PathBuf,
    /// Database and logs.
    pub state: PathBuf,
    /// The API's socket.
    pub socket: PathBuf,
    /// The cgroup named by the user; `None` leaves the choice to `kernel::place`.
    pub cgroup_root: Option<PathBuf>,
}

/// What to read as configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigSource {
    /// These files, in this order; each must exist.
    Named(Vec<PathBuf>),
    /// `file`, where it exists, and the `*.yaml` of `dir` in the order of their names.
    Default {
        /// `…/pinfold.yaml`.
        file: PathBuf,
        /// `…/conf.d`.
        dir: PathBuf,
    },
}

/// Nowhere to put things.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// A user without `XDG_RUNTIME_DIR`.
    #[error(
        "no runtime directory: XDG_RUNTIME_DIR is not set; log in through a session that sets it, or give --runtime-dir"
    )]
    Runtime,
    /// A user without a home.
    #[error("no {what} directory: neither {xdg} nor HOME is set; set one, or give {flag}")]
    Home {
        /// Which.
        what: &'static str,
        /// Its variable.
        xdg: &'static str,
        /// The flag that names it.
        flag: &'static str,
    },
}

/// Resolves every path. `files` are the command's own FILE arguments.
///
/// # Errors
/// [`NoPlace`] where a user's environment does not say where a needed directory is.
pub fn resolve(globals: &Globals, files: &[PathBuf], who: &Who<'_>) -> Result<Paths, NoPlace> {
    let absolute = |path: &Path| who.cwd.join(path);
    // An empty variable is an unset one, as everywhere in a shell's world.
    let var = |name: &str| (who.var)(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let chosen = |flag: &Option<PathBuf>, name: &str| flag.clone().or_else(|| var(name)).map(|path| absolute(&path));
    // The XDG base directory specification: a relative value is invalid and ignored.
    let xdg = |name: &str, below_home: &str| {
        let home = || var("HOME").filter(|home| home.is_absolute()).map(|home| home.join(below_home));
        var(name).filter(|path| path.is_absolute()).or_else(home).map(|path| path.join("pinfold"))
    };

    let runtime = runtime(globals, who)?;
    let state = match chosen(&globals.state_dir, "PINFOLD_STATE_DIR") {
        Some(dir) => dir,
        None if who.root => "/var/lib/pinfold".into(),
        None => xdg("XDG_STATE_HOME", ".local/state").ok_or(NoPlace::Home {
            what: "state",
            xdg: "XDG_STATE_HOME",
            flag: "--state-dir",
        })?,
    };
    let socket = socket(globals, who)?;
    Ok(Paths { config: config(globals, files, who)?, runtime, state, socket, cgroup_root: cgroup_root(globals, who) })
}

/// Where sockets and locks are.
fn runtime(globals: &Globals, who: &Who<'_>) -> Result<PathBuf, NoPlace> {
    let var = |name: &str| (who.var)(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = globals.runtime_dir.clone().or_else(|| var("PINFOLD_RUNTIME_DIR")) {
        return Ok(who.cwd.join(dir));
    }
    if who.root {
        return Ok(SYSTEM_RUNTIME.into());
    }
    let own = var("XDG_RUNTIME_DIR").filter(|dir| dir.is_absolute());
    own.map(|dir| dir.join("pinfold")).ok_or(NoPlace::Runtime)
}

/// The API's socket; by itself for the commands that talk to a supervisor, which need no other place.
///
/// # Errors
/// [`NoPlace::Runtime`] where it is not named and a user's environment does not say where it would be.
pub fn socket(globals: &Globals, who: &Who<'_>) -> Result<PathBuf, NoPlace> {
    let var = || (who.var)("PINFOLD_SOCKET").filter(|value| !value.is_empty()).map(PathBuf::from);
    match globals.socket.clone().or_else(var) {
        Some(path) => Ok(who.cwd.join(path)),
        None => Ok(runtime(globals, who)?.join("api.sock")),
    }
}

/// The cgroup named by the user; by itself for `run`, which needs no other place.
#[must_use]
pub fn cgroup_root(globals: &Globals, who: &Who<'_>) -> Option<PathBuf> {
    let var = || (who.var)("PINFOLD_CGROUP_ROOT").filter(|value| !value.is_empty()).map(PathBuf::from);
    globals.cgroup_root.clone().or_else(var).map(|path| who.cwd.join(path))
}

/// Which config to read; by itself for `validate`, which needs no other place.
///
/// # Errors
/// [`NoPlace`] where no file is named and there is no home to look into.
pub fn config(globals: &Globals, files: &[PathBuf], who: &Who<'_>) -> Result<ConfigSource, NoPlace> {
    let named: Vec<PathBuf> = globals.config.iter().chain(files).map(|file| who.cwd.join(file)).collect();
    if !named.is_empty() {
        return Ok(ConfigSource::Named(named));
    }
    let var = |name: &str| (who.var)(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(file) = var("PINFOLD_CONFIG") {
        return Ok(ConfigSource::Named(vec![who.cwd.join(file)]));
    }
    let base = if who.root {
        PathBuf::from("/etc/pinfold")
    } else {
        var("XDG_CONFIG_HOME")
            .filter(|dir| dir.is_absolute())
            .or_else(|| var("HOME").filter(|home| home.is_absolute()).map(|home| home.join(".config")))
            .map(|dir| dir.join("pinfold"))
            .ok_or(NoPlace::Home { what: "config", xdg: "XDG_CONFIG_HOME", flag: "--config" })?
    };
    Ok(ConfigSource::Default { file: base.join("pinfold.yaml"), dir: base.join("conf.d") })
}

impl ConfigSource {
    /// The files to read, in this order.
    ///
    /// # Errors
    /// Where there is none at all, or the directory cannot be read.
    pub fn files(&self) -> Result<Vec<PathBuf>, NoConfig> {
        let (file, dir) = match self {
            Self::Named(files) => return Ok(files.clone()),
            Self::Default { file, dir } => (file, dir),
        };
        let failed = |source| NoConfig::Read { dir: dir.clone(), source };
        let mut found = Vec::new();
        match std::fs::read_dir(dir) {
            Ok(entries) => {
                for entry in entries {
                    let path = entry.map_err(failed)?.path();
                    if path.extension().is_some_and(|ext| ext == "yaml") {
                        found.push(path);
                    }
                }
            }
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => return Err(failed(err)),
        }
        found.sort();
        if file.try_exists().map_err(|source| NoConfig::Read { dir: file.clone(), source })? {
            found.insert(0, file.clone());
        }
        if found.is_empty() {
            return Err(NoConfig::None { file: file.clone(), dir: dir.clone() });
        }
        Ok(found)
    }
}

/// No configuration to read.
#[derive(Debug, thiserror::Error)]
pub enum NoConfig {
    /// Not one of the default files exists.
    #[error("no config: neither {} nor a .yaml file in {} exists; write one, or name one", .file.display(), .dir.display())]
    None {
        /// The main file.
        file: PathBuf,
        /// The directory of fragments.
        dir: PathBuf,
    },
    /// The directory cannot be read.
    #[error("cannot read {}", .dir.display())]
    Read {
        /// Which.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve_as(root: bool, globals: &Globals, vars: &[(&str, &str)]) -> Result<Paths, NoPlace> {
        let var = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        resolve(globals, &[], &Who { root, cwd: Path::new("/cwd"), var: &var })
    }

    #[test]
    fn root_has_the_directories_of_the_file_hierarchy_standard() {
        let paths = resolve_as(true, &Globals::default(), &[("HOME", "/root"), ("XDG_STATE_HOME", "/x")]).unwrap();
        assert_eq!(
            paths,
            Paths {
                config: ConfigSource::Default {
                    file: "/etc/pinfold/pinfold.yaml".into(),
                    dir: "/etc/pinfold/conf.d".into()
                },
                runtime: "/run/pinfold".into(),
                state: "/var/lib/pinfold".into(),
                socket: "/run/pinfold/api.sock".into(),
                cgroup_root: None,
            }
        );
    }

    #[test]
    fn a_user_has_the_xdg_directories() {
        let home = [("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        let paths = resolve_as(false, &Globals::default(), &home).unwrap();
        assert_eq!(paths.state, Path::new("/home/u/.local/state/pinfold"));
        assert_eq!(paths.socket, Path::new("/run/user/7/pinfold/api.sock"));
        assert_eq!(
            paths.config,
            ConfigSource::Default {
                file: "/home/u/.config/pinfold/pinfold.yaml".into(),
                dir: "/home/u/.config/pinfold/conf.d".into()
            }
        );
        let set = [("XDG_CONFIG_HOME", "/c"), ("XDG_STATE_HOME", "/s"), ("XDG_RUNTIME_DIR", "/r")];
        let paths = resolve_as(false, &Globals::default(), &set).unwrap();
        assert_eq!(paths.state, Path::new("/s/pinfold"));
    }

    #[test]
    fn a_relative_xdg_value_is_ignored() {
        let vars = [("HOME", "/h"), ("XDG_STATE_HOME", "s"), ("XDG_RUNTIME_DIR", "/r")];
        assert_eq!(resolve_as(false, &Globals::default(), &vars).unwrap().state, Path::new("/h/.local/state/pinfold"));
    }

    #[test]
    fn a_user_without_directories_is_told_what_to_set() {
        assert_eq!(resolve_as(false, &Globals::default(), &[("HOME", "/h")]), Err(NoPlace::Runtime));
        let err = resolve_as(false, &Globals::default(), &[("XDG_RUNTIME_DIR", "/r"), ("HOME", "")]).unwrap_err();
        assert_eq!(
            err.to_string(),
            "no state directory: neither XDG_STATE_HOME nor HOME is set; set one, or give --state-dir"
        );
    }

    #[test]
    fn a_flag_beats_its_variable_and_both_are_relative_to_the_working_directory() {
        let vars = [("PINFOLD_STATE_DIR", "from-var"), ("PINFOLD_RUNTIME_DIR", "/var-run")];
        let globals = Globals { state_dir: Some("from-flag".into()), ..Globals::default() };
        let paths = resolve_as(true, &globals, &vars).unwrap();
        assert_eq!(paths.state, Path::new("/cwd/from-flag"));
        assert_eq!(paths.runtime, Path::new("/var-run"));
        assert_eq!(paths.socket, Path::new("/var-run/api.sock"), "the socket follows the runtime directory");
        assert_eq!(resolve_as(true, &Globals::default(), &vars).unwrap().state, Path::new("/cwd/from-var"));
    }

    #[test]
    fn the_socket_alone_needs_no_home() {
        let none = Who { root: false, cwd: Path::new("/cwd"), var: &|_| None };
        assert_eq!(socket(&Globals::default(), &none), Err(NoPlace::Runtime));
        let named = Globals { socket: Some("s".into()), ..Globals::default() };
        assert_eq!(socket(&named, &none).unwrap(), Path::new("/cwd/s"));
        let by_dir = Globals { runtime_dir: Some("/r".into()), ..Globals::default() };
        assert_eq!(socket(&by_dir, &none).unwrap(), Path::new("/r/api.sock"));
        let var = |name: &str| (name == "PINFOLD_SOCKET").then(|| "/v/s".into());
        let who = Who { var: &var, ..none };
        assert_eq!(socket(&by_dir, &who).unwrap(), Path::new("/v/s"), "named, by whatever, beats derived");
    }

    #[test]
    fn named_files_replace_the_default_ones_and_keep_their_order() {
        let globals = Globals { config: vec!["b.yaml".into()], ..Globals::default() };
        let who = Who { root: true, cwd: Path::new("/cwd"), var: &|_| Some("/from/var".into()) };
        let source = config(&globals, &["a.yaml".into()], &who).unwrap();
        assert_eq!(source, ConfigSource::Named(vec!["/cwd/b.yaml".into(), "/cwd/a.yaml".into()]));
        let source = config(&Globals::default(), &[], &who).unwrap();
        assert_eq!(source, ConfigSource::Named(vec!["/from/var".into()]));
    }

    #[test]
    fn the_default_files_are_the_main_one_then_the_fragments_by_name() {
        let base = tempfile::tempdir().unwrap();
        let (file, dir) = (base.path().join("pinfold.yaml"), base.path().join("conf.d"));
        let source = ConfigSource::Default { file: file.clone(), dir: dir.clone() };
        assert!(matches!(source.files(), Err(NoConfig::None { .. })));
        std::fs::create_dir(&dir).unwrap();
        for name in ["20-b.yaml", "10-a.yaml", "notes.txt", "30-c.yaml.bak"] {
            std::fs::write(dir.join(name), "").unwrap();
        }
        assert_eq!(source.files().unwrap(), [dir.join("10-a.yaml"), dir.join("20-b.yaml")]);
        std::fs::write(&file, "").unwrap();
        assert_eq!(source.files().unwrap()[0], file);
    }
}
