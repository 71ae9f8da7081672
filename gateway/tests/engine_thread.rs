//! The engine thread: batches, order, full cores, failing disks, the end.

mod engine_support;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use edge_proto::packet::QoS;
use engine_support::{Rng, limits, message, options, restored};
use gateway::engine::claim::MessageId;
use gateway::engine::embedded::Embedded;
use gateway::engine::memory::{Fault, Memory};
use gateway::engine::status::EngineState;
use gateway::engine::thread::{
    CommandSender, CompletionSink, EngineEvent, EngineThread, StopReport, ThreadLimits,
};
use gateway::engine::{
    Append, Command, Completion, Delivery, Engine, EngineError, Restored, RetainChange,
    SessionRecord, Token, WhenFull,
};
use gateway::message::SessionId;

/// What cores have received, with the room each has left.
#[derive(Clone, Default)]
struct Cores(Arc<(Mutex<Vec<Core>>, Condvar)>);

#[derive(Default)]
struct Core {
    received: VecDeque<Completion>,
    room: usize,
}

impl Cores {
    fn new(cores: usize, room: usize) -> Self {
        let core = || Core {
            room,
            ..Core::default()
        };
        Self(Arc::new((
            Mutex::new((0..cores).map(|_| core()).collect()),
            Condvar::new(),
        )))
    }

    /// Waits for the next completion of a core.
    fn next(&self, core: usize) -> Completion {
        let (cores, changed) = &*self.0;
        let mut cores = cores.lock().expect("is not poisoned");
        loop {
            if let Some(completion) = cores[core].received.pop_front() {
                return completion;
            }
            cores = changed.wait(cores).expect("is not poisoned");
        }
    }

    fn add_room(&self, core: usize, room: usize) {
        self.0.0.lock().expect("is not poisoned")[core].room += room;
    }

    fn received(&self, core: usize) -> usize {
        self.0.0.lock().expect("is not poisoned")[core]
            .received
            .len()
    }
}

impl CompletionSink for Cores {
    fn deliver(&mut self, core: u16, completion: Completion) -> Result<(), Completion> {
        let core = &mut self.0.0.lock().expect("is not poisoned")[usize::from(core)];
        if core.room == 0 {
            return Err(completion);
        }
        core.room -= 1;
        core.received.push_back(completion);
        Ok(())
    }

    fn wake(&mut self, _core: u16) {
        let _cores = self.0.0.lock().expect("is not poisoned");
        self.0.1.notify_all();
    }
}

/// A memory whose faults are set from outside, and that outlives its thread.
#[derive(Clone)]
struct Shared(Arc<Mutex<Memory>>);

impl Shared {
    fn new() -> Self {
        let mut limits = limits(WhenFull::Reject);
        limits.messages_max = 1_000_000;
        limits.bytes_max = u64::MAX;
        Self(Arc::new(Mutex::new(Memory::new(limits, 0))))
    }

    fn set_fault(&self, fault: Option<Fault>) {
        self.0.lock().expect("is not poisoned").set_fault(fault);
    }
}

impl Engine for Shared {
    fn boot_count(&self) -> u32 {
        1
    }

    fn restore(&mut self, sink: &mut dyn FnMut(Restored)) -> Result<(), EngineError> {
        self.0.lock().expect("is not poisoned").restore(sink)
    }

