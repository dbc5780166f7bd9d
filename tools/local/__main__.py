"""The verbs of ``python -m tools.local``; the Makefile has one target for each."""

import argparse
import os
import sys
from collections.abc import Callable

import requests
from botocore.exceptions import BotoCoreError, ClientError

from tools.local import processes
from tools.local.aws import forget_user_settings
from tools.local.errors import LocalError

INTERRUPTED = 130
CLOSED_PIPE = 141


def main(arguments: list[str]) -> int:
    """Carry out one verb; give its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.local", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, about in (
        ("up", "bring the stack up, or up to date, and leave it running"),
        ("down", "stop the stack and remove its state"),
        ("build", "build layers and functions into .local/build"),
        ("demo", "show the main job on a stack of its own"),
        ("check", "format, lint, types, template"),
    ):
        verbs.add_parser(name, help=about)
    logs = verbs.add_parser("logs", help="what the functions logged")
    logs.add_argument("--follow", action="store_true", help="go on until Ctrl-C")
    chosen = parser.parse_args(arguments)

    forget_user_settings()
    processes.end_on_signals()
    try:
        return _verb(chosen)()
    except LocalError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except (BotoCoreError, ClientError, requests.RequestException) as error:
        print(f"\nA server of the local stack failed: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED


def _verb(chosen: argparse.Namespace) -> Callable[[], int]:
    # Each verb loads what it needs: `down` must work however broken the rest is.
    from tools.local import checks, demo, deploy, logs, up  # noqa: PLC0415

    def up_() -> int:
        up.up()
        return 0

    def down() -> int:
        up.down()
        return 0

    def build() -> int:
        deploy.build()
        return 0

    def logs_() -> int:
        logs.show(up.running(), follow=chosen.follow)
        return 0

    verbs = {"up": up_, "down": down, "build": build, "logs": logs_}
    return (verbs | {"demo": demo.run, "check": checks.run})[chosen.verb]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
