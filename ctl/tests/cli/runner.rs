//! Runs the binary.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use node_core::Cid;

/// What a run left.
pub struct Ran {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
            code: match output.status.code() {
                Some(code) => code,
                None => panic!("the process was killed: {}", output.status),
            },
        }
    }
}

impl Ran {
    /// Fails with all that was said when the code is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "{text:?} is not in stderr:\n{}",
            self.stderr
        );
        self
    }
}

pub fn command(api: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cluster-ctl"));
    command.env_clear().env("PINFLEET_API", api).args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub fn run(api: &str, arguments: &[&str]) -> Ran {
    command(api, arguments).output().expect("starts").into()
}

pub fn run_in(folder: &Path, api: &str, arguments: &[&str]) -> Ran {
    command(api, arguments)
        .current_dir(folder)
        .output()
        .expect("starts")
        .into()
}

/// Sends a signal to a child of this test.
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

pub fn run_with_input(api: &str, arguments: &[&str], input: &[u8]) -> Ran {
    let mut child = command(api, arguments).stdin(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // On a thread, or a full pipe would block both sides. Who refuses early does not read to the end.
    let feeder = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("ends");
    feeder.join().expect("fed");
    output.into()
}

pub fn spawn(api: &str, arguments: &[&str]) -> Child {
    command(api, arguments).spawn().expect("starts")
}

/// The CID of block number `n`, of version 1.
pub fn cid(n: u32) -> String {
    let mut bytes = vec![1, 0x55, 0x12, 32];
    bytes.extend_from_slice(&[0xab; 28]);
    bytes.extend_from_slice(&n.to_be_bytes());
    Cid::from_bytes(&bytes).expect("well formed").to_string()
}
