# shellcheck shell=bash
# Sourced by the scripts that run something in the virtual machine.

# Runs a command in the virtual machine. Where the machine itself fails (its own code 125, and its console is shown) it
# is booted once more: an emulated kernel was seen to lock up once in forty boots on a busy host. What the command says
# is never asked twice.
guest() {
    local code=0
    scripts/vm "$@" || code=$?
    if ((code == 125)); then
        echo "${0##*/}: the virtual machine failed, not what ran in it; booting it once more" >&2
        code=0
        scripts/vm "$@" || code=$?
    fi
    return "$code"
}
