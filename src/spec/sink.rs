//! `history`: where events go beside the store. What can be written, and what it means.

#![expect(clippy::doc_markdown, reason = "the comments are shown by editors, as plain text")]

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use http::{Uri, uri::Scheme};
use schemars::{Schema, SchemaGenerator, json_schema};

use super::{
    declare::{choice, record},
    decode::{Cx, Decode, Field, Found, FromWord, Word, Wrong},
    problem::{Place, shown},
    quantity::{Size, Time},
    tree::{Node, Value},
    types::{Credentials, Endpoint, JsonlSink, OpenSearchSink, Sink},
    units::{AbsPath, Int, Text, variable},
};

/// A file that is put aside more often than it is written to is a mistake.
const MIN_FILE: u64 = 64 << 10;

record! {
    /// A file of JSON lines.
    Jsonl requires [path] {
        /// The file, whose directory is there already.
        path: AbsPath,
        /// How large it may become before it is put aside, at least 64KiB. Default 64MiB.
        max_size: Size,
        /// How many files put aside are kept: path.1 is the newest. Default 5.
        keep: Int<0, 1000>,
    }
}

record! {
    /// A server that speaks OpenSearch's bulk API.
    OpenSearch requires [url, index] {
        /// http://HOST:PORT or https://HOST:PORT, with a path where it is behind one.
        url: Url,
        /// The index or data stream; it is made with the first event where the server allows that.
        index: Index,
        /// Whom it knows us as, with password_file.
        username: Text,
        /// The file of the password, read for each request.
        password_file: AbsPath,
        /// The file of an API key (as the server encoded it), read for each request, instead of a username.
        api_key_file: AbsPath,
        /// The file of certificates (PEM) that the server's is checked against. Default: the host's.
        ca_file: AbsPath,
        /// How long a request may take. Default 30s.
        timeout: Time,
        /// How long a connection may take to come about. Default 5s.
        connect_timeout: Time,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Jsonl,
    OpenSearch,
}

choice!(TypeName => Type, "a type of sink", { "jsonl" => Type::Jsonl, "opensearch" => Type::OpenSearch, });

/// One of `history`: which keys it has depends on its type.
#[derive(Debug, Clone)]
pub(super) enum RawSink {
    Jsonl(Jsonl),
    OpenSearch(Box<OpenSearch>),
}

impl Decode for RawSink {
    fn decode(node: &Node, at: &Place, cx: &mut Cx<'_>) -> Option<Self> {
        let entries = cx.entries(node, at, &["type: jsonl"])?;
        let (types, others): (Vec<_>, Vec<_>) = entries.iter().cloned().partition(|entry| entry.key == TYPE);
        let Some(type_) = types.first() else {
            cx.report.add(at, "type is missing", "add the key type: jsonl or opensearch");
            return None;
        };
        let type_at = Place { mark: type_.value.mark, path: at.path.key(TYPE) };
        let own = Node { mark: node.mark, value: Value::Map(others) };
        match TypeName::decode(&type_.value, &type_at, cx)?.0 {
            Type::Jsonl => Jsonl::decode(&own, at, cx).map(Self::Jsonl),
            Type::OpenSearch => OpenSearch::decode(&own, at, cx).map(Box::new).map(Self::OpenSearch),
        }
    }

    fn name() -> Cow<'static, str> {
        "History_sink".into()
    }

    fn schema(schemas: &mut SchemaGenerator) -> Schema {
        let typed = |mut schema: Schema, word: &str| {
            if let Some(serde_json::Value::Object(properties)) = schema.get_mut("properties") {
                let about = "What takes the events: jsonl or opensearch.";
                let one = serde_json::json!({ "description": about, "anyOf": [{ "const": word }, variable()] });
                properties.insert(TYPE.to_owned(), one);
            }
            if let Some(serde_json::Value::Array(required)) = schema.get_mut("required") {
                required.push(TYPE.into());
            }
            schema.to_value()
        };
        let kinds = [typed(Jsonl::schema(schemas), "jsonl"), typed(OpenSearch::schema(schemas), "opensearch")];
        json_schema!({ "anyOf": kinds })
    }
}

/// The key that says which keys there are.
const TYPE: &str = "type";

/// Where a server is.
#[derive(Debug, Clone)]
pub(super) struct Url(Endpoint);

