//! One bounded ring with one producer and one consumer.
//!
//! The indices run freely and are taken modulo the capacity. The producer owns the places from `tail` to `head + capacity`,
//! the consumer those from `head` to `tail`; publishing an index (release) hands places over, reading it (acquire) takes
//! them. The storage is allocated by the producer before it first publishes `tail`.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crossbeam_utils::CachePadded;

#[cfg(not(loom))]
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

#[cfg(loom)]
use loom::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

#[cfg(loom)]
use loom::cell::UnsafeCell;

/// The part of loom's cell that is used here.
#[cfg(not(loom))]
#[derive(Debug)]
struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}

type Place<T> = UnsafeCell<MaybeUninit<T>>;

#[derive(Debug)]
struct Shared<T> {
    head: CachePadded<AtomicUsize>,
    tail: CachePadded<AtomicUsize>,
    capacity: usize,
    /// Null until the first push; written by the producer only, before `tail` is first published.
    storage: UnsafeCell<Option<NonNull<Place<T>>>>,
}

// SAFETY: the two ends hand each place over with release and acquire on `head` and `tail`, so that no place is ever
// touched by both at once; the messages themselves move between threads, hence `T: Send`.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above; `Producer` and `Consumer` are not cloned, so that each side has one thread.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let Some(storage) = self.storage.with(|storage| {
            // SAFETY: `&mut self`: no other thread has this ring any more.
            unsafe { *storage }
        }) else {
            return;
        };
        let places = NonNull::slice_from_raw_parts(storage, self.capacity);
        // SAFETY: `storage` came from `Box::into_raw` of a slice of `capacity` places, and is given back once.
        let places = unsafe { Box::from_raw(places.as_ptr()) };
        let (mut head, tail) = (
            self.head.load(Ordering::Relaxed),
            self.tail.load(Ordering::Relaxed),
        );
        while head != tail {
            places[head & (self.capacity - 1)].with_mut(|place| {
                // SAFETY: places from `head` to `tail` hold a message, and each is dropped once here.
                unsafe { (*place).assume_init_drop() }
            });
            head = head.wrapping_add(1);
        }
    }
}

/// The end that pushes.
#[derive(Debug)]
pub(super) struct Producer<T> {
    shared: Arc<Shared<T>>,
    /// Copy of the storage pointer, `None` before the first push.
    storage: Option<NonNull<Place<T>>>,
    tail: usize,
    /// What `head` was when last looked at: a lower bound.
    head_seen: usize,
}

// SAFETY: the raw pointer is to storage that `shared` owns, and `Shared` is Send for `T: Send`.
unsafe impl<T: Send> Send for Producer<T> {}

/// The end that pops.
#[derive(Debug)]
pub(super) struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    /// What `tail` was when last looked at: a lower bound.
    tail_seen: usize,
}

/// A ring of at least `capacity` places.
pub(super) fn ring<T: Send>(capacity: u32) -> (Producer<T>, Consumer<T>) {
    let shared = Arc::new(Shared {
        head: CachePadded::new(AtomicUsize::new(0)),
        tail: CachePadded::new(AtomicUsize::new(0)),
        capacity: capacity.max(1).next_power_of_two() as usize,
        storage: UnsafeCell::new(None),
    });
    let producer = Producer {
        shared: Arc::clone(&shared),
        storage: None,
        tail: 0,
        head_seen: 0,
    };
    (
        producer,
        Consumer {
            shared,
            head: 0,
            tail_seen: 0,
        },
    )
}

