//! The servers behind the store: finds the primary of a slot, sends it commands, and repeats what can be repeated.
//!
//! **Invariants**
//! - Nothing blocks longer than the timeout of the options, whatever servers do.
//! - A command is sent again after MOVED, ASK, READONLY, LOADING, CLUSTERDOWN, MASTERDOWN, TRYAGAIN and NOSCRIPT, which say that it was
//!   not done; and after the loss of a connection, which does not: **so every command must do no harm the second time**.
//! - The commands of one slot in one call reach its server in their order; after a redirection one may come later than the next.
//!   So what depends on an order is one script, or two calls.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::{Cmd, ServerError, Value};

use crate::engine::redis::confirm::{check_confirmation, confirmation_command};
pub use crate::engine::redis::error::ServersError;
use crate::engine::redis::error::{said, unreachable_server};
use crate::engine::redis::link::{Deadline, Link};
use crate::engine::redis::options::{Address, ConnectOptions, Policy};
use crate::engine::redis::topology::{Topology, redirection, role, text};

/// Pause before the first repetition that waits for something to change; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest pause between repetitions.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Redirections that are followed without a pause.
const REDIRECTIONS: u32 = 4;

/// A command on its way to the primary of a slot.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which slot.
    pub slot: u16,
    /// The command, packed.
    pub packed: Vec<u8>,
    /// Where in `packed` a byte `0` is to become `1` when the command is sent again, so that it writes something even if it finds all
    /// done: WAIT on a new connection would else wait for nothing.
    pub again: Option<usize>,
}

impl Request {
    /// A command for a slot.
    pub fn new(slot: u16, command: &Cmd) -> Self {
        Self {
            slot,
            packed: command.get_packed_command(),
            again: None,
        }
    }

    fn mark_again(&mut self) {
        if let Some(flag) = self.again.and_then(|at| self.packed.get_mut(at)) {
            *flag = b'1';
        }
    }
}

/// The servers, with one connection to each that was needed. Not to be shared: whoever has it blocks in it.
pub struct Servers {
    options: ConnectOptions,
    /// Scripts that EVALSHA may name.
    scripts: &'static [&'static str],
    pipeline_bytes_max: usize,
    links: BTreeMap<Address, Link>,
    topology: Option<Topology>,
    /// Which server is asked first for the next topology: a dead one is not asked twice in a row.
    first_asked: usize,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let primaries = self.topology.as_ref().map(|known| &known.primaries);
        let mut shown = formatter.debug_struct("Servers");
        shown.field("options", &self.options);
        shown.field("topology", &primaries).finish_non_exhaustive()
    }
}

/// What one server is to do in one attempt.
struct Group {
    server: Address,
    /// Indices of the requests.
    requests: Vec<usize>,
    /// True for requests that another server sent here for once (ASK).
    asking: bool,
}

/// What became of an attempt.
#[derive(Default)]
struct Attempt {
    /// The last thing that stood in the way and may pass.
    trouble: Option<ServersError>,
    /// True exactly when all that stood in the way is a redirection that is known now.
    only_redirected: bool,
    /// What no repetition changes.
    refused: Option<ServersError>,
    asking: BTreeMap<usize, Address>,
    /// True exactly when the topology is out of date.
    refresh: bool,
}

