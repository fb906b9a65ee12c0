//! The binary: picks its role before any runtime exists, and turns the one top error into an exit code.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser;
use pinfold::{
    cli::{
        args::{Cli, Command},
        ask::{Verb, ask},
        client::Client,
        completion, doctor, down, events,
        exit::{Exit, Failure, chain},
        govern, logs, look, man,
        paths::{self, Who},
        reexec as cli_reexec,
        render::{Reader, Sgr, Zone},
        run,
        said::Said,
        schema,
        stats::{self, Screen},
        top, validate, version, watch,
    },
    clock,
    daemon::{detach, reexec, supervisor, up},
    keeper::{
        self,
        role::{self, Priority},
        setup,
    },
    kernel::{place::scope, signals},
    logger,
};
use tracing_subscriber::fmt::MakeWriter;

fn main() -> ExitCode {
    let role = std::env::args_os().nth(1);
    match role.as_deref().and_then(|role| role.to_str()) {
        Some(setup::ROLE) => keeper::main::main(),
        Some(role::LOGGER) => logger::main::main(),
        Some(role::SUPERVISOR) => report(supervise()),
        Some(detach::ROLE) => report(detach::child_main()),
        Some(reexec::ROLE) => reexec::child_main(&std::env::args_os().skip(2).collect::<Vec<_>>()),
        Some(scope::ROLE) => scope::child_main(&std::env::args().skip(2).collect::<Vec<_>>()),
        _ => {
            completion::answer();
            let cli = Cli::parse();
            report(client(&cli))
        }
    }
}

fn report(ended: Result<Exit, Failure>) -> ExitCode {
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let mut sentence = failure.sentence() + "\n";
            if role::is_journal() {
                sentence = String::from_utf8_lossy(&role::prefixed(Priority::Error, sentence.as_bytes())).into_owned();
            }
            // There is nowhere to report that stderr is gone.
            anstream::stderr().write_all(sentence.as_bytes()).ok();
            failure.exit().into()
        }
    }
}

fn supervise() -> Result<Exit, Failure> {
    let socket = role::begin(c"pinfold-superv")
        .map_err(|e| Failure::failed("this word is for the keeper to say, not for a person", e))?;
    log_to_stderr();
    signals::never_wait_for_the_foreground().map_err(|e| Failure::failed("cannot block signals", e))?;
    // The role's word stands where a program's name would.
    let settings = supervisor::Settings::try_parse_from(std::env::args_os().skip(1))
        .map_err(|e| Failure::failed("the keeper's words are not understood", e))?;
    supervisor::main(&settings, socket)
}

/// What the supervisor has to say about itself, as `PINFOLD_LOG` asks (tracing's filter syntax; `warn` unless set).
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PINFOLD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    if role::is_journal() {
        log.with_ansi(false).without_time().with_level(false).with_writer(Journal).init();
    } else {
        let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
        log.with_ansi(ansi).with_writer(|| Stderr).init();
    }
}

/// Stderr that is the journal's: each line has the level of what is said.
struct Journal;

impl MakeWriter<'_> for Journal {
    type Writer = JournalLine;

    fn make_writer(&self) -> JournalLine {
        JournalLine(Priority::Info)
    }

    fn make_writer_for(&self, meta: &tracing::Metadata<'_>) -> JournalLine {
        JournalLine(match *meta.level() {
            tracing::Level::ERROR => Priority::Error,
            tracing::Level::WARN => Priority::Warning,
            tracing::Level::INFO => Priority::Info,
            _ => Priority::Debug,
        })
    }
}

struct JournalLine(Priority);

