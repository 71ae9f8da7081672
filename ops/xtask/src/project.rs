//! Where things are: the root of the repository, its build folder, its tools.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// The repository that this binary was built from.
#[derive(Debug)]
pub(crate) struct Project {
    /// Folder of the workspace manifest.
    pub root: PathBuf,
    /// True exactly when `CI=true`: then a tool that cannot be had is a failure, not a skip.
    pub ci: bool,
}

impl Project {
    /// Finds the repository from the place of this crate in it.
    pub(crate) fn locate() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root
            .canonicalize()
            .with_context(|| format!("the repository {} is gone", root.display()))?;
        Ok(Self {
            root,
            ci: std::env::var("CI").is_ok_and(|value| value == "true"),
        })
    }

    /// Where tools are installed; git ignores it.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join(".tools")
    }

    /// Cargo's build folder.
    pub(crate) fn target(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => self.root.join(folder),
            None => self.root.join("target"),
        }
    }

    /// A program of the release profile, built or not.
    pub(crate) fn release_binary(&self, name: &str) -> PathBuf {
        self.target().join("release").join(name)
    }

    /// Logs and scratch data of steps.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf> {
        let folder = self.target().join("xtask").join(name);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }

    /// `cargo ARGUMENTS` at the root, with the toolchain that the repository pins.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("cargo");
        command.args(arguments);
        command
    }

    /// A program at the root. The variables that `cargo run` set for this binary are taken away: they would make the
    /// programs below rebuild or link what they should not.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.root)
            .stdin(std::process::Stdio::null());
        for (name, _) in std::env::vars_os() {
            let keep = name.to_str().is_none_or(|name| {
                !(name.starts_with("CARGO_PKG_")
                    || name.starts_with("CARGO_MANIFEST")
                    || name == "LD_LIBRARY_PATH")
            });
            if !keep {
                command.env_remove(name);
            }
        }
        command
    }
}
