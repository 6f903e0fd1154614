//! One attempt of a request, and its reply as lines that alchemy-llm can read.

use std::collections::{HashMap, VecDeque};
use std::error::Error as _;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::header::{HeaderMap, HeaderName, HeaderValue, ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, LOCATION};
use serde_json::Value;
use tokio::time::{sleep_until, timeout, Instant};

use crate::error::Error;
use crate::exchange::{Exchange, Facts, Failure, Global, Protocol, Settings, NO_KEY};
use crate::step::{excerpt, reported, Step};
use crate::{anthropic, chat, sse};

const MAX_ERROR_BODY: usize = 64 << 10;
const MAX_BODY: usize = 64 << 20;
const ERROR_BODY_TIME: Duration = Duration::from_secs(10);
/// How long to wait for the end of a complete reply, so that its connection can be reused.
const DRAIN_TIME: Duration = Duration::from_millis(100);
const MAX_REDIRECTS: usize = 5;
/// The size of a batch of lines. alchemy-llm copies the rest of a batch for each line.
const BATCH_BYTES: usize = 4096;

// ---- clients ----------------------------------------------------------------------------------------

/// Requests with the same key share connections.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PoolKey {
    connect: Duration,
    tls: bool,
    loopback: bool,
    ca_pem: Option<String>,
}

static CLIENTS: Global<HashMap<PoolKey, upstream::Client>> = Global::new();

/// Forgets the connections of the parent process.
pub(crate) fn reset_after_fork() {
    CLIENTS.forget();
}

fn client(url: &str, settings: &Settings) -> Result<upstream::Client, String> {
    let key = PoolKey {
        connect: Exchange::seconds(settings.connect, 10.0),
        tls: !url.starts_with("http://"),
        loopback: settings.loopback,
        ca_pem: settings.ca_pem.clone(),
    };
    let mut clients = CLIENTS.lock();
    if let Some(client) = clients.get(&key) {
        return Ok(client.clone());
    }
    let client = build(&key).map_err(|error| reason(&error))?;
    clients.insert(key, client.clone());
    Ok(client)
}

fn build(key: &PoolKey) -> upstream::Result<upstream::Client> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut builder = upstream::Client::builder()
        .connect_timeout(key.connect)
        .redirect(upstream::redirect::Policy::none())
        .pool_idle_timeout(Duration::from_secs(60))
        .pool_max_idle_per_host(32)
        .tcp_nodelay(true);
    if key.loopback {
        builder = builder.no_proxy();
    }
    if !key.tls {
        // Without TLS: no trusted certificates, because reading them takes milliseconds.
        if let Ok(config) =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
        {
            let roots = rustls::RootCertStore::empty();
            builder =
                builder.tls_backend_preconfigured(config.with_root_certificates(roots).with_no_client_auth());
        }
        return builder.build();
    }
    // Fails if this provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Some(pem) = &key.ca_pem {
        builder = builder.tls_certs_only(upstream::Certificate::from_pem_bundle(pem.as_bytes())?);
    }
    builder.build()
}

// ---- the request --------------------------------------------------------------------------------------

pub(crate) async fn send(
    exchange: &Arc<Exchange>,
    url: String,
    mut headers: HeaderMap,
    body: Value,
) -> Result<upstream::Response, Error> {
    let settings = &exchange.settings;
    let body = encoded(settings, body);
    for name in [AUTHORIZATION, HeaderName::from_static("x-api-key")] {
        let key = headers.get(&name).and_then(|value| value.to_str().ok());
        if key.is_some_and(|key| key.trim_start_matches("Bearer ") == NO_KEY) {
            headers.remove(name);
        }
    }
    for (name, value) in &settings.headers {
        let (name, value) = header(name, value).ok_or_else(|| {
            exchange.fail(Failure::new("client", format!("the header {name:?} cannot be sent")))
        })?;
        headers.insert(name, value);
    }
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("text/event-stream"));
    headers.entry(ACCEPT_ENCODING).or_insert(HeaderValue::from_static("identity"));
    let client = client(&url, settings).map_err(|text| exchange.fail(Failure::new("client", text)))?;
    let limit = Exchange::seconds(settings.first_event, 120.0);
    tokio::select! {
        biased;
        () = exchange.cancelled() => Err(exchange.fail(Failure::new("cancelled", ""))),
        outcome = timeout(limit, attempt(exchange, client, url, headers, body)) => match outcome {
            Ok(outcome) => outcome.map_err(|failure| exchange.fail(failure)),
            Err(_) => Err(exchange.fail(Failure::new("timeout", "first_event"))),
        },
    }
}

