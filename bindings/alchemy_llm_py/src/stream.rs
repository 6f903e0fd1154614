//! An active request: the events of alchemy-llm become steps in a queue, and a reader is woken once per batch.
//!
//! No thread of this module touches Python. The reader holds the GIL and takes the steps that have arrived.

use std::collections::HashMap;
use std::future::Future;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alchemy_llm::types::AssistantMessageEvent as Event;
use alchemy_llm::AssistantMessageEventStream;
use futures::{FutureExt, StreamExt};
use reqwest::exchange::{Exchange, Failure, Global, KEPT};
use tokio::runtime::{Builder, Runtime};

use crate::convert::{self, Request};

/// One step of a reply, as Python gets it: the kind, the block and a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Start,
    TextStart(usize),
    TextDelta(usize, String),
    TextEnd(usize),
    ThinkingStart(usize),
    ThinkingDelta(usize, String),
    /// With its signature.
    ThinkingEnd(usize, String),
    /// With its id and its name.
    CallStart(usize, String, String),
    CallDelta(usize, String),
    /// The last step, with the facts as JSON; a failure is among them.
    End(String),
}

impl Step {
    fn size(&self) -> usize {
        let text = match self {
            Self::TextDelta(_, text) | Self::ThinkingDelta(_, text) | Self::CallDelta(_, text) => text.len(),
            _ => 0,
        };
        std::mem::size_of::<Self>() + text
    }
}

// ---- the runtime ----------------------------------------------------------------------------------------

static RUNTIME: Global<Option<&'static Runtime>> = Global::new();
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// The only runtime of this process. It never ends, so interpreter exit does not wait for it.
fn runtime() -> Result<&'static Runtime, String> {
    let mut slot = RUNTIME.lock();
    if let Some(runtime) = *slot {
        return Ok(runtime);
    }
    let built = Builder::new_multi_thread().worker_threads(2).thread_name("alchemy").enable_all().build();
    let runtime = Box::leak(Box::new(built.map_err(|error| format!("no runtime: {error}"))?));
    Ok(slot.insert(runtime))
}

/// Must be called first, with the GIL: Python forks only while it holds the GIL.
fn after_fork() -> u32 {
    let process = std::process::id();
    let before = PROCESS.swap(process, Ordering::AcqRel);
    if before != process && before != 0 {
        RUNTIME.forget();
        reqwest::reset_after_fork();
    }
    process
}

// ---- waking an event loop -------------------------------------------------------------------------------

/// A socket that an event loop watches, and the ids of the streams with new steps.
pub struct Waker {
    read: UnixStream,
    write: UnixStream,
    ready: Mutex<Vec<u64>>,
}

impl Waker {
    pub fn new() -> std::io::Result<Arc<Self>> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        Ok(Arc::new(Self { read, write, ready: Mutex::default() }))
    }

    pub fn fileno(&self) -> RawFd {
        self.read.as_raw_fd()
    }

    /// Empties the socket, and returns the ids of the streams with new steps, each once.
    pub fn drain(&self) -> Vec<u64> {
        // The order matters: a byte that arrives after the list was taken announces the next list.
        let mut bytes = [0; 64];
        while matches!((&self.read).read(&mut bytes), Ok(64)) {}
        std::mem::take(&mut *lock(&self.ready))
    }

    fn wake(&self, stream: u64) {
        let mut ready = lock(&self.ready);
        ready.push(stream);
        if ready.len() == 1 {
            // A full socket wakes the loop as well.
            let _ = (&self.write).write(&[1]);
        }
    }
}

// ---- a stream -------------------------------------------------------------------------------------------

#[derive(Default)]
struct Queue {
    steps: Vec<Step>,
    /// About how many bytes the steps take.
    size: usize,
    ended: bool,
    /// The reader was notified and has not taken the steps yet.
    notified: bool,
}

struct Shared {
    exchange: Arc<Exchange>,
    queue: Mutex<Queue>,
    waker: Option<Arc<Waker>>,
}

