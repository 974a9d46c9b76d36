//! The binary `cluster-ctl`: hands its arguments to the library and exits with its code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(cluster_ctl::run(std::env::args_os()))
}
