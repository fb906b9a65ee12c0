//! `top`: workers and what they use on a screen, with keys.
//!
//! ```text
//!  model   what is known and what is chosen ── update  what a message changes (pure) ── view  the screen (pure)
//!  source  the supervisor, asked every second and for what a key orders: a thread of its own
//! ```
//!
//! Three threads send messages (keys, signals, the source) and this one takes them, so that a supervisor that does not answer
//! holds up no key. Nothing is drawn while nothing comes. The terminal is put back at the end, however that comes: ratatui's
//! panic hook does it, too.

mod model;
mod source;
mod update;
mod view;

use std::{
    io::{self, IsTerminal},
    sync::mpsc::{self, Sender},
    thread,
};

use ratatui::crossterm::event::{self, Event as Typed, KeyEventKind};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::args::Top;
use super::client::Client;
use super::exit::{Exit, Failure};
use super::render::Zone;
use model::{Model, Size};
use update::{Effect, Message, update};

/// `pinfold top`, until somebody has seen enough.
///
/// # Errors
/// [`Failure`]: it is no terminal, or there is no supervisor when it begins.
pub fn top(args: &Top, client: Client, zone: Zone, colour: bool) -> Result<Exit, Failure> {
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        let why = "top needs a terminal; `pinfold stats` prints the same for a pipe or a file";
        return Err(Failure::Usage(why.to_owned()));
    }
    let pattern = args.pattern.clone().unwrap_or_default();
    // Before the screen is taken: who has mistyped is told where he typed.
    let mut source = source::Source::new(client, &pattern, zone);
    let first = source.look()?;
    let (send, messages) = mpsc::channel();
    let (orders, ordered) = mpsc::channel();
    let failed = |e| Failure::failed("cannot watch", e);
    // Before the screen is taken, so that there is no moment at which it is not given back.
    let ends = Ends::listen().map_err(failed)?;
    on_a_thread("top-signals", send.clone(), |send| ends.tell(send)).map_err(failed)?;
    let mut terminal = ratatui::try_init().map_err(|e| Failure::failed("cannot use the terminal", e))?;
    let began = on_a_thread("top-keys", send.clone(), keys)
        .and_then(|()| on_a_thread("top-source", send, move |send| source.serve(&ordered, send)));
    let shown = began.and_then(|()| {
        let size = terminal.size()?;
        let mut model = Model::new(Size { width: size.width, height: size.height }, colour);
        update(&mut model, Message::Looked(first));
        loop {
            terminal.draw(|frame| view::view(&model, frame))?;
            // Somebody always sends: this loop holds the other end of the orders, without which the source ends.
            let Ok(message) = messages.recv() else { return Ok(()) };
            // What has come meanwhile is drawn once.
            for message in std::iter::once(message).chain(messages.try_iter()) {
                match update(&mut model, message) {
                    Some(Effect::Quit) => return Ok(()),
                    // A source that has ended was told so by its last message.
                    Some(Effect::Order(order)) => drop(orders.send(order)),
                    None => {}
                }
            }
        }
    });
    ratatui::restore();
    shown.map(|()| Exit::Ok).map_err(|e: io::Error| Failure::failed("cannot use the terminal", e))
}

fn on_a_thread(
    name: &str,
    send: Sender<Message>,
    work: impl FnOnce(&Sender<Message>) + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(move || work(&send)).map(drop)
}

/// What is typed, until there is no terminal any more.
fn keys(send: &Sender<Message>) {
    loop {
        let message = match event::read() {
            Ok(Typed::Key(key)) if key.kind != KeyEventKind::Release => Message::Key(key),
            Ok(Typed::Resize(width, height)) => Message::Resized(Size { width, height }),
            Ok(_) => continue,
            Err(_) => Message::End,
        };
        let over = matches!(message, Message::End);
        if send.send(message).is_err() || over {
            return;
        }
    }
}

/// The signals that would end us: each is a wish to see the terminal put back.
struct Ends {
    runtime: Runtime,
    signals: [Signal; 3],
}

impl Ends {
    /// From now on they are heard.
    fn listen() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let signals = {
            let _inside = runtime.enter();
            [signal(SignalKind::terminate())?, signal(SignalKind::hangup())?, signal(SignalKind::interrupt())?]
        };
        Ok(Self { runtime, signals })
    }

    fn tell(self, send: &Sender<Message>) {
        let [mut term, mut hangup, mut interrupt] = self.signals;
        self.runtime.block_on(async {
            tokio::select! {
                _ = term.recv() => {}
                _ = hangup.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        // Where nobody takes it the end has come already.
        send.send(Message::End).unwrap_or_default();
    }
}
