//! Texts of servers, and what is said of them.
