use std::{
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::time::sleep;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring},
};

use super::*;
use crate::history::{Dropped, History, Scribe, SinkState, record::tests::event};
use crate::model::{Event, chain};
use crate::testing::{Mood, SearchServer};

fn settings() -> Settings {
    let endpoint = Endpoint { tls: false, host: "search.example".into(), port: 9200, path: String::new() };
    Settings {
        endpoint,
        index: "pinfold".into(),
        credentials: None,
        ca_file: None,
        timeout: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(5),
    }
}

/// A server in this process, without a network, so that time can be paused.
#[derive(Clone, Default)]
struct Net {
    server: SearchServer,
    down: Arc<AtomicBool>,
    tls: Option<Arc<ServerConfig>>,
    connections: Arc<AtomicUsize>,
}

impl Net {
    fn sink(&self, settings: Settings) -> OpenSearchSink {
        let net = self.clone();
        let dial = move |_: &Endpoint| -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
            let net = net.clone();
            Box::pin(async move {
                if net.down.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                net.connections.fetch_add(1, Ordering::Relaxed);
                let (ours, theirs) = tokio::io::duplex(64 << 10);
                tokio::spawn(async move {
                    match net.tls {
                        None => net.server.serve(theirs).await,
                        // Whom we do not believe we hang up on.
                        Some(tls) => {
                            if let Ok(stream) = TlsAcceptor::from(tls).accept(theirs).await {
                                net.server.serve(stream).await;
                            }
                        }
                    }
                });
                Ok(Box::new(ours) as Box<dyn Stream>)
            })
        };
        OpenSearchSink::reached_by(Box::new(dial), settings)
    }

    fn history(&self) -> History {
        History::start(vec![Box::new(self.sink(settings()))])
    }

    /// The numbers of the events it has.
    fn seqs(&self) -> Vec<u64> {
        self.server.documents().iter().map(|(_, document)| document["seq"].as_u64().unwrap()).collect()
    }

    fn asked(&self) -> usize {
        self.server.requests().len()
    }
}

fn records(n: u64) -> Vec<Arc<Record>> {
    let mut scribe = Scribe::new("e");
    (1..=n).map(|seq| scribe.write(event(seq, "x"))).collect()
}

fn all(n: u64) -> Vec<u64> {
    (1..=n).collect()
}

/// One write, as its error or the indices of what is to come again and what is refused.
async fn write(sink: &mut OpenSearchSink, batch: &[Arc<Record>]) -> Result<(Vec<usize>, Vec<usize>), String> {
    match sink.write(batch).await {
        Ok(Written::All) => Ok((Vec::new(), Vec::new())),
        Ok(Written::Part { again, rejected, .. }) => Ok((again, rejected)),
        Err(error) => Err(chain(&error)),
    }
}

const WHOLE: Result<(Vec<usize>, Vec<usize>), String> = Ok((Vec::new(), Vec::new()));

