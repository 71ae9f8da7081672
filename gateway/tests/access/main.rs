//! Authentication outside the cores: files, services over real HTTP, bans, and `roadstead passwd` as a process. The cores are fakes that
//! take every policy; everything else is real.

mod bans;
mod call_out;
mod keys;
mod node;
mod passwd;
mod passwords;
mod reload;
mod server;
mod settings;
mod world;
