//! A process that answers JSON lines with JSON lines.

use std::collections::HashMap;
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::oneshot;

use crate::wait::{freeze, wait_until};

/// The answer to a request says by itself that its time is over; only a process that hangs is waited for longer.
const GRACE: Duration = Duration::from_secs(10);

/// Node.js loads a thousand files first, and the machine may be busy.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Who waits for which answer; none when there will be no more.
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Value>>>>>;

/// The process. Killed when dropped; ends by itself when this program ends, since its input does.
pub(crate) struct Process {
    child: Mutex<Option<Child>>,
    input: tokio::sync::Mutex<ChildStdin>,
    waiting: Waiting,
    next: AtomicU64,
    errors: NamedTempFile,
}

impl Process {
    /// Starts it, and returns what it said when it was ready.
    pub(crate) async fn start(mut command: Command) -> anyhow::Result<(Self, Value)> {
        let errors = NamedTempFile::new()?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::options().append(true).open(errors.path())?)
            .spawn()
            .with_context(|| format!("cannot run {:?}", command.get_program()))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (ready, first) = oneshot::channel();
        let waiting = Waiting::new(Mutex::new(Some(HashMap::from([(0, ready)]))));
        let process = Self {
            child: Mutex::new(Some(child)),
            input: tokio::sync::Mutex::new(ChildStdin::from_std(input.context("no stdin")?)?),
            waiting: Arc::clone(&waiting),
            next: AtomicU64::new(1),
            errors,
        };
        tokio::spawn(read(ChildStdout::from_std(output.context("no stdout")?)?, waiting));
        let ready = process.answer("start", first, READY_LIMIT).await?;
        Ok((process, ready))
    }

    /// Sends a request and waits for its answer. When `limit` passes, the error is what the process says about that.
    pub(crate) async fn call(&self, command: &str, mut request: Value, limit: Duration) -> anyhow::Result<Value> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        request["seq"] = json!(number);
        request["cmd"] = json!(command);
        request["timeout_millis"] = json!(limit.as_millis());
        let (sender, receiver) = oneshot::channel();
        let taken = match self.waiting.lock().as_mut() {
            Some(waiting) => waiting.insert(number, sender).is_none(),
            None => false,
        };
        if !taken {
            bail!("{command}: {}", self.ended());
        }
        let line = format!("{request}\n");
        let sent = async {
            let mut input = self.input.lock().await;
            input.write_all(line.as_bytes()).await?;
            input.flush().await
        };
        // A process that is stopped takes no input.
        match tokio::time::timeout(limit + GRACE, sent).await {
            Ok(Ok(())) => self.answer(command, receiver, limit + GRACE).await,
            Ok(Err(_)) => bail!("{command}: {}", self.ended()),
            Err(_) => bail!("{command}: the process took no input for {:?}", limit + GRACE),
        }
    }

    async fn answer(
        &self,
        command: &str,
        receiver: oneshot::Receiver<Value>,
        limit: Duration,
    ) -> anyhow::Result<Value> {
        let Ok(answer) = tokio::time::timeout(limit, receiver).await else {
            bail!("{command}: no answer for {limit:?}\n{}", self.log());
        };
        let Ok(mut answer) = answer else {
            bail!("{command}: {}", self.ended());
        };
        if let Some(error) = answer["error"].as_str() {
            bail!("{command}: {error}");
        }
        ensure!(
            !answer["ok"].is_null(),
            "{command}: an answer with neither ok nor error: {answer}"
        );
        Ok(answer["ok"].take())
    }

    fn ended(&self) -> String {
        format!("the process has ended\n{}", self.log())
    }

    /// What it wrote to stderr.
    pub(crate) fn log(&self) -> String {
        match fs::read(self.errors.path()) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("its stderr can't be read: {error}"),
        }
    }

    /// Its process ID, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.lock().as_ref().map(Child::id)
    }

    /// Stops all its threads.
    pub(crate) fn freeze(&self) -> anyhow::Result<()> {
        freeze(self.process()?)
    }

    /// Lets them go on.
    pub(crate) fn thaw(&self) -> anyhow::Result<()> {
        Ok(kill_process(self.process()?, Signal::CONT)?)
    }

    fn process(&self) -> anyhow::Result<Pid> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        pid.context("it does not run")
    }

    /// Kills it at once.
    pub(crate) fn kill(&self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.lock().take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Waits until it has ended by itself; kills it, with an error, when it has not in time.
    pub(crate) async fn wait(&self, limit: Duration) -> anyhow::Result<()> {
        let look = async || match self.child.lock().as_mut() {
            None => Ok(None),
            Some(child) => Ok(Some(child.try_wait()?.context("it still runs")?)),
        };
        let status = wait_until("the process has ended", limit, look).await;
        self.kill()?;
        match status? {
            Some(status) if !status.success() => bail!("it ended with {status}\n{}", self.log()),
            _ => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A test that ends has no use for the error.
        let _ = self.kill();
    }
}

/// Hands the answers out until there are no more.
async fn read(output: ChildStdout, waiting: Waiting) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(answer) = serde_json::from_str::<Value>(&line) else {
            eprintln!("not an answer: {line}");
            continue;
        };
        let receiver = answer["seq"]
            .as_u64()
            .and_then(|number| waiting.lock().as_mut()?.remove(&number));
        if let Some(receiver) = receiver {
            // Who asked may have given up.
            let _ = receiver.send(answer);
        }
    }
    // Those who wait are told so by this.
    waiting.lock().take();
}
