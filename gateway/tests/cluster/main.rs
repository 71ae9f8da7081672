//! Nodes of a cluster in one process, over loopback addresses of their own, with a store of views and an engine in memory that they share:
//! they find each other, agree on views, notice who is gone, and let nobody in who does not belong to them.

mod nodes;
mod views;
mod world;
