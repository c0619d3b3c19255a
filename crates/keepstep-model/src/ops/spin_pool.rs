//! A thread pool whose threads wait for work without going to sleep.
//!
//! Decoding one token takes many small matmuls, each shorter than the time it takes to wake a sleeping thread. A pool
//! lives as long as one text is generated. Its threads spin for a moment between two jobs, and sleep if no job comes.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::Scope;

/// How often a thread checks the ticket before it goes to sleep: about a tenth of a millisecond.
const PATIENCE: u32 = 4_000;

type Work<'a> = dyn Fn(usize) + Sync + 'a;

/// A few threads, including the calling one.
pub struct SpinPool {
    /// The number of threads, including the calling one.
    size: usize,
    /// The job's number (upper half), how many of its parts are taken, and how many it has (16 bits each). The thread
    /// that increments the number of taken parts owns that part.
    ticket: AtomicU64,
    /// The job's work. It is written only while no part can be taken, and read only by threads that own a part.
    work: UnsafeCell<Option<*const Work<'static>>>,
    /// The number of finished parts of the job.
    finished: AtomicUsize,
    panicked: AtomicBool,
    dismissed: AtomicBool,
    asleep: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `work` is written only while no thread can own a part, and read only by threads that own one. All other
// fields are `Sync`.
unsafe impl Sync for SpinPool {}

impl SpinPool {
    fn new(size: usize) -> SpinPool {
        SpinPool {
            size,
            ticket: AtomicU64::new(0),
            work: UnsafeCell::new(None),
            finished: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            dismissed: AtomicBool::new(false),
            asleep: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Calls `work` with a pool of `threads` threads, including the calling one.
    pub fn scope<T>(threads: usize, work: impl FnOnce(&SpinPool) -> T) -> T {
        struct Dismiss<'a>(&'a SpinPool);
        impl Drop for Dismiss<'_> {
            fn drop(&mut self) {
                self.0.dismissed.store(true, Ordering::SeqCst);
                self.0.rouse();
            }
        }
        let pool = SpinPool::new(threads.max(1));
        std::thread::scope(|scope: &Scope<'_, '_>| {
            let dismiss = Dismiss(&pool);
            for _ in 1..threads {
                // If a thread cannot be started, the work takes longer and has the same result.
                let _ = std::thread::Builder::new().spawn_scoped(scope, || pool.serve());
            }
            let result = work(&pool);
            drop(dismiss);
            result
        })
    }

    /// Returns the number of threads, including the calling one.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Calls `work` on all threads, in any order, with each chunk of `len` values of `out` and the chunk's index. The
    /// last chunk may be shorter.
    pub fn chunks(&self, out: &mut [f32], len: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        #[derive(Clone, Copy)]
        struct Start(*mut f32);
        // SAFETY: the pointer is used only to make the chunks below, and each part of the job makes its own chunk.
        unsafe impl Sync for Start {}
        impl Start {
            fn at(&self, place: usize) -> *mut f32 {
                self.0.wrapping_add(place)
            }
        }
        let (start, total) = (Start(out.as_mut_ptr()), out.len());
        let parts = total.div_ceil(len);
        let part = |index: usize| {
            let first = index * len;
            // SAFETY: the chunks are disjoint and lie within `out`, which is borrowed until all parts are finished.
            let chunk = unsafe { std::slice::from_raw_parts_mut(start.at(first), len.min(total - first)) };
            work(index, chunk);
        };
        if parts <= 1 { (0..parts).for_each(part) } else { self.share(parts, &part) }
    }

    /// Calls `work` on all threads, in any order, with each of the items.
    pub fn for_each<T: Send>(&self, items: Vec<T>, work: impl Fn(T) + Sync) {
        if items.len() <= 1 {
            return items.into_iter().for_each(work);
        }
        let items: Vec<_> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        self.share(items.len(), &|index| {
            if let Some(item) = items[index].lock().unwrap_or_else(PoisonError::into_inner).take() {
                work(item);
            }
        });
    }

