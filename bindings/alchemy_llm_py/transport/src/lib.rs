//! The HTTP client that alchemy-llm is built with in this wheel, under the name that it asks for.
//!
//! `Cargo.toml` of the wheel puts this crate in the place of reqwest 0.12. It has the little of its
//! interface that alchemy-llm uses, on top of a later reqwest (rustls, one client for all requests), and
//! the one thing that the crate has no room for: an [`exchange::Exchange`] for each request, by which whoever
//! started it sets time-outs, ends it at once, and learns what the server said. The reply reaches
//! alchemy-llm as well-formed events in the plainest form ([`chat`], [`anthropic`]); [`sse`] takes the bytes.

pub mod anthropic;
pub mod chat;
pub mod exchange;
mod send;
pub mod sse;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use header::HeaderMap;
pub use http::{header, StatusCode};

use exchange::Exchange;

/// Why a request failed, in one line; the details are in the exchange.
#[derive(Debug)]
pub struct Error(String);

impl Error {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

pub struct ClientBuilder(HeaderMap);

impl ClientBuilder {
    pub fn default_headers(self, headers: HeaderMap) -> Self {
        Self(headers)
    }

    pub fn build(self) -> Result<Client, Error> {
        Ok(Client(self.0))
    }
}

/// What alchemy-llm makes for each request; the connections live elsewhere.
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

    /// Only asked for where the reply failed; its words are in the exchange already.
    pub async fn text(self) -> Result<String, Error> {
        Ok(String::new())
    }

    pub fn bytes_stream(self) -> Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>> {
        send::body(self.exchange, self.reply)
    }
}

/// jsonschema can fetch schemas that a schema refers to. Here it cannot: nothing that a tool's author or a
/// model writes makes this process call a server.
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
