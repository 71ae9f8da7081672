//! What the node counts, from its admin interface.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One scrape.
pub(crate) struct Metrics(String);

impl Metrics {
    /// Asks the node.
    pub(crate) async fn read(admin: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(admin).await?;
        // Of version 1.0, so that the answer is one piece that ends with the connection.
        let request = format!("GET /metrics HTTP/1.0\r\nHost: {admin}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        ensure!(head.contains(" 200 "), "the node answers {head}");
        Ok(Self(body.to_owned()))
    }

    /// The sum of a metric over its labels.
    pub(crate) fn sum(&self, name: &str) -> Result<u64> {
        let mut sum = None;
        for line in self.0.lines() {
            let Some(rest) = line.strip_prefix(name) else {
                continue;
            };
            if rest.starts_with([' ', '{']) {
                let value = rest.rsplit(' ').next().unwrap_or_default();
                let value: f64 = value.parse().with_context(|| format!("`{line}`"))?;
                sum = Some(sum.unwrap_or(0) + value as u64); // A counter.
            }
        }
        sum.with_context(|| format!("the node has no metric `{name}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_alone() {
        let text = "# HELP a_total x\na_total{kind=\"x y\"} 2\na_total{kind=\"z\"} 3\na_total_of_others 7\nb 1\n";
        let metrics = Metrics(text.to_owned());
        assert_eq!(metrics.sum("a_total").expect("it is there"), 5);
        assert_eq!(metrics.sum("b").expect("it is there"), 1);
        metrics.sum("a").expect_err("there is none of this name");
    }
}
