//! The connections of control links: each neighbour is dialled, and whoever dials is answered, over TCP at the addresses of gossip.
//!
//! ```text
//! dial ─▶ TLS ─▶ ControlLink::ask ─▶ asked every half second ─▶ ended ─▶ Report::Lost, a pause, dial again
//! accept ─▶ TLS ─▶ ControlLink::answer ─▶ answers ─▶ ended, or silent for 5 s
//! ```
//!
//! A task each, on the thread of the cluster part; what they hear goes to it as [`Report`]s.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cluster::control::{ControlError, ControlLink, Me, Said};
use cluster::hello::Refusal;
use cluster::limits::PEERS_MAX;
use cluster::view::{NodeId, Version, View};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::bus::identity::Identity;
use crate::bus::secure::{Progress, Secure, SecureError};
use crate::event_loop::Clock;

/// How long a dial, with the greeting, and a write may take.
const GREETING: Duration = Duration::from_secs(5);
const WRITE: Duration = Duration::from_secs(2);
/// Who asks nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(5);
/// The first pause before the next dial, and the longest one.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Accepted connections that have not said who they are. One more is closed at once.
const STRANGERS_MAX: usize = 64;
const READ_BYTES: usize = 16 << 10;

/// What a task of a link has to say.
#[derive(Debug)]
pub(super) enum Report {
    /// Another node said this.
    Said(Said),
    /// The link to this node has ended, or did not come about.
    Lost(NodeId),
    /// A node was refused.
    Refused(Refusal),
    /// This node was refused by another.
    RefusedByPeer(Refusal),
}

/// The view that is told to others.
pub(super) type Told = Option<(Version, Arc<View>)>;

/// What all tasks need.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) clock: Clock,
    pub(super) me: watch::Receiver<Me>,
    pub(super) identity: watch::Receiver<Identity>,
    pub(super) view: watch::Receiver<Told>,
    pub(super) reports: mpsc::Sender<Report>,
}

impl Common {
    fn version(&self) -> Option<Version> {
        self.view.borrow().as_ref().map(|(version, _)| *version)
    }

    async fn report(&self, report: Report) {
        let _ = self.reports.send(report).await; // The cluster part is ending.
    }
}

/// A neighbour that is dialled for as long as this exists.
pub(super) struct Dialled {
    pub(super) node: NodeId,
    pub(super) address: SocketAddr,
    pulls: mpsc::Sender<()>,
    task: AbortHandle,
}

impl Dialled {
    /// Begins to dial. To be called in the runtime of the cluster part.
    pub(super) fn begin(common: Common, node: NodeId, address: SocketAddr) -> Self {
        let (pulls, receiver) = mpsc::channel(1);
        let task = tokio::spawn(dial_for_ever(common, node, address, receiver)).abort_handle();
        Self {
            node,
            address,
            pulls,
            task,
        }
    }

    /// Asks for the node's view, once there is a connection.
    pub(super) fn pull(&self) {
        let _ = self.pulls.try_send(()); // One question waits already.
    }
}

impl Drop for Dialled {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Secure(#[from] SecureError),
    #[error(transparent)]
    Link(#[from] ControlError),
    #[error("no answer in time")]
    Slow,
    /// This node has other keys or is another incarnation: connections are made anew.
    #[error("this node has changed")]
    Changed,
}

async fn dial_for_ever(
    mut common: Common,
    node: NodeId,
    address: SocketAddr,
    mut pulls: mpsc::Receiver<()>,
) {
    let mut pause = PAUSE;
    let mut said = String::new();
    loop {
        let mut was_up = false;
        let end = dial(&mut common, node, address, &mut pulls, &mut was_up).await;
        if was_up {
            pause = PAUSE;
        }
        match &end {
            Err(End::Link(ControlError::Refused(refusal))) => {
                common.report(Report::Refused(*refusal)).await;
            }
            Err(End::Link(ControlError::RefusedByPeer(refusal))) => {
                common.report(Report::RefusedByPeer(*refusal)).await;
            }
            _ => {}
        }
        if let Err(error) = end
            && !matches!(error, End::Changed)
        {
            common.report(Report::Lost(node)).await;
            let error = error.to_string();
            if was_up || error != said {
                tracing::warn!(%node, %address, %error, "the control link to a node is down");
            }
            said = error;
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn dial(
    common: &mut Common,
    node: NodeId,
    address: SocketAddr,
    pulls: &mut mpsc::Receiver<()>,
    was_up: &mut bool,
) -> Result<(), End> {
    let greeting = async {
        let identity = common.identity.borrow_and_update().clone();
        let me = common.me.borrow_and_update().clone();
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut out = Vec::new();
        let secure = Secure::dial(&identity, node.uid, &mut out)?;
        stream.write_all(&out).await?;
        let mut wire = Wire::new(stream, secure);
        wire.handshake().await?;
        let mut hello = Vec::new();
        let link = ControlLink::ask(me, node, common.version(), &mut hello);
        wire.write(&hello).await?;
        Ok::<_, End>((wire, link))
    };
    let (mut wire, mut link) = timeout(GREETING, greeting).await.map_err(|_| End::Slow)??;
    carry(common, &mut wire, &mut link, Some(pulls), was_up).await
}

/// Answers whoever dials, for ever.
pub(super) async fn answer_all(listener: TcpListener, common: Common) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let everyone = Arc::new(Semaphore::new(PEERS_MAX + STRANGERS_MAX));
    let mut complained_ms: Option<u64> = None;
    let (complaints, mut complained) = mpsc::channel::<(SocketAddr, String)>(STRANGERS_MAX);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, remote)) = accepted else {
                    sleep(PAUSE).await; // No more files, perhaps.
                    continue;
                };
                let places = (
                    Arc::clone(&strangers).try_acquire_owned(),
                    Arc::clone(&everyone).try_acquire_owned(),
                );
                let (Ok(stranger), Ok(place)) = places else { continue };
                let (mut common, complaints) = (common.clone(), complaints.clone());
                tokio::spawn(async move {
                    let _place = place;
                    let end = answer(&mut common, stream, stranger).await;
                    if let Err(End::Link(ControlError::Refused(refusal))) = &end {
                        common.report(Report::Refused(*refusal)).await;
                    }
                    if let Err(error @ (End::Secure(_) | End::Link(_))) = end {
                        let _ = complaints.try_send((remote, error.to_string())); // Enough wait.
                    }
                });
            }
            Some((remote, error)) = complained.recv() => {
                let now_ms = common.clock.now().mono_ms;
                if complained_ms.is_none_or(|at_ms| now_ms >= at_ms + 10_000) {
                    complained_ms = Some(now_ms);
                    tracing::warn!(%remote, %error, "a control link of another node has ended; others are not logged for 10 s");
                }
            }
        }
    }
}

