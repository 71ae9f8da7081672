//! A real HTTP server that does what a test wants, right or wrong.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What the server does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// Answers with a status and a body.
    Answers(u16, String),
    /// Reads the request and says nothing.
    Hangs,
    /// Says half of an answer, and nothing more.
    Stalls,
    /// Closes the connection.
    Closes,
    /// Sends a body without end.
    Floods,
    /// Sends bytes that are no HTTP.
    Babbles,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: String,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// The last one stays.
    plan: Arc<Mutex<VecDeque<Behaviour>>>,
}

impl Server {
    /// Called inside of a runtime.
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (seen, plan) = (
            Arc::default(),
            Arc::new(Mutex::new(VecDeque::from([behaviour]))),
        );
        let (log, steps) = (Arc::clone(&seen), Arc::clone(&plan));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&log), Arc::clone(&steps)));
            }
        });
        Self {
            address,
            seen,
            plan,
        }
    }

    pub(crate) async fn answering(body: &str) -> Self {
        Self::start(Behaviour::Answers(200, body.to_owned())).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/ask", self.address)
    }

    /// From now on it does this.
    pub(crate) fn set(&self, behaviour: Behaviour) {
        *self.plan.lock().expect("no panic") = VecDeque::from([behaviour]);
    }

    pub(crate) fn answer(&self, body: &str) {
        self.set(Behaviour::Answers(200, body.to_owned()));
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().expect("no panic").len()
    }
}

async fn serve(
    mut stream: TcpStream,
    seen: Arc<Mutex<Vec<Seen>>>,
    plan: Arc<Mutex<VecDeque<Behaviour>>>,
) -> Option<()> {
    loop {
        let request = request(&mut stream).await?;
        seen.lock().expect("no panic").push(request);
        let behaviour = {
            let mut plan = plan.lock().expect("no panic");
            if plan.len() > 1 {
                plan.pop_front()
            } else {
                plan.front().cloned()
            }
        };
        match behaviour? {
            Behaviour::Answers(status, body) => {
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + &body).as_bytes()).await.ok()?;
            }
            Behaviour::Hangs => std::future::pending().await,
            Behaviour::Stalls => {
                let half = b"HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{\"result\":";
                stream.write_all(half).await.ok()?;
                std::future::pending::<()>().await;
            }
            Behaviour::Closes => return None,
            Behaviour::Floods => {
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head).await.ok()?;
                let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
                loop {
                    stream.write_all(chunk.as_bytes()).await.ok()?;
                }
            }
            Behaviour::Babbles => {
                stream
                    .write_all(b"220 mail.example ESMTP\r\n\r\n")
                    .await
                    .ok()?;
            }
        }
    }
}

async fn request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..at]).to_lowercase();
            let length = head
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.lines().next()?.parse().ok())
                .unwrap_or(0);
            let body = &bytes[at + 4..];
            if body.len() >= length {
                let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
                let body = String::from_utf8_lossy(body).into_owned();
                return Some(Seen { head, body });
            }
        }
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.ok()?;
        if count == 0 {
            return None;
        }
        bytes.extend_from_slice(&buffer[..count]);
    }
}
