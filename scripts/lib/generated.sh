# shellcheck shell=bash
# Sourced by the scripts that install what the program says about itself.

# generate BINARY DIR: has BINARY write its manual pages to DIR/man and its completions to DIR/completions, in the place of what is
# there.
generate() {
    local shell
    rm -rf "$2"/{man,completions}
    mkdir -p "$2"/{man,completions}
    "$1" man --dir "$2/man"
    for shell in bash zsh fish; do "$1" completion "$shell" >"$2/completions/pinfold.$shell"; done
}