impl io::Write for JournalLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        role::offer(&role::prefixed(self.0, &role::one_line(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Stderr that drops what it would have to wait for: a terminal that was stopped must not stop supervision.
struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        role::offer(&role::one_line(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints, once and at the end.
fn print(text: &str) -> Result<(), Failure> {
    // What has no colours is not searched for them letter by letter.
    let coloured = text.contains('\u{1b}');
    let mut stdout: Box<dyn io::Write> = if coloured { Box::new(anstream::stdout()) } else { Box::new(io::stdout()) };
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever reads has read enough, as head(1) does.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::failed("cannot print", e)),
        _ => Ok(()),
    }
}

fn say(said: &Said) -> Result<Exit, Failure> {
    print(&said.out)?;
    // There is nowhere to report that stderr is gone.
    anstream::stderr().write_all(said.err.as_bytes()).ok();
    Ok(said.exit)
}

/// Columns of the terminal, where stdout is one that says how many it has.
fn width() -> Option<u16> {
    rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col).filter(|w| *w > 0)
}

/// Where a table can stand in the place of the one before.
fn screen() -> Screen {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    size.map(|size| size.ws_row).filter(|rows| *rows > 0).map_or(Screen::None, Screen::Lines)
}

/// Whoever reads our stdout.
fn reader() -> Reader {
    let colour = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    Reader { width: width(), colour, zone: Zone::system(), now: clock::wall() }
}

fn client(cli: &Cli) -> Result<Exit, Failure> {
    let globals = cli.globals();
    let cwd = std::env::current_dir().map_err(|err| Failure::failed("cannot find the current directory", err))?;
    let root = rustix::process::geteuid().is_root();
    let who = Who { root, cwd: &cwd, var: &|name| std::env::var_os(name) };
    let to_supervisor = || Client::new(&globals, &who);
    match &cli.command {
        Command::Up(args) if args.detach => say(&detach::up(args, &globals, &to_supervisor()?)?),
        Command::Up(args) => match up::up(args, &globals, None) {
            Err(failure) => Err(failure),
            Ok(never) => match never {},
        },
        Command::Down(args) => say(&down::down(args, &to_supervisor()?)?),
        Command::Run(args) => run::run(args, paths::cgroup_root(&globals, &who).as_deref()),
        Command::Validate(args) => {
            let source = paths::config(&globals, &args.files, &who).map_err(|err| Failure::Usage(err.to_string()))?;
            let files = source.files().map_err(|err| Failure::Usage(chain(&err)))?;
            let answer = validate::validate(&files, root, &|name| std::env::var(name).ok(), args.output.output);
            print(&answer.out)?;
            // There is nowhere to report that stderr is gone.
            anstream::stderr().write_all(answer.err.as_bytes()).ok();
            Ok(answer.exit)
        }
        Command::Ps(args) if args.watch => {
            watch::ps(args, &to_supervisor()?, &reader(), screen(), &mut anstream::stdout())
        }
        Command::Ps(args) => say(&look::ps(args, &to_supervisor()?, &reader())?),
        Command::Stats(args) => stats::stats(args, &to_supervisor()?, &reader(), screen(), &mut anstream::stdout()),
        Command::Top(args) => {
            let Reader { colour, zone, .. } = reader();
            top::top(args, to_supervisor()?, zone, colour)
        }
        Command::Status(args) => say(&look::status(args, &to_supervisor()?, &reader())?),
        Command::Inspect(args) => say(&look::inspect(args, &to_supervisor()?, &reader())?),
        Command::Count(args) => say(&look::count(args, &to_supervisor()?)?),
        Command::History(args) => say(&look::history(args, &to_supervisor()?, &reader())?),
        Command::Events(args) => {
            let (mut out, mut err) = (anstream::stdout(), anstream::stderr());
            events::events(args, &to_supervisor()?, &reader(), &mut out, &mut err)
        }
        Command::Why(args) => say(&look::why(args, &to_supervisor()?, &reader())?),
        Command::Logs(args) => {
            let state = paths::resolve(&globals, &[], &who).ok().map(|paths| paths.state);
            let sgr = if reader().colour { Sgr::Keep } else { Sgr::Drop };
            let terminal = io::IsTerminal::is_terminal(&io::stdout()).then_some(sgr);
            logs::logs(
                args,
                &to_supervisor()?,
                state.as_deref(),
                terminal,
                &mut io::stdout().lock(),
                &mut anstream::stderr(),
            )
        }
        Command::Start(args) => say(&ask(&Verb::Start, &args.whom, args.output, &to_supervisor()?)?),
        Command::Stop(args) => say(&ask(&Verb::Stop, &args.whom, args.output, &to_supervisor()?)?),
        Command::Restart(args) => {
            say(&ask(&Verb::Restart { force: args.force }, &args.whom, args.output, &to_supervisor()?)?)
        }
        Command::Kill(args) => say(&ask(&Verb::Kill, &args.whom, args.output, &to_supervisor()?)?),
        Command::Signal(args) => {
            say(&ask(&Verb::Signal(args.signal.clone()), &args.whom, args.output, &to_supervisor()?)?)
        }
        Command::Reset(args) => say(&ask(&Verb::Reset, &args.whom, args.output, &to_supervisor()?)?),
        Command::Freeze(args) => say(&ask(&Verb::Freeze, &args.whom, args.output, &to_supervisor()?)?),
        Command::Thaw(args) => say(&ask(&Verb::Thaw, &args.whom, args.output, &to_supervisor()?)?),
        Command::Plan(args) => say(&govern::plan(args, &to_supervisor()?)?),
        Command::Reload(args) => say(&govern::reload(args, &to_supervisor()?)?),
        Command::Scale(args) => say(&govern::scale(args, &to_supervisor()?)?),
        Command::Set(args) => say(&govern::set(args, &to_supervisor()?)?),
        Command::Reexec(args) => say(&cli_reexec::reexec(args, &to_supervisor()?)?),
        Command::Schema(_) => {
            print(&schema::text())?;
            Ok(Exit::Ok)
        }
        Command::Completion(args) => {
            print(&completion::text(args)?)?;
            Ok(Exit::Ok)
        }
        Command::Man(args) => {
            print(&man::man(args)?)?;
            Ok(Exit::Ok)
        }
        Command::Version(args) => {
            print(&version::text(args.output.output))?;
            Ok(Exit::Ok)
        }
        Command::Doctor(args) => {
            let width = width();
            let place = paths::cgroup_root(&globals, &who);
            // Where none answers there is nothing to say about it.
            let running = to_supervisor().and_then(|client| client.get("/v1/health")).ok();
            let (text, exit) = doctor::doctor(place.as_deref(), running.as_ref(), args.output.output, width)?;
            print(&text)?;
            Ok(exit)
        }
    }
}