impl FromWord for Url {
    const WHAT: &'static str = "a URL";
    const LIKE: &'static str = "a URL like https://search.example:9200";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        let uri: Uri = word.text.parse().map_err(|_| Wrong::is("is not a URL"))?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(_) => return Err(Wrong::is("is neither http nor https")),
            None => return Err(Wrong::is("has no scheme").fix("write http:// or https:// before the host")),
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            let fix = "write the user as username, and the password into the file of password_file";
            return Err(Wrong::is("has a user or a password in it").fix(fix));
        }
        if uri.query().is_some() || word.text.contains('#') {
            return Err(Wrong::is("has more than a path").fix("leave out ? and # and what is behind them"));
        }
        let written = uri.host().unwrap_or_default();
        let host = written.trim_start_matches('[').trim_end_matches(']');
        let behind = uri.authority().and_then(|authority| authority.as_str().strip_prefix(written)).unwrap_or_default();
        let port = match behind.strip_prefix(':') {
            None => Some(if tls { 443 } else { 80 }),
            Some(digits) => digits.parse().ok().filter(|port| *port > 0),
        };
        let Some(port) = port.filter(|_| !host.is_empty()) else {
            return Err(Wrong::is("has no host, or a port that cannot be"));
        };
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self(Endpoint { tls, host: host.to_owned(), port, path }))
    }

    fn name() -> Cow<'static, str> {
        "Url".into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "string", "pattern": "^[hH][tT][tT][pP][sS]?://[^/?#@]+(/[^?#]*)?$" }, variable()] })
    }
}

/// The name of an index.
#[derive(Debug, Clone)]
pub(super) struct Index(String);

/// Bytes of an index's name, by the server's rules.
const MAX_INDEX: usize = 255;

impl FromWord for Index {
    const WHAT: &'static str = "the name of an index";
    const LIKE: &'static str = "a name of small letters, digits, - _ and ., like pinfold-events";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        let name = &*word.text;
        // The server allows more; none of it is needed, and some would have to be encoded in a path.
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        let begins = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.';
        if !name.chars().all(plain) || !name.starts_with(begins) || name.chars().all(|c| c == '.') {
            return Err(Wrong::is("is not the name of an index"));
        }
        if name.len() > MAX_INDEX {
            return Err(Wrong::is(format!("has {} characters", name.len())).fix(format!("write at most {MAX_INDEX}")));
        }
        Ok(Self(name.to_owned()))
    }

    fn name() -> Cow<'static, str> {
        "Index".into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "pattern": "^[a-z0-9.][a-z0-9._-]*$", "maxLength": MAX_INDEX },
            { "type": "integer", "minimum": 0 },
            variable(),
        ] })
    }
}

/// What the sinks of all files mean.
pub(super) fn sinks(declared: &[Found<RawSink>], cx: &mut Cx<'_>) -> Vec<Sink> {
    let mut files: BTreeMap<PathBuf, Place> = BTreeMap::new();
    let mut sinks = Vec::new();
    for Found { value, at } in declared {
        match value {
            RawSink::Jsonl(raw) => sinks.extend(jsonl(raw, at, &mut files, cx).map(Sink::Jsonl)),
            RawSink::OpenSearch(raw) => sinks.extend(opensearch(raw, at, cx).map(Sink::OpenSearch)),
        }
    }
    sinks
}

fn jsonl(raw: &Jsonl, at: &Place, files: &mut BTreeMap<PathBuf, Place>, cx: &mut Cx<'_>) -> Option<JsonlSink> {
    if let Some(Found { value: Size(size), at }) = raw.max_size.found()
        && *size < MIN_FILE
    {
        cx.report.add(at, "a file of less than 64KiB is put aside all the time", "write at least 64KiB");
    }
    let path = raw.path.get()?.0.clone();
    if let Some(first) = files.get(&path) {
        let first = cx.report.place_of(first.mark);
        let message = format!("two sinks write to {}, the other is at {first}", shown(&path.to_string_lossy()));
        cx.report.add(at, message, "give one of them another path, or remove it");
        return None;
    }
    files.insert(path.clone(), at.clone());
    Some(JsonlSink {
        path,
        max_size: raw.max_size.get().map_or(64 << 20, |size| size.0),
        keep: raw.keep.get().and_then(|keep| u32::try_from(keep.unsigned()).ok()).unwrap_or(5),
    })
}

