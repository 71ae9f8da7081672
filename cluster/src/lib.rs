//! Partitions, owners and views.
