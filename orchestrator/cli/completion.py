"""`tide completion SHELL`: what makes a shell complete verbs, options and names of jobs.

The scripts ask `tide` itself, by the protocol of Typer: what was typed in the environment, candidates on stdout.
"""

from __future__ import annotations

import enum
import sys
from typing import Annotated

import typer

app = typer.Typer()


class Shell(enum.StrEnum):
    """Shells that can ask."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


SCRIPTS = {
    Shell.BASH: r"""# tide in bash: put  eval "$(tide completion bash)"  into ~/.bashrc
_tide_complete() {
    local IFS=$'\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" _TIDE_COMPLETE=complete_bash \
        "${COMP_WORDS[0]}" 2>/dev/null))
}
complete -o default -F _tide_complete tide
""",
    Shell.ZSH: r"""#compdef tide
# tide in zsh: put  eval "$(tide completion zsh)"  into ~/.zshrc, after compinit
_tide_complete() {
    local line
    local -a found
    while IFS= read -r line; do
        found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done < <(_TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _TYPER_COMPLETE_FISH_ACTION=get-args \
        _TIDE_COMPLETE=complete_fish "${words[1]}" 2>/dev/null)
    if (( ${#found} )); then _describe tide found; else _files; fi
}
compdef _tide_complete tide
""",
    Shell.FISH: r"""# tide in fish: put  tide completion fish | source  into ~/.config/fish/config.fish
complete -c tide -a '(_TYPER_COMPLETE_ARGS=(commandline -cp) _TYPER_COMPLETE_FISH_ACTION=get-args \
    _TIDE_COMPLETE=complete_fish tide 2>/dev/null)'
""",
}


@app.command()
def completion(
    shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.", show_default=False)],
) -> None:
    """Print what makes a shell complete 'tide'; its first lines say where to put it.

    Names of jobs come from the server, if one answers within a second.
    """
    sys.stdout.write(SCRIPTS[shell])