pub struct Stream {
    shared: Option<Arc<Shared>>,
    process: u32,
}

impl Stream {
    /// Starts the request.
    pub fn open(mut request: Request, waker: Option<Arc<Waker>>) -> Result<Self, String> {
        let process = after_fork();
        let runtime = runtime()?;
        let exchange = Exchange::new(std::mem::take(&mut request.exchange));
        let shared = Arc::new(Shared { exchange, queue: Mutex::default(), waker });
        let _entered = runtime.enter();
        let events = convert::begin(request, &shared.exchange)?;
        runtime.spawn(pump(events, shared.clone()));
        Ok(Self { shared: Some(shared), process })
    }

    /// The id that the waker reports.
    pub fn id(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.exchange.id)
    }

    /// Returns the new steps; None if there will be no more.
    pub fn take(&self) -> Result<Option<Vec<Step>>, &'static str> {
        let shared = self.here()?;
        let mut queue = lock(&shared.queue);
        queue.notified = false;
        if shared.exchange.is_cancelled() || (queue.steps.is_empty() && queue.ended) {
            return Ok(None);
        }
        let steps = std::mem::take(&mut queue.steps);
        queue.size = 0;
        drop(queue);
        shared.exchange.set_backlog(0);
        Ok(Some(steps))
    }

    /// Ends the request at once, and discards its steps.
    pub fn close(&self) {
        if let Ok(shared) = self.here() {
            shared.exchange.cancel();
            lock(&shared.queue).steps = Vec::new();
            // Another thread may be waiting.
            if let Some(waker) = &shared.waker {
                waker.wake(shared.exchange.id);
            }
        }
    }

    fn here(&self) -> Result<&Arc<Shared>, &'static str> {
        match &self.shared {
            Some(shared) if self.process == std::process::id() => Ok(shared),
            _ => Err("this stream belongs to the process that opened it, not to a fork of it"),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.close();
        if self.process != std::process::id() {
            // Threads that the fork did not copy may hold its locks.
            std::mem::forget(self.shared.take());
        }
    }
}

async fn pump(mut events: AssistantMessageEventStream, shared: Arc<Shared>) {
    let mut blocks = Blocks::default();
    let mut batch = Vec::new();
    while let Some(event) = events.next().await {
        let mut next = Some(event);
        while let Some(event) = next {
            blocks.take(event, &shared.exchange, &mut batch);
            next = events.next().now_or_never().flatten();
        }
        shared.push(&mut batch, false);
        // A stream with many events must not block the others.
        yield_now().await;
    }
    if !blocks.ended {
        let text = "alchemy-llm ended the stream without a final event";
        shared.exchange.fail(Failure::new("crate", text));
    }
    batch.push(Step::End(serde_json::to_string(&*shared.exchange.facts()).unwrap_or_default()));
    shared.push(&mut batch, true);
}

fn yield_now() -> impl Future<Output = ()> {
    tokio::task::yield_now()
}

impl Shared {
    fn push(&self, batch: &mut Vec<Step>, ended: bool) {
        if self.exchange.is_cancelled() {
            return;
        }
        let mut queue = lock(&self.queue);
        queue.size += batch.iter().map(Step::size).sum::<usize>();
        queue.steps.append(batch);
        queue.ended |= ended;
        let notified = std::mem::replace(&mut queue.notified, true);
        self.exchange.set_backlog(queue.size);
        drop(queue);
        if !notified {
            if let Some(waker) = &self.waker {
                waker.wake(self.exchange.id);
            }
        }
    }
}

/// Maps the crate's blocks to ours: the crate opens a new block when a tool call continues after another block.
#[derive(Default)]
struct Blocks {
    ours: Vec<usize>,
    calls: HashMap<usize, usize>,
    count: usize,
    ended: bool,
}

impl Blocks {
    fn open(&mut self) -> usize {
        self.count += 1;
        self.ours.push(self.count - 1);
        self.count - 1
    }

    fn our(&self, index: usize) -> usize {
        self.ours.get(index).copied().unwrap_or(index)
    }

