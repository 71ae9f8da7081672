//! The addresses of a device, changed as networks change under a phone: first the old one is gone, then there is a new one.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use quic_conversations::Ground;
use tokio::process::Command;

/// A device and which of its addresses it has.
pub(crate) struct Device<'a> {
    ground: &'a Ground,
    current: usize,
}

impl<'a> Device<'a> {
    /// With its first address.
    pub(crate) async fn new(ground: &'a Ground) -> Result<Self> {
        ensure!(
            ground.addresses.len() > 1,
            "a device needs two addresses to change"
        );
        let device = Self { ground, current: 0 };
        // Who was here before may have left another one.
        for address in &ground.addresses {
            let _ = device.ip("del", address).await; // Mostly it does not have it.
        }
        device.appear().await?;
        Ok(device)
    }

    /// The address goes, and what is sent from here has no way.
    pub(crate) async fn vanish(&self) -> Result<()> {
        self.ip("del", self.address()).await
    }

    /// The address is there again.
    pub(crate) async fn appear(&self) -> Result<()> {
        self.ip("add", self.address()).await
    }

    /// The next address is the one to appear.
    pub(crate) fn choose_next(&mut self) {
        self.current = (self.current + 1) % self.ground.addresses.len();
    }

    fn address(&self) -> &str {
        &self.ground.addresses[self.current]
    }

    async fn ip(&self, what: &str, address: &str) -> Result<()> {
        let output = Command::new("ip")
            .args(["addr", what, address, "dev", &self.ground.device])
            .stdin(Stdio::null())
            .output()
            .await
            .context("cannot run `ip` of iproute2")?;
        ensure!(
            output.status.success(),
            "ip addr {what} {address}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}
