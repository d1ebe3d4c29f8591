//! Pages of the control plane, of sidecars and of engines: plain HTTP, small, with a deadline.

use std::error::Error;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// These pages are made from memory; compiling the largest documents takes seconds.
const DEADLINE: Duration = Duration::from_secs(20);
/// Far above the status of a thousand sidecars.
const PAGE_BYTES_MAX: usize = 64 << 20;

/// The client that all parts of this command share: HTTP/1.1, connections kept for the next request.
pub(crate) type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// A client without connections yet.
pub(crate) fn client() -> HttpClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(Duration::from_secs(5)));
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Where pages are: `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    base: String,
}

impl Site {
    /// # Errors
    /// When `text` is not `http://HOST[:PORT]`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let example = "write it as http://127.0.0.1:8084";
        let uri: Uri = text.parse().map_err(|error| format!("{error}; {example}"))?;
        match (uri.scheme_str(), uri.authority(), uri.path()) {
            (Some("http"), Some(authority), "/" | "") if uri.query().is_none() => {
                Ok(Self { base: format!("http://{authority}") })
            }
            (Some("https"), _, _) => Err(format!("these pages are served over plain HTTP; {example}")),
            _ => Err(format!("not the address of an admin listener; {example}")),
        }
    }

    /// At an address that was bound.
    pub(crate) fn at(address: impl std::fmt::Display) -> Self {
        Self { base: format!("http://{address}") }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Status and body of a page.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub(crate) async fn page(&self, client: &HttpClient, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        self.ask(client, Method::GET, path, Bytes::new()).await
    }

    /// A JSON page.
    ///
    /// # Errors
    /// When there is none, or it has another shape.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        client: &HttpClient,
        path: &str,
    ) -> anyhow::Result<T> {
        let (status, body) = self.page(client, path).await?;
        self.read(path, status, &body)
    }

    /// The JSON answer to a JSON question.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        client: &HttpClient,
        path: &str,
        question: &impl Serialize,
    ) -> anyhow::Result<T> {
        let question = serde_json::to_vec(question).context("the question cannot be written as JSON")?;
        let (status, body) = self.ask(client, Method::POST, path, question.into()).await?;
        self.read(path, status, &body)
    }

    fn read<T: DeserializeOwned>(&self, path: &str, status: StatusCode, body: &[u8]) -> anyhow::Result<T> {
        if status != StatusCode::OK {
            let said = String::from_utf8_lossy(body);
            bail!("{} answered {status}: {}", self.url(path), said.trim());
        }
        serde_json::from_slice(body)
            .with_context(|| format!("{} is not the page of a control plane of this version", self.url(path)))
    }

    async fn ask(
        &self,
        client: &HttpClient,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = Request::builder().method(&method).uri(self.url(path));
        if method == Method::POST {
            request = request.header("content-type", "application/json");
        }
        let request =
            request.body(Full::new(body)).with_context(|| format!("{} is not a URL", self.url(path)))?;
        let answered = tokio::time::timeout(DEADLINE, async {
            let answer =
                client.request(request).await.map_err(|error| anyhow::anyhow!("{}", causes(&error)))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), PAGE_BYTES_MAX).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
            anyhow::Ok((status, body.to_bytes()))
        });
        match answered.await {
            Ok(answered) => answered.with_context(|| format!("{} cannot be reached", self.base)),
            Err(_) => bail!("{} has not answered within {} s", self.base, DEADLINE.as_secs()),
        }
    }
}

/// A fault of asking a control plane, with what to do about it.
pub(crate) fn nobody_there(error: &anyhow::Error, flag: &str) -> anyhow::Error {
    anyhow::anyhow!("{error:#}\n       Is a control plane running there? Name its admin address with {flag}.")
}

/// The last cause of an error, which says what the outer ones only name.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_understood_or_refused_with_an_example() {
        for good in ["http://127.0.0.1:8084", "http://127.0.0.1:8084/"] {
            assert_eq!(Site::parse(good).unwrap().url("/ready"), "http://127.0.0.1:8084/ready");
        }
        for bad in
            ["127.0.0.1:8084", "https://127.0.0.1:8084", "http://a/b", "http://a/?b", "http://", "", "a b"]
        {
            assert!(Site::parse(bad).unwrap_err().contains("http://127.0.0.1:8084"), "{bad}");
        }
    }
}