    fn share(&self, parts: usize, work: &Work<'_>) {
        /// Waits until no thread works on the job any more, even if the calling thread panics.
        struct Finish<'a>(&'a SpinPool, usize);
        impl Drop for Finish<'_> {
            fn drop(&mut self) {
                while self.0.take().is_some() {
                    self.0.finished.fetch_add(1, Ordering::Release);
                }
                let mut looks = 0_u32;
                while self.0.finished.load(Ordering::Acquire) < self.1 {
                    pause(&mut looks);
                }
            }
        }
        assert!(parts < 1 << 16, "too many parts");
        // SAFETY: only the lifetime changes. Only owners of parts use the pointer, and `Finish` waits for all of them.
        let work: *const Work<'static> =
            unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
        // SAFETY: all parts of the last job are finished, and no part of this one can be taken before the ticket
        // changes.
        unsafe { *self.work.get() = Some(work) };
        self.finished.store(0, Ordering::Relaxed);
        let job = (self.ticket.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        self.ticket.store(job << 32 | parts as u64, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) > 0 {
            self.rouse();
        }
        let finish = Finish(self, parts);
        while let Some(part) = self.take() {
            let done = Done(self);
            // SAFETY: `take` has made this thread the owner of the part.
            unsafe { self.call(part) };
            drop(done);
        }
        drop(finish);
        assert!(!self.panicked.load(Ordering::Relaxed), "a thread of the pool panicked");
    }

    /// Takes the next part of the job, if any is left.
    fn take(&self) -> Option<usize> {
        let mut ticket = self.ticket.load(Ordering::Acquire);
        loop {
            let (taken, parts) = (ticket >> 16 & 0xFFFF, ticket & 0xFFFF);
            if taken >= parts {
                return None;
            }
            match self.ticket.compare_exchange_weak(
                ticket,
                ticket + (1 << 16),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(taken as usize),
                Err(now) => ticket = now,
            }
        }
    }

    /// # Safety
    /// The caller must own the part and must not have finished it.
    unsafe fn call(&self, part: usize) {
        // SAFETY: until this part is finished, the job cannot end and its work cannot be replaced.
        if let Some(work) = unsafe { *self.work.get() } {
            // SAFETY: the pointer is valid until `Finish` has seen every part finished, and this part is unfinished.
            unsafe { (*work)(part) };
        }
    }

    /// Runs parts of jobs until the pool is dismissed.
    fn serve(&self) {
        let mut looks = 0;
        while !self.dismissed.load(Ordering::Relaxed) {
            if let Some(part) = self.take() {
                let _done = Done(self);
                // SAFETY: `take` has made this thread the owner of the part.
                unsafe { self.call(part) };
                looks = 0;
            } else if looks < PATIENCE {
                looks += 1;
                std::hint::spin_loop();
            } else {
                self.sleep();
                looks = 0;
            }
        }
    }

    fn sleep(&self) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        let ticket = self.ticket.load(Ordering::SeqCst);
        let is_idle = ticket >> 16 & 0xFFFF >= ticket & 0xFFFF && !self.dismissed.load(Ordering::SeqCst);
        if is_idle {
            // After a spurious wake-up, the loop checks the ticket again.
            drop(self.wake.wait(guard));
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }

    fn rouse(&self) {
        drop(self.lock.lock());
        self.wake.notify_all();
    }
}

/// Marks a part as finished when dropped, even if the part panicked.
struct Done<'a>(&'a SpinPool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.store(true, Ordering::Relaxed);
        }
        self.0.finished.fetch_add(1, Ordering::Release);
    }
}

/// Spins for the first calls, then yields. On a crowded machine, spinning on would keep other threads from the
/// processor.
fn pause(looks: &mut u32) {
    *looks += 1;
    if *looks < PATIENCE { std::hint::spin_loop() } else { std::thread::yield_now() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once() {
        for threads in 1..5 {
            SpinPool::scope(threads, |pool| {
                let mut values = vec![0.0; 1000];
                for round in 0..2_000 {
                    let len = 1 + round % 300;
                    pool.chunks(&mut values, len, |index, chunk| {
                        for (place, value) in chunk.iter_mut().enumerate() {
                            *value += (index * len + place) as f32;
                        }
                    });
                    if round % 500 == 0 {
                        std::thread::sleep(std::time::Duration::from_millis(3));
                    }
                }
                let same = values.iter().enumerate().all(|(index, &value)| value == 2_000.0 * index as f32);
                assert!(same, "{threads} threads");
            });
        }
    }

    #[test]
    fn every_item_is_passed_once() {
        for threads in 1..4 {
            SpinPool::scope(threads, |pool| {
                for count in 0..20 {
                    let mut values = vec![0; count];
                    pool.for_each(values.iter_mut().zip(1..).collect(), |(value, item)| *value += item);
                    assert!(values.into_iter().eq(1..count + 1), "{threads} threads");
                }
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        for bad in 0..8 {
            let caught = std::panic::catch_unwind(|| {
                SpinPool::scope(3, |pool| {
                    let mut values = vec![0.0; 8];
                    pool.chunks(&mut values, 1, |index, _| assert!(index != bad, "the part's"));
                });
            });
            assert!(caught.is_err());
        }
    }
}
