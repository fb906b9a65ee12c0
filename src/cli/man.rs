//! `pinfold man`: the manual pages, made from what can be typed.

use std::{fs, io};

use clap::CommandFactory;
use clap_mangen::Man;

use super::args;
use super::exit::Failure;

/// A page: its name, like `pinfold-ps`, and what is in it.
pub struct Page {
    /// Its name.
    pub name: String,
    /// In roff.
    pub text: Vec<u8>,
}

/// Every page, that of pinfold itself first.
///
/// # Errors
/// None that can happen: memory can be written.
pub fn pages() -> io::Result<Vec<Page>> {
    let mut all = args::Cli::command();
    all.build();
    let commands: Vec<clap::Command> = std::iter::once(all.clone()).chain(all.get_subcommands().cloned()).collect();
    let page = |command: clap::Command| {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
        let mut text = Vec::new();
        Man::new(command).render(&mut text)?;
        Ok(Page { name, text })
    };
    commands.into_iter().map(page).collect()
}

/// What it prints, where it does not write files.
///
/// # Errors
/// [`Failure`]: there is no such command, or a page cannot be written.
pub fn man(args: &args::Man) -> Result<String, Failure> {
    let mut pages = pages().map_err(|e| Failure::failed("cannot make the pages", e))?;
    if let Some(dir) = &args.dir {
        for page in pages {
            let path = dir.join(format!("{}.1", page.name));
            fs::write(&path, &page.text).map_err(|e| Failure::failed(format!("cannot write {}", path.display()), e))?;
        }
        return Ok(String::new());
    }
    let wanted = args.command.as_ref().map_or_else(|| "pinfold".to_owned(), |command| format!("pinfold-{command}"));
    let at = pages.iter().position(|page| page.name == wanted);
    let none = || format!("there is no command {:?}; pinfold --help lists them", args.command.as_deref().unwrap_or(""));
    let page = pages.swap_remove(at.ok_or_else(|| Failure::Usage(none()))?);
    String::from_utf8(page.text).map_err(|e| Failure::failed("cannot make the page", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_flags_and_the_first_names_them_all() {
        let pages = pages().unwrap();
        let text = |page: &Page| String::from_utf8(page.text.clone()).unwrap().replace("\\-", "-");
        let first = text(&pages[0]);
        assert_eq!(pages[0].name, "pinfold");
        let mut commands = args::Cli::command();
        commands.build();
        for command in commands.get_subcommands() {
            let name = format!("pinfold-{}", command.get_name());
            assert!(first.contains(&name), "{name} is not in pinfold(1)");
            let page = text(pages.iter().find(|page| page.name == name).unwrap_or_else(|| panic!("{name}")));
            for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(page.contains(&format!("--{flag}")), "{name}: --{flag}");
            }
        }
    }
}
