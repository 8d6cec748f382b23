//! One bash process per document. All blocks run in it, so variables of earlier blocks stay set.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::fence::{Fence, Shell};

/// Longer than any block of the documentation takes.
const WITHIN: Duration = Duration::from_secs(120);

pub(super) struct Session {
    dir: PathBuf,
    name: String,
    bash: Child,
    input: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// The number of blocks run so far.
    count: usize,
}

impl Session {
    /// Starts a shell in its own directory. It reads `env` and inherits nothing else of our environment.
    pub(super) async fn start(dir: &Path, document: &str, env: &Path) -> Result<Self> {
        let dir = dir.join(document.replace('/', "-"));
        fs::create_dir_all(&dir)?;
        let mut command = Command::new("bash");
        let inherited = ["PATH", "TMPDIR"].map(|name| Some((name, std::env::var_os(name)?)));
        command
            .args(["--norc", "--noprofile", "-euo", "pipefail"])
            .env_clear()
            .envs(inherited.into_iter().flatten())
            .env("HOME", &dir)
            .env("LC_ALL", OsString::from("C.UTF-8"))
            .current_dir(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        let mut bash = command.spawn().context("starting bash")?;
        let mut input = bash.stdin.take().context("its standard input is piped")?;
        let answers = BufReader::new(bash.stdout.take().context("its standard output is piped")?).lines();
        let first = format!(". '{}'\n", env.display());
        input.write_all(first.as_bytes()).await.context("bash has ended")?;
        Ok(Self {
            dir,
            name: document.rsplit('/').next().unwrap_or(document).to_owned(),
            bash,
            input,
            answers,
            count: 0,
        })
    }

    /// Runs a block and returns its output. The error contains its standard error.
    pub(super) async fn run(&mut self, fence: &Fence, shell: &Shell) -> Result<String> {
        self.count += 1;
        let dir = self.dir.join(format!(".block-{}", self.count));
        fs::create_dir_all(&dir)?;
        let (script, out, err) = (dir.join(&self.name), dir.join("out"), dir.join("err"));
        // The script has the same line numbers as the document, because bash prints them in its messages.
        fs::write(&script, format!("{}{}\n", "\n".repeat(fence.line - 1), fence.text))?;
        let (script, streams) = (
            script.display(),
            format!("</dev/null >'{}' 2>'{}'", out.display(), err.display()),
        );
        let line = match shell.exit {
            0 => format!("{{ . '{script}'; }} {streams}; echo 0\n"),
            _ => format!("( . '{script}' ) {streams} && echo 0 || echo $?\n"),
        };
        self.input.write_all(line.as_bytes()).await.context("bash has ended")?;
        let status = timeout(WITHIN, self.answers.next_line())
            .await
            .with_context(|| format!("not done within {WITHIN:?}"))??;
        let (out, err) = (fs::read_to_string(&out)?, fs::read_to_string(&err)?);
        let Some(status) = status else {
            let ended = self.bash.wait().await?;
            bail!("ended with {ended}\n{err}{out}");
        };
        let wanted = shell.exit.to_string();
        ensure!(status == wanted, "ended with {status}, not {wanted}\n{err}{out}");
        Ok(out)
    }
}
