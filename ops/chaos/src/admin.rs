//! The HTTP side of the node, as an operator sees it: a request, and the metrics read back.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Most that an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Sends one request and reads the status and the body of its answer.
///
/// # Errors
/// No connection, no answer in time, or no HTTP.
pub(crate) fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<(u16, String)> {
    request_within(address, method, path, body, ANSWER_LIMIT)
}

/// The same, with a limit for each step of it.
///
/// # Errors
/// As [`request`].
pub(crate) fn request_within(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
    limit: Duration,
) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::other("no HTTP answer"))?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok((
        status.ok_or_else(|| io::Error::other("no HTTP status"))?,
        body.to_owned(),
    ))
}

/// One scrape.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// Scrapes the node.
    ///
    /// # Errors
    /// As [`request`].
    pub(crate) fn scrape(address: SocketAddr) -> io::Result<Self> {
        let (status, body) = request(address, "GET", "/metrics", "")?;
        if status == 200 {
            Ok(Self(body))
        } else {
            Err(io::Error::other(format!("/metrics answered {status}")))
        }
    }

    /// The sum of all series of a metric, the prefix `roadstead_` left out.
    pub(crate) fn sum(&self, name: &str) -> i64 {
        self.series(name).map(|(_, value)| value).sum::<f64>() as i64
    }

    /// The value of the series that has this label.
    pub(crate) fn labelled(&self, name: &str, label: &str) -> i64 {
        self.series(name)
            .filter(|(labels, _)| labels.contains(label))
            .map(|(_, value)| value)
            .sum::<f64>() as i64
    }

    fn series(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix("roadstead_")?.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let is_it = labels.is_empty() || labels.starts_with('{');
            is_it.then(|| value.parse().ok().map(|value| (labels, value)))?
        })
    }

    /// Accepted less delivered, expired, dropped and queued deliveries: 0 when each is accounted for.
    pub(crate) fn unaccounted(&self) -> i64 {
        self.sum("deliveries_accepted_total")
            - self.sum("deliveries_delivered_total")
            - self.sum("deliveries_expired_total")
            - self.sum("deliveries_dropped_total")
            - self.sum("deliveries_queued")
    }

    /// The deliveries in words.
    pub(crate) fn deliveries(&self) -> String {
        let dropped: Vec<String> = self
            .series("deliveries_dropped_total")
            .filter(|(_, value)| *value > 0.0)
            .map(|(labels, value)| {
                format!(
                    "{}={value}",
                    labels
                        .trim_matches(['{', '}'])
                        .replace("reason=", "")
                        .replace('"', "")
                )
            })
            .collect();
        format!(
            "accepted {} = delivered {} + expired {} + dropped {} ({}) + queued {}, unaccounted {}",
            self.sum("deliveries_accepted_total"),
            self.sum("deliveries_delivered_total"),
            self.sum("deliveries_expired_total"),
            self.sum("deliveries_dropped_total"),
            dropped.join(" "),
            self.sum("deliveries_queued"),
            self.unaccounted(),
        )
    }
}