async fn answer(
    common: &mut Common,
    stream: TcpStream,
    stranger: tokio::sync::OwnedSemaphorePermit,
) -> Result<(), End> {
    let greeting = async {
        stream.set_nodelay(true)?;
        let identity = common.identity.borrow_and_update().clone();
        let me = common.me.borrow_and_update().clone();
        let mut wire = Wire::new(stream, Secure::accept(&identity)?);
        let uid = wire.handshake().await?;
        Ok::<_, End>((wire, ControlLink::answer(me, uid)))
    };
    let (mut wire, mut link) = timeout(GREETING, greeting).await.map_err(|_| End::Slow)??;
    drop(stranger); // It has the key.
    carry(common, &mut wire, &mut link, None, &mut false).await
}

/// A connection with TLS.
struct Wire {
    stream: TcpStream,
    secure: Secure,
    buffer: Vec<u8>,
    plain: Vec<u8>,
}

impl Wire {
    fn new(stream: TcpStream, secure: Secure) -> Self {
        Self {
            stream,
            secure,
            buffer: vec![0; READ_BYTES],
            plain: Vec::new(),
        }
    }

    /// Goes on until it is known who the other is.
    async fn handshake(&mut self) -> Result<u64, End> {
        loop {
            let read = self.stream.read(&mut self.buffer).await?;
            if let Progress::Secured(uid) = self.take(read).await? {
                return Ok(uid);
            }
        }
    }

    /// Bytes have come.
    async fn take(&mut self, read: usize) -> Result<Progress, End> {
        if read == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        let mut out = Vec::new();
        let bytes = &mut self.buffer[..read];
        let progress = self.secure.receive(bytes, &mut out, &mut self.plain);
        write_in_time(&mut self.stream, &out).await?;
        match progress? {
            Progress::Closed => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            progress => Ok(progress),
        }
    }

    async fn write(&mut self, plain: &[u8]) -> Result<(), End> {
        let mut sealed = Vec::new();
        self.secure.seal(plain, &mut sealed)?;
        write_in_time(&mut self.stream, &sealed).await
    }
}

async fn write_in_time(stream: &mut TcpStream, bytes: &[u8]) -> Result<(), End> {
    if bytes.is_empty() {
        return Ok(());
    }
    let written = timeout(WRITE, stream.write_all(bytes)).await;
    Ok(written.map_err(|_| End::Slow)??)
}

/// Speaks over a connection until it ends.
async fn carry(
    common: &mut Common,
    wire: &mut Wire,
    link: &mut ControlLink,
    mut pulls: Option<&mut mpsc::Receiver<()>>,
    was_up: &mut bool,
) -> Result<(), End> {
    let mut out = Vec::new();
    let mut heard = Instant::now();
    loop {
        hear(common, wire, link, &mut out).await?;
        *was_up |= link.peer().is_some();
        let now_ms = common.clock.now().mono_ms;
        let ticked = link.tick(now_ms, common.version(), &mut out);
        wire.write(&std::mem::take(&mut out)).await?;
        ticked?;
        let due_ms = link
            .next_deadline_ms()
            .map(|due_ms| due_ms.saturating_sub(now_ms));
        let due = due_ms.map_or(heard + SILENCE, |due_ms| {
            Instant::now() + Duration::from_millis(due_ms)
        });
        let pulled = async {
            match &mut pulls {
                Some(pulls) if link.peer().is_some() => pulls.recv().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            read = wire.stream.read(&mut wire.buffer) => {
                wire.take(read?).await?;
                heard = Instant::now();
            }
            Some(()) = pulled => { link.pull(&mut out); }
            Ok(()) = common.view.changed() => link.tell(common.version(), &mut out),
            Ok(()) = common.me.changed() => return Err(End::Changed),
            Ok(()) = common.identity.changed() => return Err(End::Changed),
            () = sleep_until(due) => {
                if due_ms.is_none() && heard.elapsed() >= SILENCE {
                    return Err(End::Slow);
                }
            }
        }
    }
}

/// Reads what has come and reports it. What is to be answered is appended to `out`.
async fn hear(
    common: &Common,
    wire: &mut Wire,
    link: &mut ControlLink,
    out: &mut Vec<u8>,
) -> Result<(), End> {
    let mut said = Vec::new();
    let plain = std::mem::take(&mut wire.plain);
    let result = link.receive(&plain, common.version(), out, &mut said);
    for said in said {
        if said == Said::Pull {
            let view = common.view.borrow().clone();
            link.give(view.as_ref().map(|(_, view)| &**view), out);
        } else {
            common.report(Report::Said(said)).await;
        }
    }
    if result.is_err() {
        wire.write(&std::mem::take(out)).await?;
    }
    Ok(result?)
}
