//! The binary: picks its role before any runtime exists, and turns the one top error into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    pinfold::daemon::role::main()
}
