//! An allocator that counts the bytes that each thread holds, to measure memory instead of estimating it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Bytes that a thread holds, and the most it has held. A thread may free what another allocated, so counts may be
/// negative.
#[derive(Clone, Copy)]
struct Count {
    held: isize,
    peak: isize,
}

thread_local! {
    // Constant and without a destructor: using it never allocates.
    static COUNT: Cell<Count> = const { Cell::new(Count { held: 0, peak: 0 }) };
}

/// The system's allocator, counted. A vector that grows counts twice while it is copied.
pub(crate) struct Counting;

fn add(bytes: isize) {
    let _ = COUNT.try_with(|count| {
        let Count { held, peak } = count.get();
        let held = held + bytes;
        count.set(Count { held, peak: peak.max(held) });
    });
}

// SAFETY: every call goes to the system's allocator unchanged, and counting does not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: `layout` is the caller's, who guarantees that its size is not 0.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: `layout` is the caller's, who guarantees that its size is not 0.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: `at` came from the system's allocator with this layout, because every allocation here does.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add(size as isize);
        add(-(layout.size() as isize));
        // SAFETY: `at` came from the system's allocator with this layout, and the caller guarantees a valid `size`.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Runs `work` and gives the most bytes that this thread held at once, beyond those that it held before. Other threads
/// do not count: neither those of other tests, nor those that `work` starts.
pub(crate) fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = COUNT.get().held;
    COUNT.set(Count { held: before, peak: before });
    let result = work();
    (result, usize::try_from(COUNT.get().peak - before).unwrap_or(0))
}