#[tokio::test(start_paused = true)]
async fn events_become_documents_whose_ids_are_their_own() {
    let net = Net::default();
    let mut sink = net.sink(settings());
    assert_eq!(write(&mut sink, &records(2)).await, WHOLE);
    let documents = net.server.documents();
    assert_eq!(documents[0].0, "e.1");
    let expected = json!({
        "v": 1, "epoch": 1, "seq": 1, "time": "2026-11-20T12:00:01.000000Z", "@timestamp": "2026-11-20T12:00:01.000000Z",
        "mono_ns": 1_000_000_000, "kind": "supervisor", "supervisor": {"what": "x"},
    });
    assert_eq!(documents[0].1, expected);
    assert!(net.server.requests()[0].path.starts_with("/pinfold/_bulk?filter_path="));
    assert_eq!(write(&mut sink, &records(2)).await, WHOLE, "what is there already is delivered");
    assert_eq!(net.seqs(), [1, 2]);
    assert_eq!(net.connections.load(Ordering::Relaxed), 1, "the connection is kept");
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_event_fits_into_one_index() {
    let net = Net::default();
    let mut scribe = Scribe::new("e");
    let kinds = (1..).zip(crate::cli::render::every_kind());
    let batch: Vec<_> = kinds.map(|(seq, event)| scribe.write(Event { seq, ..event })).collect();
    assert_eq!(write(&mut net.sink(settings()), &batch).await, WHOLE);
    assert_eq!(net.seqs().len(), batch.len());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_for_an_hour_has_everything_afterwards() {
    let net = Net::default();
    net.down.store(true, Ordering::Relaxed);
    let history = net.history();
    for record in records(360) {
        history.tell(&record);
        sleep(Duration::from_secs(10)).await;
    }
    let down = history.health().remove(0);
    assert_eq!((down.state, down.queued), (SinkState::Failing, 360));
    assert_eq!(down.last_error.as_deref(), Some("cannot connect to http://search.example:9200: connection refused"));
    net.down.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(net.seqs(), all(360));
    assert_eq!(history.health()[0].dropped, Dropped::default());
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_left_alone_for_as_long_as_it_says_and_loses_nothing() {
    let net = Net::default();
    net.server.next([Mood::Status(429, Some("120")), Mood::Status(503, None), Mood::Status(502, None)]);
    let history = net.history();
    for record in records(3) {
        history.tell(&record);
    }
    sleep(Duration::from_secs(100)).await;
    assert_eq!(net.asked(), 1, "it has asked for two minutes");
    sleep(Duration::from_secs(60)).await;
    assert_eq!((net.asked(), net.seqs()), (4, all(3)));
}

#[tokio::test(start_paused = true)]
async fn a_half_answer_and_silence_are_tried_again_and_nothing_is_there_twice() {
    let net = Net::default();
    net.server.next([Mood::Half, Mood::Silent, Mood::Says("{\"items\": []}"), Mood::Says("<html>")]);
    let mut sink = net.sink(settings());
    let batch = records(3);
    let broke = write(&mut sink, &batch).await.unwrap_err();
    assert!(broke.starts_with("http://search.example:9200 broke off: "), "{broke}");
    assert_eq!(net.seqs(), all(3), "it had taken them");
    let silent = write(&mut sink, &batch).await.unwrap_err();
    assert_eq!(silent, "http://search.example:9200 has not answered within 30s");
    let other = write(&mut sink, &batch).await.unwrap_err();
    assert_eq!(other, "the answer to a bulk request is about 0 events, not 3");
    assert!(write(&mut sink, &batch).await.unwrap_err().starts_with("the answer to a bulk request is not understood"));
    assert_eq!(write(&mut sink, &batch).await, WHOLE);
    assert_eq!(net.seqs(), all(3));
}

#[tokio::test(start_paused = true)]
async fn of_an_answer_about_each_event_only_what_failed_for_a_passing_reason_comes_again() {
    let net = Net::default();
    net.server.next([Mood::Items(vec![429, 201, 400, 503, 404])]);
    let mut sink = net.sink(settings());
    assert_eq!(write(&mut sink, &records(6)).await, Ok((vec![0, 3, 4], vec![2])));
    assert_eq!(net.seqs(), [2, 6]);
    let history = net.history();
    net.server.next([Mood::Items(vec![429, 201, 400])]);
    for record in records(9).split_off(6) {
        history.tell(&record);
    }
    sleep(Duration::from_secs(60)).await;
    let after = history.health().remove(0);
    assert_eq!((after.delivered, after.dropped.rejected, after.queued), (2, 1, 0));
    assert_eq!(after.last_error.as_deref(), Some("status 429: scripted: as asked"));
    assert_eq!(net.seqs(), [2, 6, 8, 7]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_too_large_is_halved_until_it_is_taken() {
    let net = Net::default();
    net.server.usually(Mood::Small(3));
    let mut sink = net.sink(settings());
    assert_eq!(write(&mut sink, &records(20)).await, WHOLE);
    assert_eq!(net.seqs(), all(20));
    net.server.usually(Mood::Small(0));
    assert_eq!(write(&mut sink, &records(2)).await, Ok((vec![], vec![0, 1])), "one alone that is too large");
    net.server.usually(Mood::Well);
    for _ in 0..40 {
        assert_eq!(write(&mut sink, &records(20)).await, WHOLE);
    }
    assert_eq!(net.server.requests().last().unwrap().ids.len(), 20, "it comes back to whole batches");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_closed_while_it_idled_is_no_failure() {
    let net = Net::default();
    let mut sink = net.sink(settings());
    assert_eq!(write(&mut sink, &records(1)).await, WHOLE);
    // Broken off with the connection itself.
    net.server.next([Mood::Half]);
    assert_eq!(write(&mut sink, &records(2)).await, WHOLE);
    assert_eq!((net.seqs(), net.connections.load(Ordering::Relaxed)), (all(2), 2));
}

struct Secrets {
    dir: tempfile::TempDir,
}

impl Secrets {
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
}

#[tokio::test]
async fn secrets_are_read_when_they_are_used_and_are_in_no_message() {
    let net = Net::default();
    let secrets = Secrets { dir: tempfile::tempdir().unwrap() };
    let password_file = secrets.file("password", "hunter2\n");
    let credentials = Credentials::Basic { username: "pinfold".into(), password_file: password_file.clone() };
    let mut sink = net.sink(Settings { credentials: Some(credentials), ..settings() });
    assert_eq!(write(&mut sink, &records(1)).await, WHOLE);
    secrets.file("password", "changed");
    assert_eq!(write(&mut sink, &records(1)).await, WHOLE);
    let key = Credentials::ApiKey { file: secrets.file("key", "a2V5\n") };
    assert_eq!(write(&mut net.sink(Settings { credentials: Some(key), ..settings() }), &records(1)).await, WHOLE);
    let told: Vec<_> = net.server.requests().into_iter().map(|asked| asked.authorization.unwrap()).collect();
    // base64 of pinfold:hunter2 and pinfold:changed.
    assert_eq!(told, ["Basic cGluZm9sZDpodW50ZXIy", "Basic cGluZm9sZDpjaGFuZ2Vk", "ApiKey a2V5"]);

    assert!(!format!("{sink:?}").contains("hunter2"));
    net.server.next([Mood::Status(401, None)]);
    let refused = write(&mut sink, &records(1)).await.unwrap_err();
    assert_eq!(refused, "http://search.example:9200 says 401 Unauthorized");
    secrets.file("password", "hunter2\u{1}");
    assert!(write(&mut sink, &records(1)).await.is_ok(), "base64 carries any byte");
    let odd = Credentials::ApiKey { file: secrets.file("odd", "hunter2\nhunter3\n") };
    let error = write(&mut net.sink(Settings { credentials: Some(odd), ..settings() }), &records(1)).await.unwrap_err();
    assert!(!error.contains("hunter"), "{error}");
    std::fs::remove_file(&password_file).unwrap();
    let error = write(&mut sink, &records(1)).await.unwrap_err();
    assert_eq!(error, format!("cannot read {}: No such file or directory", password_file.display()));
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

/// A server whose certificate is `NAME.cert.der`.
fn certified(name: &str) -> Net {
    let read = |part: &str| std::fs::read(fixture(&format!("{name}.{part}.der"))).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![read("cert").into()], read("key").try_into().unwrap())
        .unwrap();
    Net { tls: Some(Arc::new(config)), ..Net::default() }
}

fn secure(host: &str, ca_file: Option<PathBuf>) -> Settings {
    Settings { endpoint: Endpoint { tls: true, host: host.into(), ..settings().endpoint }, ca_file, ..settings() }
}

#[tokio::test]
async fn only_a_server_with_a_certificate_of_who_is_believed_is_told_anything() {
    let authority = Some(fixture("authority.pem"));
    let net = certified("search");
    assert_eq!(write(&mut net.sink(secure("search.example", authority.clone())), &records(2)).await, WHOLE);
    assert_eq!(net.seqs(), [1, 2]);
    for (net, settings, why) in [
        (certified("search"), secure("other.example", authority.clone()), "not valid for name"),
        (certified("expired"), secure("search.example", authority.clone()), "invalid peer certificate"),
        (certified("search"), secure("search.example", None), "UnknownIssuer"),
    ] {
        let error = write(&mut net.sink(settings), &records(2)).await.unwrap_err();
        assert!(error.starts_with("cannot connect to https://") && error.contains(why), "{error}");
        assert_eq!(net.asked(), 0);
    }
}

#[tokio::test]
async fn where_nobody_could_be_believed_nobody_is_asked() {
    let secrets = Secrets { dir: tempfile::tempdir().unwrap() };
    let none = secrets.file("none.pem", "no certificate\n");
    let net = Net::default();
    let error = write(&mut net.sink(secure("search.example", Some(none.clone()))), &records(1)).await.unwrap_err();
    assert_eq!(error, format!("{} has no certificate (PEM) in it", none.display()));
    let error = write(&mut net.sink(secure("search.example", Some("/none".into()))), &records(1)).await.unwrap_err();
    assert!(error.starts_with("cannot read certificates from /none"), "{error}");
    assert_eq!(net.connections.load(Ordering::Relaxed), 0);
}

#[test]
fn when_to_come_back_is_seconds_or_a_date() {
    let now = "2026-11-20T12:00:00Z".parse().unwrap();
    let after = |text: &'static str| {
        retry_after(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]), now).map(|d| d.as_secs())
    };
    assert_eq!(after("30"), Some(30));
    assert_eq!(after("Fri, 20 Nov 2026 12:01:40 GMT"), Some(100));
    assert_eq!(after("Fri, 20 Nov 2026 11:00:00 GMT"), Some(0));
    assert_eq!(after("soon"), None);
}