    fn begin_call(&mut self, id: &str, name: &str, exchange: &Exchange, out: &mut Vec<Step>) {
        if let Some(number) = id.strip_prefix(KEPT) {
            let index = self.open();
            let kept =
                number.parse().ok().and_then(|number: usize| exchange.facts().kept.get(number).cloned());
            out.push(Step::ThinkingStart(index));
            return out.push(Step::ThinkingEnd(index, kept.unwrap_or_default()));
        }
        let number = id.parse().unwrap_or(usize::MAX);
        if let Some(known) = self.calls.get(&number) {
            return self.ours.push(*known);
        }
        let index = self.open();
        self.calls.insert(number, index);
        let id = exchange.facts().calls.get(number).map(|call| call.id.clone());
        out.push(Step::CallStart(index, id.unwrap_or_default(), name.to_owned()));
    }

    fn take(&mut self, event: Event, exchange: &Exchange, out: &mut Vec<Step>) {
        if let Some((id, name)) = convert::call_of(&event) {
            return self.begin_call(id, name, exchange, out);
        }
        let signature = convert::signature_of(&event).unwrap_or_default().to_owned();
        out.push(match event {
            Event::Start { .. } => Step::Start,
            Event::TextStart { .. } => Step::TextStart(self.open()),
            Event::TextDelta { content_index, delta, .. } => Step::TextDelta(self.our(content_index), delta),
            Event::TextEnd { content_index, .. } => Step::TextEnd(self.our(content_index)),
            Event::ThinkingStart { .. } => Step::ThinkingStart(self.open()),
            Event::ThinkingDelta { content_index, delta, .. } => {
                Step::ThinkingDelta(self.our(content_index), delta)
            }
            Event::ThinkingEnd { content_index, .. } => Step::ThinkingEnd(self.our(content_index), signature),
            Event::ToolCallDelta { content_index, delta, .. } => {
                Step::CallDelta(self.our(content_index), delta)
            }
            // A call may continue later; it ends with the reply.
            Event::ToolCallStart { .. } | Event::ToolCallEnd { .. } => return,
            Event::Done { .. } => return self.ended = true,
            Event::Error { error, .. } => {
                self.ended = true;
                // A failure of the exchange is the reason. Without one, the crate sent no request.
                exchange.fail(Failure::new("crate", error.error_message.unwrap_or_default()));
                return;
            }
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Counts the bytes that are allocated, because a copy is one allocation at least.
    struct CountingAllocator;

    static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

    #[global_allocator]
    static ALLOCATOR: CountingAllocator = CountingAllocator;

    // SAFETY: All calls are passed on to the allocator of the system.
    unsafe impl GlobalAlloc for CountingAllocator {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    #[test]
    fn no_wake_is_lost() {
        const COUNT: u64 = 200_000;
        let waker = Waker::new().unwrap();
        let other = waker.clone();
        let thread = std::thread::spawn(move || (0..COUNT).for_each(|stream| other.wake(stream)));
        waker.read.set_nonblocking(false).unwrap();
        waker.read.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut found = 0;
        while found < COUNT {
            // As an event loop does: wait for a byte, and then call `drain`.
            let mut byte = [0];
            (&waker.read).read_exact(&mut byte).expect("a stream is ready, but the socket has no byte");
            waker.read.set_nonblocking(true).unwrap();
            found += waker.drain().len() as u64;
            waker.read.set_nonblocking(false).unwrap();
        }
        thread.join().unwrap();
        assert_eq!(COUNT, found);
    }

    #[test]
    fn a_request_that_goes_nowhere_ends_with_its_reason() {
        let request =
            br#"{"model": {"id": "m", "base_url": "http://127.0.0.1:1/"}, "exchange": {"loopback": true}}"#;
        let stream = Stream::open(serde_json::from_slice(request).unwrap(), None).unwrap();
        let mut steps = Vec::new();
        while let Some(batch) = stream.take().unwrap() {
            steps.extend(batch);
            std::thread::sleep(Duration::from_millis(1));
        }
        let Some(Step::End(facts)) = steps.pop() else { panic!("no end") };
        assert!(
            steps.is_empty() && facts.contains(r#""kind":"connect""#) && facts.contains("refused"),
            "{facts}"
        );
    }

    #[test]
    fn a_stream_that_was_closed_says_nothing_more() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", server.local_addr().unwrap());
        let request =
            serde_json::json!({"model": {"id": "m", "base_url": url}, "exchange": {"loopback": true}});
        let stream = Stream::open(serde_json::from_value(request).unwrap(), None).unwrap();
        let (mut connection, _) = server.accept().unwrap();
        let mut bytes = [0; 4096];
        assert!(connection.read(&mut bytes).unwrap() > 0);
        stream.close();
        assert_eq!(Ok(None), stream.take());
        connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        while connection.read(&mut bytes).unwrap() > 0 {}
    }

    // README.md describes this weakness of alchemy-llm. Without the copies, the test does not panic, and fails.
    #[test]
    #[should_panic(expected = "the finished blocks were copied")]
    fn a_delta_does_not_copy_the_finished_blocks() {
        const DELTAS: usize = 2_000;
        const REASONING: usize = 200_000;
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", server.local_addr().unwrap());
        let delta = |delta: String| format!("data: {{\"choices\":[{{\"delta\":{{{delta}}}}}]}}\n\n");
        let reasoning = delta(format!(r#""reasoning_content":"{}""#, "x".repeat(REASONING)));
        let text = delta(r#""content":"w""#.to_owned()).repeat(DELTAS);
        std::thread::spawn(move || {
            let (mut connection, _) = server.accept().unwrap();
            let _ = connection.read(&mut [0; 4096]);
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
            let _ = connection.write_all([head, &reasoning, &text, "data: [DONE]\n\n"].concat().as_bytes());
        });
        let request =
            serde_json::json!({"model": {"id": "m", "base_url": url}, "exchange": {"loopback": true}});
        let before = ALLOCATED.load(Ordering::Relaxed);
        let stream = Stream::open(serde_json::from_value(request).unwrap(), None).unwrap();
        let mut deltas = 0;
        while let Some(batch) = stream.take().unwrap() {
            deltas += batch.iter().filter(|step| matches!(step, Step::TextDelta(..))).count();
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(DELTAS, deltas);
        let allocated = ALLOCATED.load(Ordering::Relaxed) - before;
        assert!(allocated < DELTAS * REASONING / 4, "the finished blocks were copied: {allocated} bytes");
    }

    #[test]
    fn replies_are_read_whole_and_left_in_their_middle() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", server.local_addr().unwrap());
        let delta = |delta: &str| format!("data: {{\"choices\":[{{\"delta\":{{{delta}}}}}]}}\n\n");
        let call = r#""tool_calls":[{"index":0,"id":"c","function":{"name":"w","arguments":"{}"}}]"#;
        let body = [&delta(r#""content":"Hi""#), &delta(call), "data: [DONE]\n\n"].concat();
        std::thread::spawn(move || {
            for connection in server.incoming() {
                let mut connection = connection.unwrap();
                let _ = connection.read(&mut [0; 4096]);
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
                let _ = connection.write_all([head, &body].concat().as_bytes());
            }
        });
        for round in 0..20 {
            let request =
                serde_json::json!({"model": {"id": "m", "base_url": url}, "exchange": {"loopback": true}});
            let stream = Stream::open(serde_json::from_value(request).unwrap(), None).unwrap();
            let mut steps = Vec::new();
            while let Some(batch) = stream.take().unwrap() {
                steps.extend(batch);
                if round % 2 == 1 && steps.len() > 1 {
                    stream.close();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            if round % 2 == 0 {
                assert!(matches!(steps.pop(), Some(Step::End(facts)) if facts.contains(r#""failure":null"#)));
                assert!(steps.contains(&Step::TextDelta(0, "Hi".into())));
                assert!(steps.contains(&Step::CallStart(1, "c".into(), "w".into())));
            }
        }
    }
}
