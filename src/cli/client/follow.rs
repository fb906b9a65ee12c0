//! Lines that go on over supervisors: where one ends, or is killed, whoever follows it is asked for the rest.

use std::time::Duration;

use http_body_util::BodyExt;
use tokio::net::UnixStream;

use super::{Client, LOOKS, Lines, PATIENCE, lines_of, runtime, until_interrupted};
use crate::cli::exit::Failure;
use crate::clock;
use crate::model::Mono;

/// Whoever reads such lines.
pub trait Reads {
    /// Whether an interrupt (SIGINT) is an end like another, which is answered with 0. Where not it is as for cat(1): the signal ends
    /// the process, and a shell begins a new line.
    const HEEDS_INTERRUPT: bool;

    /// What is asked for at first.
    fn first(&self) -> String;

    /// What is asked for to go on behind what has been taken, of the same supervisor or of another. `None`: that cannot be said.
    fn rest(&self, of: Whose) -> Option<String>;

    /// The next line, without its end.
    ///
    /// # Errors
    /// [`Failure`], which ends it.
    fn take(&mut self, line: &[u8]) -> Result<Took, Failure>;

    /// No line is there for now. The answer is that to the last one.
    ///
    /// # Errors
    /// [`Failure`], which ends it.
    fn pause(&mut self) -> Result<Took, Failure> {
        Ok(Took::More)
    }
}

/// Which supervisor answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The one that broke off.
    TheSame,
    /// One that follows it.
    Another,
}

/// What a line was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Took {
    /// One of many.
    More,
    /// The last that is wanted.
    Enough,
    /// The word that the supervisor ends.
    TheEnd,
}

/// How it was over.
#[derive(Debug)]
pub enum Over {
    /// All was told, or enough, or somebody interrupted (SIGINT).
    Told,
    /// The supervisor has ended, and none follows it.
    Ended,
    /// The same without a word.
    Lost(Failure),
}

/// A conversation that lasted so long was none in vain, also where nothing was said.
const LIVED: Duration = Duration::from_secs(1);

/// How one conversation ended.
enum Part {
    Over,
    TheEnd,
    Broke(Failure),
}

impl Client {
    /// Reads lines until there are no more, of one supervisor after the other.
    ///
    /// # Errors
    /// [`Failure`]: the reader's own, a supervisor's, or that there is none at first, or none where one is to follow.
    pub fn follow<R: Reads>(&self, media_type: &str, reads: &mut R) -> Result<Over, Failure> {
        let all = self.one_after_the_other(media_type, reads);
        if R::HEEDS_INTERRUPT { until_interrupted(all, Over::Told) } else { runtime()?.block_on(all) }
    }

