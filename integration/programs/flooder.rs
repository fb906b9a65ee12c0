//! Clients that are no help, many at once and of one user: `flooder WHAT SOCKET N`. One thread each; all of them go on until stdin
//! ends. `ready` is told once each of them has had its first turn, and at the end how often what came of it: `WORD N`, a line each.
//!
//! It knows nothing of the product but its socket, and is started as whoever the flood is to be of.
#![expect(
    clippy::disallowed_methods,
    reason = "it knows nothing of the product, whose clock is that of everybody else"
)]

use std::{
    collections::{BTreeMap, VecDeque},
    env, fs,
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

const USAGE: &str = "usage: flooder WHAT SOCKET N [PATH]
  ask      a GET of PATH after the other on a connection that is kept
  idle     N connections that say nothing; whenever there are so many, the oldest one makes room for a new one
  head     a head that goes on for ever, a line at a time
  body     a body that goes on for ever, a kilobyte at a time
  bulk     bodies of a megabyte, as fast as they are taken
  huge     heads of a megabyte
  half     a GET of PATH, and nothing more is said (shutdown(2)) before the answer
  leave    a GET of PATH, and away before the answer
       flooder serve SOCKET MICROSECONDS
           answers whatever is asked there, each in so long a time: a door that is nobody's";

/// The longest that anything is waited for: a flood ends when it is told to.
const PATIENCE: Duration = Duration::from_secs(15);

/// Between two drops of what dribbles.
const DRIP: Duration = Duration::from_millis(100);

/// What came of it, and how often.
type Told = BTreeMap<String, u64>;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (what, socket, n, path) = match *args {
        ["serve", socket, micros] => {
            let Ok(micros) = micros.parse() else { return usage() };
            return match serve(Path::new(socket), micros) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("flooder serve {socket}: {error}");
                    ExitCode::FAILURE
                }
            };
        }
        [what, socket, n] => (what, socket, n, "/v1/health"),
        [what, socket, n, path] => (what, socket, n, path),
        _ => return usage(),
    };
    let (Ok(n), Some(turn)) = (n.parse::<usize>(), turn(what)) else { return usage() };
    let over = Arc::new(AtomicBool::new(false));
    // Many idle at once by one hand: what they cost is no thread of ours.
    let hands = if what == "idle" { 1 } else { n };
    let begun = Arc::new(Barrier::new(hands + 1));
    let hands: Vec<_> = (0..hands)
        .map(|_| {
            let mut client =
                Client { socket: socket.into(), path: path.to_owned(), n, stream: None, held: VecDeque::new() };
            let (over, begun) = (Arc::clone(&over), Arc::clone(&begun));
            thread::spawn(move || {
                let mut told = Told::new();
                let mut first = true;
                while first || !over.load(Ordering::Relaxed) {
                    let word = turn(&mut client).unwrap_or_else(|error| {
                        client.stream = None;
                        format!("{:?}", error.kind())
                    });
                    *told.entry(word).or_default() += 1;
                    if std::mem::take(&mut first) {
                        begun.wait();
                    }
                }
                client.tell_held(&mut told);
                told
            })
        })
        .collect();
    begun.wait();
    println!("ready");
    // Until it ends: nothing is said there.
    io::stdin().read_to_end(&mut Vec::new()).ok();
    over.store(true, Ordering::Relaxed);
    let mut all = Told::new();
    for hand in hands {
        let Ok(told) = hand.join() else { return ExitCode::FAILURE };
        for (word, n) in told {
            *all.entry(word).or_default() += n;
        }
    }
    for (word, n) in all {
        println!("{word} {n}");
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// Answers whoever comes, all of them on one thread, which works so many microseconds for each answer, until stdin ends.
fn serve(socket: &Path, micros: u64) -> io::Result<()> {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let listener = UnixListener::bind(socket)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666))?;
    println!("ready");
    thread::spawn(move || {
        io::stdin().read_to_end(&mut Vec::new()).ok();
        std::process::exit(0);
    });
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::from_std(listener)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                // One request is one read here: nobody sends the next one before the answer.
                while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {
                    let began = Instant::now();
                    while began.elapsed() < Duration::from_micros(micros) {
                        std::hint::spin_loop();
                    }
                    if stream.write_all(ANSWER).await.is_err() {
                        return;
                    }
                }
            });
        }
    })
}

type Turn = fn(&mut Client) -> io::Result<String>;

