//! The Python that fetches the servers and runs our scripts.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::checkout;

const PYTHONS: [&str; 6] = [
    "python3",
    "python3.14",
    "python3.13",
    "python3.12",
    "python3.11",
    "python3.10",
];
pub(crate) const WHAT_TO_INSTALL: &str = "devstack needs Python 3.10 or newer with venv and pip to fetch its servers \
    (Debian, Ubuntu: apt install python3 python3-venv python3-pip; Fedora: dnf install python3 python3-pip; \
    macOS: brew install python3)";

/// A Python that runs scripts without third-party modules, whether or not the wheels are installed.
pub(crate) fn any() -> Result<PathBuf> {
    let ours = checkout::cache()?.join("venv/bin/python");
    if ours.exists() { Ok(ours) } else { find() }
}

/// The first Python on the PATH that is new enough.
pub(crate) fn find() -> Result<PathBuf> {
    let test = "import sys; sys.version_info >= (3, 10) or sys.exit(1); print(sys.executable)";
    for name in PYTHONS {
        let output = clean(Command::new(name))
            .args(["-I", "-c", test])
            .stdin(Stdio::null())
            .output();
        let Ok(output) = output else { continue };
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() && !path.is_empty() {
            return Ok(path.into());
        }
    }
    bail!("found no Python 3.10 or newer on the PATH: {WHAT_TO_INSTALL}")
}

/// Removes the variables that make Python or pip install elsewhere. (`-I` covers PYTHONPATH and similar ones.)
pub(crate) fn clean(mut command: Command) -> Command {
    for name in [
        "VIRTUAL_ENV",
        "__PYVENV_LAUNCHER__",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_ROOT",
        "PIP_PYTHON",
        "PIP_DRY_RUN",
    ] {
        command.env_remove(name);
    }
    command.env("PIP_USER", "0");
    command
}
