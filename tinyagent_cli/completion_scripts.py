"""The scripts that connect the completion with bash, zsh and fish, and what the shells send and get.

They replace those of click, which in bash cannot complete words with a colon or `=` (`-m ollama/qwen3:8b`,
`-P name=value`), in fish loses what follows a comma, and everywhere adds a space after `openai/`.
"""

from __future__ import annotations

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from .config.environment import exact_variable
from .terminal.sanitise import one_line

__all__ = ["SHELLS", "BashCompletion", "FishCompletion", "ZshCompletion", "register"]

_END = "\0"
"""Marks the cursor, because a blank before it starts a new word. A command line cannot contain it."""

_BASH = """\
%(complete_func)s() {
    local response type value
    response=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \
%(complete_var)s=bash_complete "$1" 2> /dev/null)
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                if [[ $value == *[!a-zA-Z0-9_./:=@,+-]* && ${COMP_WORDS[COMP_CWORD]} != [\\"\\']* ]]; then
                    printf -v value %%q "$value"
                fi
                COMPREPLY+=("$value")
                ;;
        esac
    done <<< "$response"
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[/=:] ]]; then
        compopt -o nospace
    fi
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a response values open_values described open_described
    local type key description
    (( ! $+commands[%(prog_name)s] )) && return 1

    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \
%(complete_var)s=zsh_complete %(prog_name)s 2> /dev/null)}")
    for type key description in ${response}; do
        case $type:$description in
            dir:*) _path_files -/ ;;
            file:*) [[ $PREFIX == --*=* ]] && compset -P '*='; _path_files -f ;;
            plain:_) if [[ $key == *[/=:] ]]; then open_values+=("$key"); else values+=("$key"); fi ;;
            plain:*) if [[ $key == *[/=:] ]]; then open_described+=("$key":"$description")
                else described+=("$key":"$description"); fi ;;
        esac
    done
    (( $#described )) && _describe -V described described -U
    (( $#open_described )) && _describe -V open_described open_described -U -S ''
    (( $#values )) && compadd -U -V values -a values
    (( $#open_values )) && compadd -U -S '' -V open_values -a open_values
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH = """\
function %(complete_func)s
    set -l response (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) \
COMP_CWORD=(commandline -t) %(prog_name)s 2> /dev/null)
    for line in $response
        set -l item (string split -m 1 , -- $line)
        switch $item[1]
            case dir
                __fish_complete_directories $item[2]
            case file
                __fish_complete_path $item[2]
            case plain
                printf '%%s\\n' $item[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


class _Completion(ShellComplete):
    """Leaves out values with control characters, and repeats `--name=` before its values."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        name, equals, _ = incomplete.partition("=")
        prefix = f"{name}=" if equals and name.startswith("--") else ""
        return [
            CompletionItem(
                prefix + item.value if item.type == "plain" else item.value,
                type=item.type,
                help=one_line(item.help) if item.help else None,
            )
            for item in super().get_completions(args, incomplete)
            if item.value.isprintable()
        ]


class BashCompletion(_Completion, BashComplete):
    """Bash splits words at colons and `=`, too, and replaces only the part after the last one."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = exact_variable("COMP_LINE")
        if not line:
            return super().get_completion_args()  # the script of an older version
        words = split_arg_string(line + _END)
        return words[1:-1], words[-1].removesuffix(_END)

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        found = super().get_completions(args, incomplete)
        breaks = [mark for mark in ":=" if mark in exact_variable("COMP_WORDBREAKS")]
        if exact_variable("COMP_LINE").endswith((f'"{incomplete}', f"'{incomplete}")):
            breaks = []  # not within quotes
        cut = max((incomplete.rfind(mark) + 1 for mark in breaks), default=0)
        return [
            CompletionItem(item.value[cut:], type=item.type, help=item.help) if item.type == "plain" else item
            for item in found
        ]


class ZshCompletion(_Completion, ZshComplete):
    """Zsh shows the texts next to the values."""

    source_template = _ZSH


class FishCompletion(_Completion, FishComplete):
    """Fish shows the texts next to the values."""

    source_template = _FISH


SHELLS: dict[str, type[ShellComplete]] = {
    "bash": BashCompletion,
    "zsh": ZshCompletion,
    "fish": FishCompletion,
}
"""The shells that can complete."""


def register() -> None:
    """Let click use these classes."""
    for kind in SHELLS.values():
        add_completion_class(kind)