    async fn one_after_the_other(&self, media_type: &str, reads: &mut impl Reads) -> Result<Over, Failure> {
        let (mut stream, mut listener) = self.connect().await?;
        let mut path = reads.first();
        // Since when the same one has broken off again and again, and nothing came of it.
        let (mut in_vain, mut pause): (Option<Mono>, _) = (None, LOOKS.0);
        // How the last conversation broke off that was none in vain; `None`: with a word.
        let mut lost = None;
        loop {
            let (begun, mut took) = (clock::monotonic(), false);
            let broke = match self.part(stream, &path, media_type, reads, &mut took).await? {
                Part::Over => return Ok(Over::Told),
                Part::TheEnd => None,
                Part::Broke(failure) => Some(failure),
            };
            if took || clock::monotonic().since(begun) >= LIVED {
                (in_vain, pause) = (None, LOOKS.0);
            }
            if in_vain.is_none() {
                lost = broke;
            }
            (stream, listener, path) = loop {
                if in_vain.is_some() {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LOOKS.1);
                }
                let Ok((stream, there)) = self.find().await? else { return Ok(lost.map_or(Over::Ended, Over::Lost)) };
                // From another pid namespace nobody's number is seen: it may be another, and may be the same.
                let (whose, is_new) = match (listener, there) {
                    (Some(before), Some(now)) if before == now => (Whose::TheSame, false),
                    (Some(_), Some(_)) => (Whose::Another, true),
                    _ => (Whose::Another, false),
                };
                let now = clock::monotonic();
                match in_vain {
                    _ if is_new => (in_vain, pause) = (None, LOOKS.0),
                    None => in_vain = Some(now),
                    // It lives, and tells nothing.
                    Some(since) if now.since(since) >= self.succession => return lost.map_or(Ok(Over::Ended), Err),
                    Some(_) => {}
                }
                // One that has said that it ends takes connections until it does; that is waited for.
                if whose == Whose::Another || lost.is_some() {
                    let Some(rest) = reads.rest(whose) else { return Ok(lost.map_or(Over::Ended, Over::Lost)) };
                    break (stream, there, rest);
                }
            };
        }
    }

    /// One conversation. `took`: whether a line was taken.
    async fn part(
        &self,
        stream: UnixStream,
        path: &str,
        media_type: &str,
        reads: &mut impl Reads,
        took: &mut bool,
    ) -> Result<Part, Failure> {
        let answer = match tokio::time::timeout(PATIENCE, self.begin_over(stream, lines_of(path, media_type)?)).await {
            Err(_) => return Err(self.silent(PATIENCE)),
            Ok(Err(failure @ Failure::BrokeOff { .. })) => return Ok(Part::Broke(failure)),
            Ok(answer) => answer?,
        };
        let mut lines = Lines::default();
        let mut body = self.refused(answer).await?;
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return Ok(Part::Broke(self.gone(error))),
            };
            let Ok(data) = frame.into_data() else { continue };
            for line in lines.add(&data) {
                *took = true;
                match reads.take(line)? {
                    Took::More => {}
                    Took::Enough => return Ok(Part::Over),
                    Took::TheEnd => return Ok(Part::TheEnd),
                }
            }
            lines.taken();
            if reads.pause()? != Took::More {
                return Ok(Part::Over);
            }
        }
        Ok(Part::Over)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::{UnixListener, UnixStream},
        path::Path,
    };

    use super::super::tests::client;
    use super::*;
    use crate::api::tenure::Tenure;

    /// Takes numbers, and says behind which it goes on.
    #[derive(Default)]
    struct Numbers(Vec<String>);

    impl Reads for Numbers {
        const HEEDS_INTERRUPT: bool = true;

        fn first(&self) -> String {
            "/first".to_owned()
        }

        fn rest(&self, of: Whose) -> Option<String> {
            // All of these listeners are this very process.
            assert_eq!(of, Whose::TheSame);
            self.0.last().map(|last| format!("/behind/{last}"))
        }

        fn take(&mut self, line: &[u8]) -> Result<Took, Failure> {
            let line = String::from_utf8(line.to_vec()).unwrap();
            if line == "end" {
                return Ok(Took::TheEnd);
            }
            let took = if line == "enough" { Took::Enough } else { Took::More };
            self.0.push(line);
            Ok(took)
        }
    }

    /// Hears what is asked for, and answers with `lines`; the answer goes on until the connection is closed.
    fn serve(listener: &UnixListener, path: &str, lines: &str) -> UnixStream {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 2048];
        let read = stream.read(&mut head).unwrap();
        let head = String::from_utf8_lossy(&head[..read]).into_owned();
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{head}");
        let chunk = format!("{:x}\r\n{lines}\r\n", lines.len());
        write!(stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunk}").unwrap();
        stream
    }

    fn follow(
        socket: &Path,
        succession: Duration,
        serve: impl FnOnce(UnixListener) + Send,
    ) -> (Vec<String>, Result<Over, Failure>) {
        let listener = UnixListener::bind(socket).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| serve(listener));
            let mut numbers = Numbers::default();
            let over = client(socket).patient_for(succession).follow("x", &mut numbers);
            (numbers.0, over)
        })
    }

    #[test]
    fn where_it_breaks_off_it_goes_on_behind_the_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let (told, over) = follow(&socket, Duration::from_secs(9), |listener| {
            drop(serve(&listener, "/first", "1\n2\nhal"));
            drop(serve(&listener, "/behind/2", "ha"));
            drop(serve(&listener, "/behind/2", "3\nenough\n4\n"));
        });
        assert_eq!(told, ["1", "2", "3", "enough"]);
        assert!(matches!(over, Ok(Over::Told)));
    }

    #[test]
    fn only_what_breaks_off_again_and_again_with_nothing_told_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let (told, over) = follow(&socket, Duration::ZERO, |listener| {
            drop(serve(&listener, "/first", "1\n"));
            drop(serve(&listener, "/behind/1", "2\n"));
            drop(serve(&listener, "/behind/2", "ha"));
            // The one in vain, which is seen to be there.
            drop(listener.accept().unwrap());
        });
        assert_eq!(told, ["1", "2"]);
        assert!(matches!(over, Err(Failure::Failed { .. })), "it lives: {over:?}");
    }

    #[test]
    fn the_end_that_was_told_is_one_once_nobody_is_there_or_to_come() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let there = Tenure::begin(&socket).unwrap().unwrap();
        let (told, over) = follow(&socket, Duration::from_secs(9), |listener| {
            let stream = serve(&listener, "/first", "1\nend\n");
            // It takes connections for a while, and breaks them off.
            drop(listener.accept().unwrap());
            drop((listener, stream));
            there.end().unwrap();
        });
        assert_eq!(told, ["1"]);
        assert!(matches!(over, Ok(Over::Ended)));
    }

    #[test]
    fn one_that_is_gone_without_a_word_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let (told, over) = follow(&socket, Duration::from_secs(9), |listener| {
            let stream = serve(&listener, "/first", "1\n");
            drop((listener, stream));
        });
        assert_eq!(told, ["1"]);
        let Ok(Over::Lost(failure)) = over else { panic!("{over:?}") };
        assert!(failure.sentence().contains("it has ended, or was killed"), "{}", failure.sentence());
    }
}
