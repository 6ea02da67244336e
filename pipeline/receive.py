"""A bare repository of which each push to one branch is tested, and deployed to a running server.

    python -m pipeline.receive /srv/birds.git                           in the folder of the server
    python -m pipeline.receive /srv/birds.git --fleet /srv/fleet        to the servers that follow an address
    python -m pipeline.receive /srv/birds.git --test "make test"        another test of a commit, in place of the usual
    python -m pipeline.receive /srv/birds.git --again                   test and deploy its branch once more

A push runs the tests in a checkout, builds archives of the models that the commit changes (see
`pipeline.receiving.commit_models`), and deploys them one after the other as `make deploy` does. If a step fails, all of
the push is undone. git accepts the push in any case; the last line says whether the commit is live. Pushes take turns;
of those that wait only the newest is tested. After Ctrl-C all is undone; a pusher who leaves does
not stop it.
"""

import argparse
import shlex
import sys
from pathlib import Path

from pipeline.receiving.progress import FOLDER as LOGS
from pipeline.receiving.progress import Progress
from pipeline.receiving.push import Push
from pipeline.receiving.repository import COMMANDS, PYTHON, Repository, RepositoryError, RepositorySettings
from serving.lifecycle.launch import CONFIG

NONE = "0" * 40


def receive(repository: Repository, commit: str) -> bool:
    """Test and deploy a commit; return whether it is live, or changes no model.

    Raises:
        RepositoryError: the repository was not set up.
    """
    with Progress(repository.folder / LOGS, commit) as progress:
        return Push(repository, commit, progress).run()


def received(repository: Repository, updates: str) -> bool:
    """Do what `git push` asks for; `updates` are git's lines of old commit, new commit and reference."""
    branch, success = repository.settings().branch, True
    for line in updates.rstrip("\n").split("\n"):
        _, commit, reference = line.split(" ", 2)
        if reference != f"refs/heads/{branch}":
            print(f"{reference} is not {branch}: nothing is deployed", flush=True)
        elif not commit.strip("0"):
            print(f"{branch} was removed: the servers answer as before", flush=True)
        else:
            success = receive(repository, commit) and success
    return success


def set_up(repository: Repository, settings: RepositorySettings) -> None:
    """Make the repository, or change its settings.

    Raises:
        RepositoryError: a folder cannot be used.
    """
    if not settings.fleet and not (settings.root / CONFIG).is_file():
        raise RepositoryError(f"{settings.root} has no {CONFIG}: run this in the folder of the server")
    repository.set_up(settings)


def main() -> int:
    """Set up a repository, or do the work of its hook; return 1 if that fails."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.receive", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = RepositorySettings(Path())
    add = parser.add_argument
    add("repository", type=Path, help="the bare repository; it is made if it does not exist")
    add("--branch", default=default.branch, help="the branch that is deployed (default: %(default)s)")
    add("--test", action="append", metavar="COMMAND", help=f"tests a commit; may be repeated (default: {COMMANDS})")
    add("--python", default=PYTHON, help="builds the archives, in the checkout (default: %(default)s)")
    add("--fleet", default="", metavar="ADDRESS", help="deploy to the servers that follow this address")
    add("--key", default="", metavar="FILE", help="the private key that signs the archives")
    add(
        "--archives", type=int, default=default.archives, metavar="N", help="keep the newest N of a model (%(default)s)"
    )
    add("--again", action="store_true", help="test and deploy its branch once more")
    add("--hook", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.archives < 1:
        parser.error(f"--archives {arguments.archives} would keep none: name 1 or more")
    for text in arguments.test or ():
        try:
            words = shlex.split(text)
        except ValueError as error:
            parser.error(f"--test {text!r} is no command ({error})")
        if not words:
            parser.error("--test is empty: name a command")
    repository = Repository(arguments.repository.resolve())
    try:
        if arguments.hook or arguments.again:
            if arguments.hook:
                return 0 if received(repository, sys.stdin.read()) else 1
            branch = repository.settings().branch
            return 0 if received(repository, f"{NONE} {repository.tip(branch)} refs/heads/{branch}") else 1
        key = str(Path(arguments.key).resolve()) if arguments.key else ""
        commands = tuple(arguments.test or COMMANDS)
        settings = RepositorySettings(
            Path.cwd(), arguments.branch, commands, arguments.python, arguments.fleet, key, arguments.archives
        )
        set_up(repository, settings)
    except (RepositoryError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{repository.path}: a push to {arguments.branch} is tested and deployed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
