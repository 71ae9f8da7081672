//! The [`Driver`](crate::driver::Driver) over io_uring.