fn turn(what: &str) -> Option<Turn> {
    Some(match what {
        "ask" => Client::ask,
        "idle" => Client::idle,
        "head" => |client| client.dribble("GET /v1/health HTTP/1.1\r\nhost: x\r\n", "x: y\r\n"),
        "body" => |client| {
            let head = "POST /v1/workers/nobody/stop HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{";
            client.dribble(head, &" ".repeat(1024))
        },
        "bulk" => Client::bulk,
        "huge" => Client::huge,
        "half" => Client::half,
        "leave" => Client::leave,
        _ => return None,
    })
}

struct Client {
    socket: PathBuf,
    path: String,
    n: usize,
    /// A connection that is kept from one turn to the next.
    stream: Option<UnixStream>,
    held: VecDeque<UnixStream>,
}

impl Client {
    fn connect(&self) -> io::Result<UnixStream> {
        connect(&self.socket)
    }

    fn get(&self) -> String {
        format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", self.path)
    }

    fn ask(&mut self) -> io::Result<String> {
        let request = self.get();
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        stream.write_all(request.as_bytes())?;
        let (status, closes) = answer(&mut stream)?;
        self.stream = (!closes).then_some(stream);
        Ok(status)
    }

    /// As many as are to be held: this is one turn at the first time, and one more connection at each other.
    fn idle(&mut self) -> io::Result<String> {
        while self.held.len() < self.n {
            let stream = self.connect()?;
            self.held.push_back(stream);
        }
        self.held.pop_front();
        let stream = self.connect()?;
        self.held.push_back(stream);
        Ok("more".to_owned())
    }

    /// How many of the idle are not closed at the other end.
    fn tell_held(&self, told: &mut Told) {
        let open = |stream: &&UnixStream| {
            let mut stream: &UnixStream = stream;
            let looked = stream.set_nonblocking(true).and_then(|()| stream.read(&mut [0]));
            looked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
        };
        let held = self.held.iter().filter(open).count();
        if !self.held.is_empty() {
            told.insert("held".to_owned(), held as u64);
        }
    }

    fn dribble(&mut self, begin: &str, more: &str) -> io::Result<String> {
        let (mut stream, bytes) = match self.stream.take() {
            Some(stream) => (stream, more),
            None => (self.connect()?, begin),
        };
        stream.write_all(bytes.as_bytes())?;
        // An answer, or an end, is the server's word that it has heard enough.
        stream.set_read_timeout(Some(DRIP))?;
        match answer(&mut stream) {
            Ok((status, _)) => Ok(status),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                self.stream = Some(stream);
                Ok("drops".to_owned())
            }
            Err(error) => Err(error),
        }
    }

    fn bulk(&mut self) -> io::Result<String> {
        const LENGTH: usize = 1 << 20;
        let mut stream = self.connect()?;
        write!(stream, "POST /v1/workers/nobody/stop HTTP/1.1\r\nhost: x\r\ncontent-length: {LENGTH}\r\n\r\n{{")?;
        // It may have been answered before it is said.
        let written = stream.write_all(&vec![b' '; LENGTH - 2]).and_then(|()| stream.write_all(b"}"));
        said(answer(&mut stream), written)
    }

    fn huge(&mut self) -> io::Result<String> {
        let mut stream = self.connect()?;
        let head = format!("GET /v1/health HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
        let written = stream.write_all(head.as_bytes());
        said(answer(&mut stream), written)
    }

    fn half(&mut self) -> io::Result<String> {
        let mut stream = self.connect()?;
        stream.write_all(self.get().as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        Ok(answer(&mut stream)?.0)
    }

    fn leave(&mut self) -> io::Result<String> {
        let mut stream = self.connect()?;
        stream.write_all(self.get().as_bytes())?;
        Ok("left".to_owned())
    }
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// What was answered counts for more than what could not be said.
fn said(answered: io::Result<(String, bool)>, written: io::Result<()>) -> io::Result<String> {
    match (answered, written) {
        (Ok((status, _)), _) => Ok(status),
        (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
    }
}

/// The status of an answer, of which nothing is left unread, and whether it is the connection's last.
fn answer(stream: &mut UnixStream) -> io::Result<(String, bool)> {
    let mut text = Vec::with_capacity(4096);
    let mut more = |text: &mut Vec<u8>| -> io::Result<()> {
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            n => {
                text.extend_from_slice(&bytes[..n]);
                Ok(())
            }
        }
    };
    let head = loop {
        if let Some(end) = text.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        more(&mut text)?;
    };
    let lines = String::from_utf8_lossy(&text[..head]).to_ascii_lowercase();
    let field = |name: &str| lines.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length: usize = field("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
    while text.len() < head + length {
        more(&mut text)?;
    }
    let status = lines.split(' ').nth(1).unwrap_or_default().to_owned();
    Ok((status, field("connection:") == Some("close")))
}