fn opensearch(raw: &OpenSearch, at: &Place, cx: &mut Cx<'_>) -> Option<OpenSearchSink> {
    let credentials = credentials(raw, at, cx);
    let time = |field: &Field<Time>, default, cx: &mut Cx<'_>| match field.found() {
        Some(Found { value: Time(time), at }) if time.is_zero() => {
            cx.report.add(at, "nothing comes about in no time", "write a duration above 0, like 10s");
            default
        }
        found => found.map_or(default, |found| found.value.0),
    };
    let timeout = time(&raw.timeout, Duration::from_secs(30), cx);
    let connect_timeout = time(&raw.connect_timeout, Duration::from_secs(5), cx);
    let url = raw.url.found()?;
    let endpoint = &url.value.0;
    if let Some(ca_file) = raw.ca_file.found()
        && !endpoint.tls
    {
        cx.report.add(&ca_file.at, "ca_file is for https, and the url is http", "write https, or remove ca_file");
    }
    if credentials.is_some() && !endpoint.tls && !endpoint.is_local() {
        let message = "a password or a key would cross the network for everybody to read";
        cx.report.add(&url.at, message, "write https; http is for this host only where there are credentials");
    }
    Some(OpenSearchSink {
        endpoint: endpoint.clone(),
        index: raw.index.get()?.0.clone(),
        credentials,
        ca_file: raw.ca_file.get().map(|file| file.0.clone()),
        timeout,
        connect_timeout,
    })
}

fn credentials(raw: &OpenSearch, at: &Place, cx: &mut Cx<'_>) -> Option<Credentials> {
    let fix = "write username with password_file, or api_key_file alone";
    match (raw.username.found(), raw.password_file.found(), raw.api_key_file.found()) {
        (None, None, None) => None,
        (Some(username), Some(password), None) => {
            if username.value.0.is_empty() || username.value.0.contains(':') {
                let message = format!("{} is empty or has a :", shown(&username.value.0));
                cx.report.add(&username.at, message, "write a name that HTTP can carry (RFC 7617)");
            }
            Some(Credentials::Basic { username: username.value.0.clone(), password_file: password.value.0.clone() })
        }
        (None, None, Some(key)) => Some(Credentials::ApiKey { file: key.value.0.clone() }),
        // What is written wrong has been told, and may be what is missing here.
        _ if !(raw.username.is_broken() || raw.password_file.is_broken() || raw.api_key_file.is_broken()) => {
            cx.report.add(at, "it is not clear whom the server knows us as", fix);
            None
        }
        _ => None,
    }
}

impl Sink {
    /// Its kind and where it leads: what it is called in messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Jsonl(file) => file.name(),
            Self::OpenSearch(server) => server.name(),
        }
    }

    /// The keys in which `other`, a sink of the same name, differs.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<&'static str> {
        let keys: Vec<(&'static str, bool)> = match (self, other) {
            (Self::Jsonl(a), Self::Jsonl(b)) => {
                vec![("max_size", a.max_size != b.max_size), ("keep", a.keep != b.keep)]
            }
            (Self::OpenSearch(a), Self::OpenSearch(b)) => vec![
                ("credentials", a.credentials != b.credentials),
                ("ca_file", a.ca_file != b.ca_file),
                ("timeout", a.timeout != b.timeout),
                ("connect_timeout", a.connect_timeout != b.connect_timeout),
            ],
            _ => vec![("type", true)],
        };
        keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}

impl JsonlSink {
    /// [`Sink::name`].
    #[must_use]
    pub fn name(&self) -> String {
        format!("jsonl {}", self.path.display())
    }
}

impl OpenSearchSink {
    /// [`Sink::name`].
    #[must_use]
    pub fn name(&self) -> String {
        format!("opensearch {}/{}", self.endpoint, self.index)
    }
}

impl Endpoint {
    /// `HOST:PORT`, as HTTP has it.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.host.parse::<Ipv6Addr>() {
            Ok(_) => format!("[{}]:{}", self.host, self.port),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }

    /// Whether it is on this host, by its spelling.
    fn is_local(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost") || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }
}
