//! The binary: picks its role before any runtime exists.

use std::process::ExitCode;

use pinfold::keeper::{role, setup};

fn main() -> ExitCode {
    match std::env::args_os().nth(1).as_deref().and_then(|role| role.to_str()) {
        Some(setup::ROLE) => pinfold::keeper::main::main(),
        Some(role::LOGGER) => pinfold::logger::main::main(),
        _ => ExitCode::SUCCESS,
    }
}