/// Makes a header with a Latin-1 value; None if it is invalid.
fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let value: Option<Vec<u8>> = value.chars().map(|letter| u8::try_from(letter).ok()).collect();
    Some((name.parse().ok()?, HeaderValue::from_bytes(&value?).ok()?))
}

/// The body to send: the caller's, or alchemy-llm's with the caller's fields.
fn encoded(settings: &Settings, mut body: Value) -> Bytes {
    if let Some(whole) = &settings.whole_body {
        return whole.clone();
    }
    for (key, value) in &settings.body {
        match (&mut body, value) {
            (Value::Object(fields), Value::Null) => drop(fields.shift_remove(key)),
            (body, value) => body[key] = value.clone(),
        }
    }
    Bytes::from(body.to_string())
}

async fn attempt(
    exchange: &Exchange,
    client: upstream::Client,
    mut url: String,
    headers: HeaderMap,
    body: Bytes,
) -> Result<upstream::Response, Failure> {
    for _ in 0..MAX_REDIRECTS {
        let sent = client.post(&url).headers(headers.clone()).body(body.clone()).send().await;
        let reply = sent.map_err(not_sent)?;
        let status = reply.status();
        exchange.facts().status = status.as_u16();
        if status.is_success() {
            return Ok(reply);
        }
        if matches!(status.as_u16(), 307 | 308) {
            let old = reply.url();
            let target =
                reply.headers().get(LOCATION).and_then(|target| old.join(target.to_str().ok()?).ok());
            if let Some(target) = target.filter(|target| target.origin() == old.origin()) {
                url = target.into();
                continue;
            }
        }
        return Err(refused(reply).await);
    }
    Err(Failure::new("invalid", format!("more than {MAX_REDIRECTS} redirects")))
}

fn not_sent(error: upstream::Error) -> Failure {
    let kind = match (error.is_connect(), error.is_timeout()) {
        (true, true) => "connect_timeout",
        (true, false) => "connect",
        _ if error.is_builder() => "client",
        _ => "broken",
    };
    Failure::new(kind, reason(&error))
}

/// The innermost cause. The outer ones contain the URL, which may contain a secret.
fn reason(error: &upstream::Error) -> String {
    let mut text = String::new();
    let mut current = error.source();
    while let Some(cause) = current {
        text = cause.to_string();
        if cause.is::<rustls::Error>() {
            break;
        }
        current = cause.source();
    }
    if text.is_empty() {
        "the request cannot be made".into()
    } else {
        text
    }
}

/// Whether the compressed data are invalid, in contrast to a connection error.
fn undecodable(error: &upstream::Error) -> bool {
    let mut current = error.source();
    while let Some(cause) = current {
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(kind, Some(ErrorKind::InvalidData | ErrorKind::InvalidInput)) {
            return true;
        }
        current = cause.source();
    }
    false
}

async fn refused(mut reply: upstream::Response) -> Failure {
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = reply.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(MAX_ERROR_BODY - body.len())]);
            if body.len() == MAX_ERROR_BODY {
                break;
            }
        }
    };
    // Without the body, the status is enough.
    let _ = timeout(ERROR_BODY_TIME, reading).await;
    let mut failure = Failure::new("status", String::from_utf8_lossy(&body));
    failure.status = Some(reply.status().as_u16());
    for name in ["content-type", "retry-after", "retry-after-ms", "x-should-retry", "location"] {
        if let Some(value) = reply.headers().get(name).and_then(|value| value.to_str().ok()) {
            failure.headers.insert(name.into(), value.into());
        }
    }
    failure
}

