//! Where the collector is, and one POST to it at a time, each on a connection of its own: there is one every few seconds.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::net::{ClientTls, Identity};

/// Of what is read of an answer. Its first line is what matters.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// As the OpenTelemetry specification has it.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// A collector's address.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `host:port`
    address: String,
    host: String,
    path: String,
    tls: Option<ClientTls>,
    /// Those beside the usual ones, as lines.
    headers: String,
    timeout: Duration,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.address, self.path)
    }
}

/// A variable of the environment. An empty one is none.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What is said of traces alone comes before what is said of all that is exported.
fn setting(name: &str) -> Option<String> {
    variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}")).or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
}

impl Endpoint {
    /// The one that the environment names, if it does.
    ///
    /// # Errors
    /// What is not understood, or not possible.
    pub fn from_env() -> Result<Option<Self>, String> {
        let is = |name, expected| variable(name).is_some_and(|value| value.eq_ignore_ascii_case(expected));
        let of_traces = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let of_all = || variable("OTEL_EXPORTER_OTLP_ENDPOINT");
        let of_all = || of_all().map(|url| format!("{}/v1/traces", url.trim_end_matches('/')));
        let Some(url) = of_traces.or_else(of_all) else { return Ok(None) };
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Ok(None);
        }
        if let Some(protocol) = setting("PROTOCOL").filter(|protocol| protocol != "http/protobuf") {
            return Err(format!("OTEL_EXPORTER_OTLP_PROTOCOL is `{protocol}`, and only `http/protobuf` is spoken"));
        }
        let mut endpoint = Self::parse(&url)?;
        endpoint.headers = headers(&setting("HEADERS").unwrap_or_default())?;
        if let Some(millis) = setting("TIMEOUT") {
            let millis = millis.parse().map_err(|_| format!("OTEL_EXPORTER_OTLP_TIMEOUT `{millis}` is no number"))?;
            endpoint.timeout = Duration::from_millis(millis);
        }
        Ok(Some(endpoint))
    }

    fn parse(url: &str) -> Result<Self, String> {
        let invalid = |reason| format!("the collector's address `{url}` {reason}");
        let (is_tls, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) | None => return Err(invalid("begins neither with http:// nor with https://")),
        };
        let (host, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || host.contains('@') || !is_plain(host) || !is_plain(path) {
            return Err(invalid("is none"));
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let port = if is_tls { 443 } else { 80 };
        let address = if has_port { host.to_owned() } else { format!("{host}:{port}") };
        let tls = is_tls.then(tls).transpose()?;
        let (host, path) = (host.to_owned(), path.to_owned());
        Ok(Self { address, host, path, tls, headers: String::new(), timeout: TIMEOUT_DEFAULT })
    }

    /// # Errors
    /// Why the collector did not take it.
    pub async fn send(self, body: Vec<u8>) -> Result<(), String> {
        let sent = timeout(self.timeout, self.post(&body)).await;
        sent.unwrap_or_else(|_| Err(format!("no answer within {:?}", self.timeout)))
    }

    async fn post(&self, body: &[u8]) -> Result<(), String> {
        let stream = TcpStream::connect(&self.address).await.map_err(|error| error.to_string())?;
        match &self.tls {
            None => self.post_over(stream, body).await,
            Some(tls) => {
                let shaken = tls.connect(&self.address, stream).await;
                self.post_over(shaken.map_err(|error| crate::net::reason(&error))?, body).await
            }
        }
    }

    fn post_over<IO>(&self, mut stream: IO, body: &[u8]) -> impl Future<Output = Result<(), String>> + Send
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {}/{}\r\nContent-Type: application/x-protobuf\r\n\
             Content-Length: {}\r\n{}Connection: close\r\n\r\n",
            self.path,
            self.host,
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            body.len(),
            self.headers,
        );
        async move {
            let mut answer = Vec::new();
            let exchanged = async {
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(body).await?;
                stream.flush().await?;
                stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await
            };
            let failed = exchanged.await.err().map(|error| error.to_string());
            let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
            match (is_success(line), failed) {
                (true, _) => Ok(()),
                (false, Some(reason)) if line.is_empty() => Err(reason),
                (false, _) if line.is_empty() => Err("closed without an answer".to_owned()),
                (false, _) => Err(format!("answered `{}`", String::from_utf8_lossy(line).escape_debug())),
            }
        }
    }
}

/// Of a first line.
fn is_success(line: &[u8]) -> bool {
    let line = line.strip_prefix(b"HTTP/1.").unwrap_or_default();
    matches!(line, [b'0' | b'1', b' ', b'2', ..])
}

/// Who is trusted is to be named: nodes trust nobody by default, and there is no list of authorities in them.
fn tls() -> Result<ClientTls, String> {
    let ca =
        setting("CERTIFICATE").ok_or("an https:// collector needs OTEL_EXPORTER_OTLP_CERTIFICATE, its authority's")?;
    let own = setting("CLIENT_CERTIFICATE").zip(setting("CLIENT_KEY"));
    let own = own.map(|(cert, key)| Identity { cert: cert.into(), key: key.into() });
    ClientTls::load(Path::new(&ca), own.as_ref()).map_err(|error| error.to_string())
}

/// `name=value,name=value`, with `%xx` in the values, as lines of a request.
fn headers(list: &str) -> Result<String, String> {
    let mut lines = String::new();
    for header in list.split(',').map(str::trim).filter(|header| !header.is_empty()) {
        let line = header.split_once('=').and_then(|(name, value)| {
            let (name, value) = (name.trim(), unescape(value.trim())?);
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            let is_fine =
                name.bytes().all(is_name) && value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
            (!name.is_empty() && is_fine).then(|| format!("{name}: {value}\r\n"))
        });
        // Not shown: it may be a password.
        lines += &line.ok_or("OTEL_EXPORTER_OTLP_HEADERS is not name=value,name=value")?;
    }
    Ok(lines)
}

fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_parts_and_a_wrong_one_is_told() {
        let parts = |url| Endpoint::parse(url).map(|endpoint| (endpoint.address, endpoint.host, endpoint.path));
        let are = |address: &str, host: &str, path: &str| Ok((address.to_owned(), host.to_owned(), path.to_owned()));
        assert_eq!(parts("http://a:4318/v1/traces"), are("a:4318", "a:4318", "/v1/traces"));
        assert_eq!(parts("http://a"), are("a:80", "a", "/"));
        assert_eq!(parts("http://[::1]/x"), are("[::1]:80", "[::1]", "/x"));
        for wrong in ["", "a:4318", "ftp://a", "http://", "http:///x", "http://u:p@a/", "http://a/\r\nx"] {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn headers_are_lines_and_add_no_others() {
        assert_eq!(headers("a=1, b = x%20y,").unwrap(), "a: 1\r\nb: x y\r\n");
        for wrong in ["a", "=1", "a b=1", "a=%0d%0ab", "a=%zz", "a=%2"] {
            assert!(headers(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_what_is_200_and_a_bit_is_success() {
        assert!(is_success(b"HTTP/1.1 200 OK") && is_success(b"HTTP/1.0 202"));
        assert!(!is_success(b"HTTP/1.1 404 Not Found") && !is_success(b"") && !is_success(b"200"));
    }
}