    fn commit(
        &mut self,
        batch: u64,
        unix_ms: u64,
        commands: &[(u16, Command)],
        completions: &mut Vec<(u16, Completion)>,
    ) -> Result<(), EngineError> {
        let mut memory = self.0.lock().expect("is not poisoned");
        memory.commit(batch, unix_ms, commands, completions)
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        self.0.lock().expect("is not poisoned").sync()
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

fn put(session: u64) -> Command {
    let record = SessionRecord {
        client_id: "c".into(),
        user: None,
        expiry_s: 1,
        disconnected_at_unix_ms: None,
        will: None,
    };
    Command::PutSession {
        token: Token(session),
        session: SessionId(session),
        record: Box::new(record),
    }
}

fn publish(token: u64, session: u64, home: u16) -> Command {
    let delivery = Delivery {
        qos: QoS::AtLeastOnce,
        retain: false,
        subscription_ids: Box::default(),
    };
    Command::Publish {
        token: Token(token),
        id: MessageId::NONE,
        retry: false,
        message: message(&mut Rng(token)),
        appends: vec![Append {
            session: SessionId(session),
            home,
            delivery,
        }],
        received: None,
        retain: RetainChange::None,
    }
}

fn send(sender: &CommandSender, mut command: Command) {
    while let Err(refused) = sender.try_send(command) {
        command = refused;
        std::thread::yield_now();
    }
}

fn start(
    engine: impl Engine + Send + 'static,
    cores: &Cores,
    count: u16,
    limits: ThreadLimits,
) -> (EngineThread, Vec<CommandSender>, mpsc::Receiver<String>) {
    start_with(engine, cores, 0..count, limits)
}

fn start_with(
    engine: impl Engine + Send + 'static,
    cores: &Cores,
    numbers: Range<u16>,
    limits: ThreadLimits,
) -> (EngineThread, Vec<CommandSender>, mpsc::Receiver<String>) {
    let (events, log) = mpsc::channel();
    let on_event = move |event: EngineEvent<'_>| {
        let _ = events.send(match event {
            EngineEvent::Failing { error } => format!("failing: {error}"),
            EngineEvent::Recovered { .. } => "recovered".to_owned(),
        });
    };
    let (thread, senders) =
        EngineThread::spawn(engine, numbers, limits, cores.clone(), on_event).expect("starts");
    (thread, senders, log)
}

#[test]
fn many_cores_get_every_answer_in_their_order() {
    const COUNT: u64 = 1_000;
    let cores = Cores::new(3, usize::MAX);
    let limits = ThreadLimits {
        queue_commands: 64,
        ..ThreadLimits::default()
    };
    let (thread, senders, _log) = start(Shared::new(), &cores, 3, limits);
    send(&senders[2], put(1));
    assert!(matches!(
        cores.next(2),
        Completion::Done { token: Token(1) }
    ));
    std::thread::scope(|scope| {
        for sender in &senders[..2] {
            scope.spawn(move || (0..COUNT).for_each(|token| send(sender, publish(token, 1, 2))));
        }
    });
    for core in 0..2 {
        for expected in 0..COUNT {
            match cores.next(core) {
                Completion::Published { token, rejected: 0 } => assert_eq!(token, Token(expected)),
                other => panic!("not the answer: {other:?}"),
            }
        }
    }
    for expected in 1..=2 * COUNT {
        match cores.next(2) {
            Completion::Appended { sequence, .. } => assert_eq!(sequence, expected),
            other => panic!("not the message: {other:?}"),
        }
    }
    let counters = thread.status().counters();
    assert_eq!(counters.commands, 2 * COUNT + 1);
    assert_eq!(
        counters.commit_latency.iter().sum::<u64>(),
        counters.commits
    );
    assert_eq!(thread.queued(), 0);
    assert_eq!(thread.stop(), StopReport::default());
}

/// In a cluster the cores of a node have numbers of their own, and the engine names the home of a mailbox by its number.
#[test]
fn cores_are_known_by_their_numbers() {
    let cores = Cores::new(2, usize::MAX);
    let (thread, senders, _log) = start_with(Shared::new(), &cores, 7..9, ThreadLimits::default());
    send(&senders[0], put(1));
    send(&senders[0], publish(2, 1, 8));
    assert!(matches!(
        cores.next(0),
        Completion::Done { token: Token(1) }
    ));
    let published = cores.next(0);
    assert!(
        matches!(
            published,
            Completion::Published {
                token: Token(2),
                ..
            }
        ),
        "{published:?}"
    );
    assert!(matches!(cores.next(1), Completion::Appended { .. }));
    assert_eq!(thread.stop(), StopReport::default());
}

#[test]
fn a_core_without_room_loses_nothing_and_holds_up_no_other() {
    let cores = Cores::new(2, 0);
    cores.add_room(1, usize::MAX);
    let (thread, senders, _log) = start(Shared::new(), &cores, 2, ThreadLimits::default());
    send(&senders[0], put(1));
    (0..100).for_each(|token| send(&senders[0], publish(token, 1, 0)));
    send(&senders[1], put(2));
    assert!(matches!(
        cores.next(1),
        Completion::Done { token: Token(2) }
    ));
    assert_eq!(cores.received(0), 0);
    cores.add_room(0, usize::MAX);
    senders[0].wake();
    assert!(matches!(
        cores.next(0),
        Completion::Done { token: Token(1) }
    ));
    for expected in 0..100 {
        assert!(
            matches!(cores.next(0), Completion::Appended { sequence, .. } if sequence == expected + 1)
        );
        assert!(
            matches!(cores.next(0), Completion::Published { token, .. } if token == Token(expected))
        );
    }
    assert_eq!(thread.stop(), StopReport::default());
}

#[test]
fn a_full_queue_gives_the_command_back() {
    let cores = Cores::new(1, usize::MAX);
    let engine = Shared::new();
    engine.set_fault(Some(Fault::Full));
    let limits = ThreadLimits {
        queue_commands: 4,
        batch_commands: 2,
        ..ThreadLimits::default()
    };
    let (thread, senders, log) = start(engine.clone(), &cores, 1, limits);
    let mut accepted = 0;
    while senders[0].try_send(put(accepted + 1)).is_ok() || log.try_recv().is_err() {
        accepted = (accepted + 1).min(6);
    }
    engine.set_fault(None);
    assert!(matches!(
        cores.next(0),
        Completion::Done { token: Token(1) }
    ));
    assert_eq!(thread.stop().uncommitted, 0);
}

#[test]
fn a_queue_is_bounded_by_the_bytes_of_its_commands_too() {
    let cores = Cores::new(1, usize::MAX);
    let engine = Shared::new();
    engine.set_fault(Some(Fault::Full));
    let limits = ThreadLimits {
        queue_bytes: 1,
        batch_commands: 1,
        ..ThreadLimits::default()
    };
    let (thread, senders, log) = start(engine.clone(), &cores, 1, limits);
    send(&senders[0], publish(1, 1, 0));
    log.recv().expect("the thread has taken it and failed");
    assert!(senders[0].try_send(publish(2, 1, 0)).is_ok());
    assert!(senders[0].try_send(publish(3, 1, 0)).is_err());
    engine.set_fault(None);
    for token in [1, 2] {
        assert!(
            matches!(cores.next(0), Completion::Published { token: done, .. } if done == Token(token))
        );
    }
    assert!(senders[0].try_send(publish(3, 1, 0)).is_ok());
    assert_eq!(thread.stop().uncommitted, 0);
}

#[test]
fn failing_commits_are_told_once_and_their_batch_is_applied_once() {
    for fault in [Fault::Full, Fault::Io, Fault::IoAfterApply] {
        let cores = Cores::new(1, usize::MAX);
        let engine = Shared::new();
        let (thread, senders, log) = start(engine.clone(), &cores, 1, ThreadLimits::default());
        send(&senders[0], put(1));
        assert!(matches!(cores.next(0), Completion::Done { .. }));
        engine.set_fault(Some(fault));
        send(&senders[0], publish(1, 1, 0));
        let told = log.recv().expect("is told");
        assert_eq!(told.contains("no space"), fault == Fault::Full, "{told}");
        let status = thread.status();
        while status.counters().failures < 3 {
            std::thread::yield_now();
        }
        assert_ne!(status.state(), EngineState::Working);
        assert!(told.ends_with(&status.last_error().expect("there was one")));
        engine.set_fault(None);
        assert_eq!(log.recv().expect("is told"), "recovered");
        assert!(matches!(
            cores.next(0),
            Completion::Appended { sequence: 1, .. }
        ));
        assert!(matches!(cores.next(0), Completion::Published { .. }));
        assert_eq!(status.state(), EngineState::Working);
        assert_eq!(thread.stop(), StopReport::default());
        assert!(log.recv().is_err(), "nothing else was told");
        assert!(restored(&mut engine.clone()).contains("messages: 1"));
    }
}

#[test]
fn stopping_commits_what_is_queued() {
    let cores = Cores::new(1, usize::MAX);
    let mut engine = Shared::new();
    let (thread, senders, _log) = start(engine.clone(), &cores, 1, ThreadLimits::default());
    (1..=500).for_each(|session| send(&senders[0], put(session)));
    assert_eq!(thread.stop(), StopReport::default());
    assert_eq!(cores.received(0), 500);
    assert_eq!(restored(&mut engine).lines().count(), 500);
}

#[test]
fn stopping_ends_although_commits_fail_and_says_what_is_left() {
    let cores = Cores::new(1, usize::MAX);
    let engine = Shared::new();
    engine.set_fault(Some(Fault::Io));
    let limits = ThreadLimits {
        stop_timeout: Duration::from_millis(50),
        ..ThreadLimits::default()
    };
    let (thread, senders, _log) = start(engine, &cores, 1, limits);
    (1..=5).for_each(|session| send(&senders[0], put(session)));
    let expected = StopReport {
        uncommitted: 5,
        undelivered: 0,
        unsynced: true,
    };
    assert_eq!(thread.stop(), expected);
}

#[test]
fn acknowledgements_alone_reach_the_disk_at_the_interval() {
    let disk = engine_support::disk::FaultyDisk::new(1);
    let store = || {
        Embedded::open_on(disk.storage(), "(test)", options(WhenFull::Reject), 0).expect("opens")
    };
    let cores = Cores::new(1, usize::MAX);
    let limits = ThreadLimits {
        sync_interval: Duration::from_millis(10),
        ..ThreadLimits::default()
    };
    let (thread, senders, _log) = start(store(), &cores, 1, limits);
    send(&senders[0], put(1));
    send(&senders[0], publish(1, 1, 0));
    cores.next(0);
    assert!(matches!(
        cores.next(0),
        Completion::Appended { sequence: 1, .. }
    ));
    cores.next(0);
    let before = disk.operations();
    send(
        &senders[0],
        Command::Ack {
            session: SessionId(1),
            sequence: 1,
        },
    );
    while disk.operations() == before {
        std::thread::yield_now();
    }
    assert_eq!(thread.stop(), StopReport::default());
    assert!(restored(&mut store()).contains("messages: 0"));
}