// ---- the reply ------------------------------------------------------------------------------------------

enum Reader {
    Chat(chat::Reader),
    Anthropic(anthropic::Reader),
}

#[derive(PartialEq)]
enum Shape {
    Unknown,
    Stream,
    Document,
}

struct Body {
    exchange: Arc<Exchange>,
    reply: Option<upstream::Response>,
    sse: sse::Decoder,
    reader: Reader,
    shape: Shape,
    held: Vec<u8>,
    ready: VecDeque<Bytes>,
    failure: Option<Failure>,
    ended: bool,
    since: Instant,
    limit: (Duration, &'static str),
}

pub(crate) fn body(
    exchange: Arc<Exchange>,
    reply: upstream::Response,
) -> Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>> {
    let reader = match exchange.settings.protocol {
        Protocol::Chat => Reader::Chat(chat::Reader::default()),
        Protocol::Anthropic => Reader::Anthropic(anthropic::Reader::default()),
    };
    let body = Body {
        limit: (Exchange::seconds(exchange.settings.first_event, 120.0), "first_event"),
        exchange,
        reply: Some(reply),
        sse: sse::Decoder::default(),
        reader,
        shape: Shape::Unknown,
        held: Vec::new(),
        ready: VecDeque::new(),
        failure: None,
        ended: false,
        since: Instant::now(),
    };
    Box::pin(futures::stream::unfold(body, |mut body| async move { Some((body.next().await?, body)) }))
}

impl Body {
    async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            if self.exchange.is_cancelled() {
                self.ready.clear();
                self.fail(Failure::new("cancelled", ""));
            }
            if let Some(piece) = self.ready.pop_front() {
                // alchemy-llm copies the whole message for each event, so the reader of events gets a turn first.
                tokio::task::yield_now().await;
                return Some(Ok(piece));
            }
            if let Some(failure) = self.failure.take() {
                self.reply = None;
                return Some(Err(self.exchange.fail(failure)));
            }
            if self.ended {
                self.drain();
                return None;
            }
            let started = Instant::now();
            self.exchange.room().await;
            // The time-out of the server does not include the time of a slow reader.
            self.since += started.elapsed();
            self.read().await;
        }
    }

    /// Reads the end of a complete reply, if it arrives soon, so that its connection can be reused.
    fn drain(&mut self) {
        if let Some(mut reply) = self.reply.take() {
            tokio::spawn(timeout(DRAIN_TIME, async move { while let Ok(Some(_)) = reply.chunk().await {} }));
        }
    }

    async fn read(&mut self) {
        let Some(reply) = self.reply.as_mut() else {
            self.ended = true;
            return;
        };
        let chunk = tokio::select! {
            biased;
            () = self.exchange.cancelled() => return self.fail(Failure::new("cancelled", "")),
            chunk = reply.chunk() => chunk,
            () = sleep_until(self.since + self.limit.0) => {
                return self.broken(Failure::new("timeout", self.limit.1));
            }
        };
        let exchange = self.exchange.clone();
        let seen = exchange.facts().seen;
        match chunk {
            Ok(Some(chunk)) => self.take(&chunk),
            Ok(None) => self.close(),
            Err(error) if undecodable(&error) => self.fail(Failure::new("undecodable", reason(&error))),
            Err(error) => self.broken(Failure::new("interrupted", reason(&error))),
        }
        let facts = exchange.facts();
        if facts.seen != seen {
            let settings = &exchange.settings;
            let mut idle = Exchange::seconds(settings.idle, 90.0);
            if facts.finish_reason.is_some() {
                idle = idle.min(Exchange::seconds(settings.after_finish, 10.0));
            }
            (self.since, self.limit) = (Instant::now(), (idle, "idle"));
        }
    }

    fn take(&mut self, chunk: &[u8]) {
        if self.shape == Shape::Stream {
            return self.take_stream(chunk);
        }
        self.held.extend_from_slice(chunk);
        if self.held.len() > MAX_BODY {
            return self.fail(Failure::new("invalid", "the reply is too long"));
        }
        if self.shape == Shape::Unknown {
            // The first byte that is not a space: a line of a stream starts with a field name or a colon.
            let start = self.held.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.held).trim_ascii_start();
            match start.first() {
                None => {}
                Some(b'{' | b'[' | b'<') => self.shape = Shape::Document,
                Some(_) => {
                    self.shape = Shape::Stream;
                    let held = std::mem::take(&mut self.held);
                    self.take_stream(&held);
                }
            }
        }
    }

    fn take_stream(&mut self, chunk: &[u8]) {
        let mut events = Vec::new();
        let outcome = self.sse.feed(chunk, &mut events);
        self.handle(events);
        if outcome.is_err() {
            self.fail(Failure::new("invalid", "an event of the reply is too large"));
        }
    }

    fn handle(&mut self, events: Vec<sse::Event>) {
        let exchange = self.exchange.clone();
        let mut facts = exchange.facts();
        let mut out = String::new();
        for event in events {
            let step = match &mut self.reader {
                Reader::Chat(reader) => reader.event(&event, &mut facts, &mut out),
                Reader::Anthropic(reader) => reader.event(&event, &mut facts, &mut out),
            };
            if out.len() >= BATCH_BYTES {
                self.ready.push_back(Bytes::from(std::mem::take(&mut out)));
            }
            if self.step(step, &mut out) {
                break;
            }
        }
        if !out.is_empty() {
            self.ready.push_back(Bytes::from(out));
        }
    }

    /// Handles a step. Returns whether it was the last.
    fn step(&mut self, step: Step, out: &mut String) -> bool {
        if step == Step::More {
            return false;
        }
        if let Reader::Chat(reader) = &mut self.reader {
            reader.close(out);
        }
        match step {
            Step::Failed(failure) => self.fail(failure),
            _ => self.ended = true,
        }
        true
    }

    /// Handles the end of the body.
    fn close(&mut self) {
        self.reply = None;
        let exchange = self.exchange.clone();
        if self.shape == Shape::Document {
            let held = std::mem::take(&mut self.held);
            let mut out = String::new();
            let step = match &mut self.reader {
                Reader::Chat(reader) if !held.trim_ascii_start().starts_with(b"<") => {
                    reader.document(&held, &mut exchange.facts(), &mut out)
                }
                _ => Step::Failed(document(&held)),
            };
            self.step(step, &mut out);
            return self.ready.push_back(Bytes::from(out));
        }
        let mut events = Vec::new();
        if self.shape == Shape::Stream {
            self.sse.close(&mut events);
        }
        self.handle(events);
        if self.failure.as_ref().is_some_and(|failure| failure.kind == "not_json") {
            self.failure = None; // the last event was truncated
        }
        if !self.ended && self.failure.is_none() {
            let kind = if exchange.facts().seen > 0 { "truncated" } else { "empty" };
            self.broken(Failure::new(kind, ""));
        }
    }

    /// Handles the end of the connection: a reply with a finish reason is complete, others fail.
    fn broken(&mut self, failure: Failure) {
        let complete = |facts: &Facts| facts.finish_reason.is_some();
        if complete(&self.exchange.facts()) {
            self.ended = true;
        } else {
            self.fail(failure);
        }
    }

    fn fail(&mut self, failure: Failure) {
        if !self.ended {
            self.failure.get_or_insert(failure);
        }
    }
}

/// The failure of a document: an error in JSON, or a page of a proxy.
fn document(body: &[u8]) -> Failure {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) if value.is_object() => reported(value),
        _ if body.trim_ascii_start().starts_with(b"<") => {
            Failure::new("invalid", format!("the reply is an HTML page: {}", excerpt(body)))
        }
        _ => Failure::new(
            "invalid",
            format!("the reply is neither an event stream nor JSON: {}", excerpt(body)),
        ),
    }
}