impl Servers {
    /// Connects to nothing yet. `scripts` are loaded on a server that does not know one.
    pub fn new(options: ConnectOptions, scripts: &'static [&'static str]) -> Self {
        Self {
            options,
            scripts,
            pipeline_bytes_max: 1 << 20,
            links: BTreeMap::new(),
            topology: None,
            first_asked: 0,
        }
    }

    /// Sends so many bytes to a server before its replies are read; 1 MiB unless set.
    pub fn with_pipeline_bytes_max(mut self, bytes: usize) -> Self {
        self.pipeline_bytes_max = bytes;
        self
    }

    /// The options.
    pub fn options(&self) -> &ConnectOptions {
        &self.options
    }

    /// True for a cluster, false for one primary that has all slots.
    ///
    /// # Errors
    /// No server says so.
    pub fn is_cluster(&mut self) -> Result<bool, ServersError> {
        let deadline = Deadline::after(self.options.timeout);
        Ok(self.known_topology(deadline)?.is_cluster)
    }

    /// The primaries, asked for anew.
    ///
    /// # Errors
    /// No server knows them.
    pub fn primaries(&mut self) -> Result<Vec<Address>, ServersError> {
        let deadline = Deadline::after(self.options.timeout);
        self.topology = None;
        Ok(self.known_topology(deadline)?.primaries.clone())
    }

    /// One command to the primary of a slot, repeated until it is done, refused or late. Use `cluster::partition::partition_of` of the
    /// text within the braces of the key for the slot.
    ///
    /// # Errors
    /// See [`ServersError`]. It may have been done all the same.
    pub fn call(&mut self, slot: u16, command: &Cmd) -> Result<Value, ServersError> {
        let mut replies = self.call_many(&mut [Request::new(slot, command)], Policy::Memory)?;
        Ok(replies.pop().unwrap_or(Value::Nil))
    }

    /// One command to one server, whatever its role; not repeated.
    ///
    /// # Errors
    /// See [`ServersError`]. An error that the server answers is [`ServersError::Refused`], [`ServersError::Full`] or
    /// [`ServersError::Unavailable`].
    pub fn call_at(&mut self, server: &Address, command: &Cmd) -> Result<Value, ServersError> {
        let deadline = Deadline::after(self.options.timeout);
        let reply = self.call_link(server, &command.get_packed_command(), deadline)?;
        match reply {
            Value::ServerError(error) => Err(said(server, &error)),
            reply => Ok(reply),
        }
    }

    /// Commands to the primaries of their slots, pipelined, all servers at once; and confirmed as the policy wants, by each server that
    /// got one. Returns the replies in the order of the requests.
    ///
    /// # Errors
    /// See [`ServersError`]: some may have been done. Sent again, the requests have to be marked by [`mark_all_again`].
    pub fn call_many(
        &mut self,
        requests: &mut [Request],
        policy: Policy,
    ) -> Result<Vec<Value>, ServersError> {
        let deadline = Deadline::after(self.options.timeout);
        let mut replies: Vec<Option<Value>> = requests.iter().map(|_| None).collect();
        let mut asking = BTreeMap::new();
        let (mut pause, mut redirections) = (PAUSE_MIN, 0);
        while replies.iter().any(Option::is_none) {
            let mut attempt = Attempt::default();
            match self.groups(requests, &replies, &asking, deadline) {
                Ok(groups) => {
                    attempt.only_redirected = true;
                    self.exchange(
                        groups,
                        requests,
                        &mut replies,
                        policy,
                        (&mut attempt, deadline),
                    );
                }
                Err(error) => {
                    attempt.refresh = true;
                    attempt.trouble = Some(error);
                }
            }
            if let Some(refused) = attempt.refused {
                return Err(refused);
            }
            asking = attempt.asking;
            if attempt.refresh {
                self.topology = None;
                self.first_asked += 1;
            }
            let Some(trouble) = attempt.trouble else {
                continue;
            };
            if deadline.has_passed() {
                return Err(trouble);
            }
            redirections += 1;
            if !attempt.only_redirected || redirections > REDIRECTIONS {
                deadline.pause(pause);
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        Ok(replies.into_iter().flatten().collect())
    }

    /// Waits until what was written on the connections there are is where the policy wants it.
    ///
    /// # Errors
    /// See [`ServersError`].
    pub(super) fn confirm(&mut self, policy: Policy) -> Result<(), ServersError> {
        if policy == Policy::Memory {
            return Ok(());
        }
        let deadline = Deadline::after(self.options.timeout);
        let servers: Vec<_> = self.links.keys().cloned().collect();
        for server in servers {
            let packed = confirmation_command(policy, deadline.left());
            let reply = self.call_link(&server, &packed, deadline)?;
            check_confirmation(policy, &reply, &server)
                .inspect_err(|error| self.leave(&server, error))?;
        }
        Ok(())
    }

    /// A server that does not confirm is no primary any more, unless it is only late, and would say so for ever.
    fn leave(&mut self, server: &Address, error: &ServersError) {
        if !matches!(error, ServersError::Unconfirmed { .. }) {
            self.links.remove(server);
            self.topology = None;
        }
    }

    /// Whom the requests without a reply go to.
    fn groups(
        &mut self,
        requests: &[Request],
        replies: &[Option<Value>],
        asking: &BTreeMap<usize, Address>,
        deadline: Deadline,
    ) -> Result<Vec<Group>, ServersError> {
        let topology = self.known_topology(deadline)?;
        let mut groups: BTreeMap<(bool, Address), Vec<usize>> = BTreeMap::new();
        let waiting = replies
            .iter()
            .enumerate()
            .filter(|(_, reply)| reply.is_none());
        for (index, _) in waiting {
            let slot = requests[index].slot;
            let key = match asking.get(&index) {
                Some(server) => (true, server.clone()),
                None => {
                    let server =
                        topology
                            .primary_of(slot)
                            .ok_or_else(|| ServersError::Unavailable {
                                server: "the cluster".to_owned(),
                                detail: format!("no server has slot {slot}"),
                            })?;
                    (false, server.clone())
                }
            };
            groups.entry(key).or_default().push(index);
        }
        let group = |((asking, server), requests)| Group {
            server,
            requests,
            asking,
        };
        Ok(groups.into_iter().map(group).collect())
    }

    /// One attempt: a pipeline to every server, then its replies, as often as the bound of pipelines makes it; then the confirmations.
    fn exchange(
        &mut self,
        groups: Vec<Group>,
        requests: &mut [Request],
        replies: &mut [Option<Value>],
        policy: Policy,
        (attempt, deadline): (&mut Attempt, Deadline),
    ) {
        let mut rounds: Vec<_> = groups.iter().map(|group| (group, 0, 0, true)).collect();
        loop {
            let mut busy = false;
            for (group, done, end, works) in &mut rounds {
                if *works && *done < group.requests.len() {
                    *end = self.pipeline_end(group, *done, requests);
                    let packed = pack(group, *done..*end, requests);
                    let sent = self.send_to(&group.server, &packed, deadline);
                    *works = attempt.check(sent);
                    busy = true;
                }
            }
            if !busy {
                break;
            }
            for (group, done, end, works) in &mut rounds {
                if !*works || done == end {
                    continue;
                }
                let last = *end == group.requests.len();
                let got = self.receive_from(
                    group,
                    *done..*end,
                    replies,
                    (last, policy),
                    attempt,
                    deadline,
                );
                *works = attempt.check(got);
                *done = *end;
            }
        }
        for (group, _, _, works) in rounds {
            if works {
                continue;
            }
            self.links.remove(&group.server);
            attempt.refresh = true;
            attempt.only_redirected = false;
            for &index in &group.requests {
                // Without its confirmation a reply says nothing.
                if policy != Policy::Memory {
                    replies[index] = None;
                }
                if replies[index].is_none() {
                    requests[index].mark_again();
                }
            }
        }
    }

    /// Where the pipeline that begins at `start` ends.
    fn pipeline_end(&self, group: &Group, start: usize, requests: &[Request]) -> usize {
        let mut bytes = 0;
        let fits = |index: &&usize| {
            let before = bytes;
            bytes += requests[**index].packed.len();
            before < self.pipeline_bytes_max
        };
        start + group.requests[start..].iter().take_while(fits).count()
    }

    fn send_to(
        &mut self,
        server: &Address,
        packed: &[u8],
        deadline: Deadline,
    ) -> Result<(), ServersError> {
        self.link(server, deadline)?
            .send(packed, deadline)
            .map_err(|error| unreachable_server(server, &error))
    }

    /// Reads the replies of one pipeline, and behind the last one its confirmation.
    fn receive_from(
        &mut self,
        group: &Group,
        range: std::ops::Range<usize>,
        replies: &mut [Option<Value>],
        (last, policy): (bool, Policy),
        attempt: &mut Attempt,
        deadline: Deadline,
    ) -> Result<(), ServersError> {
        let server = &group.server;
        let link = self.link(server, deadline)?;
        let per_request = if group.asking { 2 } else { 1 };
        let mut errors = Vec::new();
        link.receive(range.len() * per_request, deadline, |position, reply| {
            if position % per_request + 1 < per_request {
                return; // The reply to ASKING.
            }
            let index = group.requests[range.start + position / per_request];
            match reply {
                Value::ServerError(error) => errors.push((index, error)),
                reply => replies[index] = Some(reply),
            }
        })
        .map_err(|error| unreachable_server(server, &error))?;
        let mut confirmation = Ok(());
        if last && policy != Policy::Memory {
            let packed = confirmation_command(policy, deadline.left());
            let reply = link
                .call(&packed, deadline)
                .map_err(|error| unreachable_server(server, &error))?;
            confirmation = check_confirmation(policy, &reply, server);
        }
        for (index, error) in errors {
            self.take_error(group, index, &error, (attempt, deadline))?;
        }
        confirmation
    }

    /// What an error of the server means for the request.
    fn take_error(
        &mut self,
        group: &Group,
        index: usize,
        error: &ServerError,
        (attempt, deadline): (&mut Attempt, Deadline),
    ) -> Result<(), ServersError> {
        let server = &group.server;
        let target = || redirection(error.details()?, server);
        match error.code() {
            "MOVED" => match (target(), error.details().and_then(slot_of_redirection)) {
                (Some(target), Some(slot)) => {
                    if let Some(topology) = &mut self.topology {
                        topology.moved(slot, &target);
                    }
                }
                _ => attempt.refresh = true,
            },
            "ASK" => match target() {
                Some(target) => {
                    attempt.asking.insert(index, target);
                }
                None => attempt.refresh = true,
            },
            "NOSCRIPT" => self.load_scripts(server, deadline)?,
            "LOADING" | "TRYAGAIN" | "NOREPLICAS" | "BUSY" => attempt.only_redirected = false,
            "READONLY" | "CLUSTERDOWN" | "MASTERDOWN" | "UNBLOCKED" => {
                attempt.only_redirected = false;
                attempt.refresh = true;
            }
            _ => attempt.refused = Some(said(server, error)),
        }
        attempt.trouble = Some(said(server, error));
        Ok(())
    }

    fn load_scripts(&mut self, server: &Address, deadline: Deadline) -> Result<(), ServersError> {
        for script in self.scripts {
            let mut command = redis::cmd("SCRIPT");
            command.arg("LOAD").arg(*script);
            let reply = self.call_link(server, &command.get_packed_command(), deadline)?;
            if let Value::ServerError(error) = reply {
                return Err(said(server, &error));
            }
        }
        Ok(())
    }

    fn call_link(
        &mut self,
        server: &Address,
        packed: &[u8],
        deadline: Deadline,
    ) -> Result<Value, ServersError> {
        let reply = self.link(server, deadline)?.call(packed, deadline);
        reply.map_err(|error| {
            self.links.remove(server);
            unreachable_server(server, &error)
        })
    }

    fn link(&mut self, server: &Address, deadline: Deadline) -> Result<&mut Link, ServersError> {
        match self.links.entry(server.clone()) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let link = Link::connect(&self.options, server, deadline)
                    .map_err(|error| unreachable_server(server, &error))?;
                Ok(entry.insert(link))
            }
        }
    }

    /// The topology; asks one server after the other when it is not known.
    fn known_topology(&mut self, deadline: Deadline) -> Result<&Topology, ServersError> {
        if self.topology.is_none() {
            let found = self.ask_topology(deadline)?;
            self.links
                .retain(|server, _| found.primaries.contains(server));
            self.topology = Some(found);
        }
        self.topology
            .as_ref()
            .ok_or_else(|| ServersError::Unavailable {
                server: "every server".to_owned(),
                detail: "no topology".to_owned(),
            })
    }

    fn ask_topology(&mut self, deadline: Deadline) -> Result<Topology, ServersError> {
        let mut candidates = self.options.seeds.clone();
        for known in self.links.keys() {
            if !candidates.contains(known) {
                candidates.push(known.clone());
            }
        }
        let count = candidates.len();
        candidates.rotate_left(self.first_asked % count.max(1));
        let mut primaries: Vec<Address> = Vec::new();
        let mut last_error = None;
        let mut next = 0;
        while let Some(server) = candidates.get(next).cloned() {
            next += 1;
            if deadline.has_passed() {
                break;
            }
            match self.ask(&server, deadline) {
                Ok(Answer::Cluster(topology)) => return Ok(topology),
                Ok(Answer::Primary) => primaries.push(server),
                Ok(Answer::Replica(primary)) => {
                    let unknown = primary.filter(|primary| !candidates.contains(primary));
                    candidates.extend(unknown.filter(|_| next < 2 * count));
                }
                Err(error) => {
                    self.links.remove(&server);
                    self.first_asked += 1;
                    last_error = Some(error);
                }
            }
        }
        match primaries.as_slice() {
            [primary] => Ok(Topology::single(primary.clone())),
            [one, other, ..] => Err(ServersError::Unavailable {
                server: format!("{one} and {other}"),
                detail: "both say that they are the primary; make one a replica of the other"
                    .to_owned(),
            }),
            [] => Err(last_error.unwrap_or_else(|| ServersError::Unavailable {
                server: "every server".to_owned(),
                detail: "none is a primary".to_owned(),
            })),
        }
    }

    fn ask(&mut self, server: &Address, deadline: Deadline) -> Result<Answer, ServersError> {
        // A server that hangs must not take the time of the others.
        let deadline = Deadline::after(deadline.left().min(self.options.timeout / 4));
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let reply = self.call_link(server, &command.get_packed_command(), deadline)?;
        if let Some(topology) = Topology::parse(&reply, server) {
            return Ok(Answer::Cluster(topology));
        }
        let mut command = redis::cmd("INFO");
        command.arg("replication");
        match self.call_link(server, &command.get_packed_command(), deadline)? {
            Value::ServerError(error) => Err(said(server, &error)),
            reply => Ok(match role(text(&reply).unwrap_or_default()) {
                Ok(()) => Answer::Primary,
                Err(primary) => Answer::Replica(primary),
            }),
        }
    }
}

/// What a server says about itself.
enum Answer {
    Cluster(Topology),
    Primary,
    Replica(Option<Address>),
}

impl Attempt {
    /// True when it went well; else remembers why not.
    fn check(&mut self, result: Result<(), ServersError>) -> bool {
        match result {
            Ok(()) => true,
            // The time for it has gone by: nothing else that would be tried now tells more.
            Err(error @ ServersError::Unconfirmed { .. }) => {
                self.refused = Some(error);
                false
            }
            Err(error) => {
                self.trouble = Some(error);
                false
            }
        }
    }
}

/// Marks requests that are sent again in a call of their own.
pub fn mark_all_again(requests: &mut [Request]) {
    requests.iter_mut().for_each(Request::mark_again);
}

fn pack(group: &Group, range: std::ops::Range<usize>, requests: &[Request]) -> Vec<u8> {
    let mut packed = Vec::new();
    for &index in &group.requests[range] {
        if group.asking {
            packed.extend_from_slice(b"*1\r\n$6\r\nASKING\r\n");
        }
        packed.extend_from_slice(&requests[index].packed);
    }
    packed
}

fn slot_of_redirection(detail: &str) -> Option<u16> {
    detail.split_once(' ')?.0.parse().ok()
}
