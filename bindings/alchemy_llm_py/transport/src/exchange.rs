//! The settings, metadata and cancellation of a request, shared by the request and its caller.
//!
//! alchemy-llm passes a header to its HTTP client. Its value is the id of the exchange, and it is not sent.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Notify;

use crate::error::Error;

pub const HEADER: &str = "x-tinyagent-exchange";
/// The prefix of the id of such a block's marker, before its index in `Facts::kept`.
pub const KEPT: &str = "kept:";
/// The key of a request without a key, because alchemy-llm requires one. It is not sent.
pub const NO_KEY: &str = "no-key";

/// The protocol of the reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    #[default]
    Chat,
    Anthropic,
}

/// The settings of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub protocol: Protocol,
    /// Seconds.
    pub connect: f64,
    pub first_event: f64,
    pub idle: f64,
    /// Seconds that a reply may stay silent after its finish reason before it counts as complete.
    pub after_finish: f64,
    /// Certificates of a private CA, in PEM.
    pub ca_pem: Option<String>,
    /// Whether the server is this machine, which is reached without a proxy.
    pub loopback: bool,
    /// More headers. Latin-1, which alchemy-llm would drop silently.
    pub headers: Vec<(String, String)>,
    /// Fields to set in alchemy-llm's body; null removes a field.
    pub body: Map<String, Value>,
    /// The whole body, instead of alchemy-llm's. It is sent unchanged, because parsing and encoding it again
    /// would make each turn of a long conversation slower.
    #[serde(skip)]
    pub whole_body: Option<Bytes>,
}

/// Why a request failed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Failure {
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub words: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub value: Value,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub headers: Map<String, Value>,
}

impl Failure {
    pub fn new(kind: &'static str, words: impl Into<String>) -> Self {
        Self { kind, words: words.into(), ..Self::default() }
    }
}

/// A tool call as the server named it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Call {
    pub id: String,
    pub name: String,
    /// Arguments that arrived as an object instead of text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole: Option<Value>,
    #[serde(skip)]
    pub text: String,
    /// Unknown fields of the call and of its function.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<Value>,
}

/// What the server sent in addition to text, reasoning and arguments.
#[derive(Debug, Default, Serialize)]
pub struct Facts {
    pub status: u16,
    /// The number of events so far, without comments.
    pub seen: usize,
    pub shown: bool,
    pub finish_reason: Option<String>,
    /// Whether the end marker was seen.
    pub done: bool,
    pub usage: Value,
    pub calls: Vec<Call>,
    /// Citations and unknown fields of each text block of Anthropic, to send back in the next request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<Map<String, Value>>,
    /// The field with the reasoning, and the details to send back.
    pub reasoning_field: String,
    pub reasoning_details: Vec<Value>,
    /// Unknown fields of the message.
    pub extra: Vec<Value>,
    /// The finish reasons, if there is more than one, and the events from the first of them on.
    pub reasons: Vec<String>,
    pub last: Vec<String>,
    /// Blocks that alchemy-llm has no form for, to send back, in the order of their markers.
    #[serde(skip)]
    pub kept: Vec<String>,
    pub failure: Option<Failure>,
}

pub struct Exchange {
    pub id: u64,
    pub settings: Settings,
    facts: Mutex<Facts>,
    cancelled: AtomicBool,
    changed: Notify,
    backlog: AtomicUsize,
}

/// The limit of bytes that wait for a slow reader. Beyond it, the connection is not read.
const ROOM: usize = 1 << 20;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A global that a forked process resets, because a thread that the fork did not copy may hold its lock. The
/// old value is leaked.
pub struct Global<T: 'static>(AtomicPtr<Mutex<T>>);

impl<T: Default> Global<T> {
    pub const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    pub fn lock(&self) -> MutexGuard<'static, T> {
        let mut current = self.0.load(Ordering::Acquire);
        if current.is_null() {
            let fresh = Box::into_raw(Box::new(Mutex::new(T::default())));
            let null = std::ptr::null_mut();
            current = match self.0.compare_exchange(null, fresh, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => fresh,
                Err(other) => other,
            };
        }
        // SAFETY: it came from a Box that is never freed, here or by another thread.
        unsafe { &*current }.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resets the global. Call it first in a forked process.
    pub fn forget(&self) {
        self.0.store(std::ptr::null_mut(), Ordering::Release);
    }
}

impl<T: Default> Default for Global<T> {
    fn default() -> Self {
        Self::new()
    }
}

static REGISTRY: Global<HashMap<u64, Weak<Exchange>>> = Global::new();

/// Forgets the requests of the parent process.
pub(crate) fn reset_after_fork() {
    REGISTRY.forget();
}

impl Exchange {
    pub fn new(settings: Settings) -> Arc<Self> {
        let exchange = Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            settings,
            facts: Mutex::default(),
            cancelled: AtomicBool::new(false),
            changed: Notify::new(),
            backlog: AtomicUsize::new(0),
        });
        REGISTRY.lock().insert(exchange.id, Arc::downgrade(&exchange));
        exchange
    }

    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the request at any point, and closes its connection.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Resolves once `cancel` was called.
    pub async fn cancelled(&self) {
        self.until(|| self.is_cancelled()).await;
    }

    /// Sets how many bytes wait to be read.
    pub fn set_backlog(&self, bytes: usize) {
        if self.backlog.swap(bytes, Ordering::AcqRel) >= ROOM && bytes < ROOM {
            self.changed.notify_one();
        }
    }

    /// Resolves once there is room for more, or the exchange was cancelled.
    pub async fn room(&self) {
        self.until(|| self.is_cancelled() || self.backlog.load(Ordering::Acquire) < ROOM).await;
    }

    async fn until(&self, condition: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition() {
                return;
            }
            changed.await;
        }
    }

    pub fn fail(&self, failure: Failure) -> Error {
        let error = Error::new(failure.kind);
        self.facts().failure.get_or_insert(failure);
        error
    }

    pub fn seconds(value: f64, default: f64) -> Duration {
        let seconds = if value.is_finite() && value > 0.0 { value } else { default };
        Duration::from_secs_f64(seconds.min(1e9))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        REGISTRY.lock().remove(&self.id);
    }
}

/// Finds the exchange that these headers name, and removes the header.
pub(crate) fn of(headers: &mut HeaderMap) -> Option<Arc<Exchange>> {
    let id = headers.remove(HEADER)?.to_str().ok()?.parse().ok()?;
    REGISTRY.lock().get(&id).and_then(Weak::upgrade)
}
