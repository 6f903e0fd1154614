//! The HTTP client of alchemy-llm in this wheel. It replaces reqwest 0.12 by `[patch.crates-io]`.
//!
//! It has the part of reqwest's interface that alchemy-llm uses, on top of a later reqwest (rustls, shared
//! connection pools). Each request has an [`exchange::Exchange`], which alchemy-llm has no place for: the
//! caller uses it to set time-outs, to cancel, and to read the server's metadata. [`sse`] decodes the bytes;
//! [`chat`] and [`anthropic`] convert the events to the simple form that alchemy-llm reads without loss.
//!
//! Imports form no circle: `sse`, `error` ← `exchange` ← `step` ← `chat`, `anthropic` ← `send` ← this module.

pub mod anthropic;
pub mod chat;
mod error;
pub mod exchange;
mod send;
pub mod sse;
pub mod step;

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
pub use error::Error;
use futures::Stream;
use header::HeaderMap;
pub use http::{header, StatusCode};

use exchange::Exchange;

pub struct ClientBuilder(HeaderMap);

impl ClientBuilder {
    pub fn default_headers(self, headers: HeaderMap) -> Self {
        Self(headers)
    }

    pub fn build(self) -> Result<Client, Error> {
        Ok(Client(self.0))
    }
}

/// Resets the pools and the registry in a forked process, which must not use those of its parent.
pub fn reset_after_fork() {
    exchange::reset_after_fork();
    send::reset_after_fork();
}

/// The client that alchemy-llm makes for each request. The connections belong to `send`.
pub struct Client(HeaderMap);

impl Client {
    pub fn builder() -> ClientBuilder {
        ClientBuilder(HeaderMap::new())
    }

    pub fn post(&self, url: impl AsRef<str>) -> RequestBuilder {
        RequestBuilder {
            url: url.as_ref().into(),
            headers: self.0.clone(),
            body: Ok(serde_json::Value::Null),
        }
    }
}

pub struct RequestBuilder {
    url: String,
    headers: HeaderMap,
    body: serde_json::Result<serde_json::Value>,
}

impl RequestBuilder {
    pub fn json<T: serde::Serialize + ?Sized>(mut self, body: &T) -> Self {
        self.body = serde_json::to_value(body);
        self
    }

    pub async fn send(mut self) -> Result<Response, Error> {
        let exchange =
            exchange::of(&mut self.headers).ok_or_else(|| Error::new("a request without an exchange"))?;
        let body = self.body.map_err(|error| Error::new(error.to_string()))?;
        let reply = send::send(&exchange, self.url, self.headers, body).await?;
        Ok(Response { status: reply.status(), reply, exchange })
    }
}

pub struct Response {
    status: StatusCode,
    reply: upstream::Response,
    exchange: Arc<Exchange>,
}

impl Response {
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Only called for an error response. The exchange has its body already.
    pub async fn text(self) -> Result<String, Error> {
        Ok(String::new())
    }

    pub fn bytes_stream(self) -> Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>> {
        send::body(self.exchange, self.reply)
    }
}

/// jsonschema can fetch remote schemas. Here it cannot: no schema of a tool or a model may cause a request.
pub mod blocking {
    use super::Error;

    pub struct Response;

    impl Response {
        pub fn json<T: serde::de::DeserializeOwned>(self) -> Result<T, Error> {
            Err(Error::new("remote schemas are not fetched"))
        }
    }

    pub fn get(url: impl AsRef<str>) -> Result<Response, Error> {
        Err(Error::new(format!("remote schemas are not fetched: {}", url.as_ref())))
    }
}