impl<T: Send> Producer<T> {
    /// Gives the message back when the ring is full.
    pub(super) fn push(&mut self, message: T) -> Result<(), T> {
        if self.room_seen() == 0 && self.room() == 0 {
            return Err(message);
        }
        let storage = self.storage.unwrap_or_else(|| self.allocate());
        let index = self.tail & (self.shared.capacity - 1);
        // SAFETY: `index` is below `capacity`, the length of the storage, which lives as long as `shared`.
        let place = unsafe { storage.add(index).as_ref() };
        place.with_mut(|place| {
            // SAFETY: `tail - head < capacity`, so that this place is the producer's; the consumer touches it only after
            // the store to `tail` below.
            unsafe { (*place).write(message) };
        });
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Free places now.
    pub(super) fn room(&mut self) -> usize {
        self.head_seen = self.shared.head.load(Ordering::Acquire);
        self.room_seen()
    }

    fn room_seen(&self) -> usize {
        self.shared.capacity - self.tail.wrapping_sub(self.head_seen)
    }

    fn allocate(&mut self) -> NonNull<Place<T>> {
        let places: Box<[Place<T>]> = (0..self.shared.capacity)
            .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
            .collect();
        let storage = NonNull::from(Box::leak(places)).cast();
        self.shared.storage.with_mut(|shared| {
            // SAFETY: `tail` is still 0, so that the consumer does not read `storage` before the first publication.
            unsafe { *shared = Some(storage) };
        });
        self.storage = Some(storage);
        storage
    }
}

impl<T: Send> Consumer<T> {
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.head == self.tail_seen {
            self.tail_seen = self.shared.tail.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                return None;
            }
        }
        let storage = self.shared.storage.with(|storage| {
            // SAFETY: `tail` is above 0, and the producer wrote `storage` before it published that, never after.
            unsafe { *storage }
        })?;
        let index = self.head & (self.shared.capacity - 1);
        // SAFETY: `index` is below `capacity`, the length of the storage, which lives as long as `shared`.
        let place = unsafe { storage.add(index).as_ref() };
        let message = place.with(|place| {
            // SAFETY: `head` is below the published `tail`: the place holds a message, and it is read once, since `head`
            // moves on below before the producer may write here again.
            unsafe { (*place).assume_init_read() }
        });
        self.head = self.head.wrapping_add(1);
        self.shared.head.store(self.head, Ordering::Release);
        Some(message)
    }

    /// Place of the next message, counted from the first one on.
    pub(super) const fn head(&self) -> usize {
        self.head
    }

    /// Place behind the last message that its producer has published by now.
    pub(super) fn end(&self) -> usize {
        self.shared.tail.load(Ordering::Acquire)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head == self.tail_seen && self.shared.tail.load(Ordering::Acquire) == self.head
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    use super::*;
    use crate::mesh::marks::Marks;
    use crate::waker::SleepFlag;

    #[test]
    fn messages_arrive_in_order_through_a_ring_that_wraps() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring::<Box<u32>>(2);
            let sender = thread::spawn(move || {
                for number in 0..3 {
                    let mut message = Box::new(number);
                    while let Err(back) = producer.push(message) {
                        message = back;
                        thread::yield_now();
                    }
                }
            });
            for number in 0..3 {
                loop {
                    if let Some(message) = consumer.pop() {
                        assert_eq!(*message, number);
                        break;
                    }
                    thread::yield_now();
                }
            }
            assert!(consumer.is_empty());
            sender.join().expect("the sender does not panic");
        });
    }

    #[test]
    fn what_was_not_received_is_dropped_once() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring::<Arc<()>>(2);
            let message = Arc::new(());
            let copy = Arc::clone(&message);
            let sender = thread::spawn(move || drop(producer.push(copy)));
            drop(consumer.pop());
            drop(consumer);
            sender.join().expect("the sender does not panic");
            assert_eq!(Arc::strong_count(&message), 1);
        });
    }

    /// An eventfd: a count that a sleeper waits for.
    struct Eventfd {
        count: Mutex<u32>,
        changed: Condvar,
    }

    impl Eventfd {
        fn write(&self) {
            *self.count.lock().expect("not poisoned") += 1;
            self.changed.notify_one();
        }

        fn wait(&self) {
            let mut count = self.count.lock().expect("not poisoned");
            while *count == 0 {
                count = self.changed.wait(count).expect("not poisoned");
            }
            *count = 0;
        }
    }

    /// A driver that blocks with a message in its ring never wakes: loom reports that as a deadlock. The receiver looks into
    /// the ring only when the sender has marked it, as [`Port`](crate::mesh::Port) does.
    #[test]
    fn a_driver_about_to_block_does_not_miss_a_push() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring::<u32>(2);
            let marks = Arc::new(Marks::new(1));
            let senders_marks = Arc::clone(&marks);
            let flag = Arc::new(SleepFlag::new());
            let eventfd = Arc::new(Eventfd {
                count: Mutex::new(0),
                changed: Condvar::new(),
            });
            let (waker_flag, waker_eventfd) = (Arc::clone(&flag), Arc::clone(&eventfd));
            let sender = thread::spawn(move || {
                for number in 0..2 {
                    assert!(producer.push(number).is_ok());
                    senders_marks.set(0);
                    if waker_flag.notify() {
                        waker_eventfd.write();
                    }
                }
            });
            let mut next = 0;
            while next < 2 {
                marks.take(|_, _| {
                    while let Some(message) = consumer.pop() {
                        assert_eq!(message, next);
                        next += 1;
                    }
                });
                if next < 2 {
                    if flag.prepare_sleep() {
                        eventfd.wait();
                    }
                    flag.awake();
                }
            }
            sender.join().expect("the sender does not panic");
        });
    }
}
