"""What befalls a training run: each function starts it, strikes, and says what it should not have done.

It returns None where the run had ended before the blow, or where the blow hit something else than it was meant to.
"""

import random
import signal
import time
from collections.abc import Callable
from typing import Optional

from mae_ast_fairseq.tasks.preemption import EXIT_SAVED
from tests.chaos.command import Command, Stall, renamed_away
from tests.chaos.runs import Trajectory, num_updates_in, partial_files, saved_in

Blow = Callable[[Trajectory, random.Random], Optional[list[str]]]

MAX_UPDATES = 10
"""Updates after which a blow comes, at most."""
ENDS_SECONDS = 10.0
"""Within which a process ends where another one of its run was killed, or where it is asked a second time."""
LOST = "another process of this run"
UNWRITTEN = "cannot be written"


def kill(trajectory: Trajectory, draws: random.Random) -> Optional[list[str]]:
    """Kill it anywhere: while it starts, trains, validates or saves."""
    [command] = trajectory.start()
    _let_train(command, draws, least=0)
    return [] if command.kill() else None


def kill_while_saving(trajectory: Trajectory, draws: random.Random) -> Optional[list[str]]:
    """Kill it, or the first of several processes, in the middle of a file that it is writing."""
    first, *others = trajectory.start()
    wait_for_save(first, trajectory, draws)
    was_killed = first.kill()
    found = _end_of_others(others)
    return found if was_killed and partial_files(trajectory.folder, first.pid) else None


def wait_for_save(command: Command, trajectory: Trajectory, draws: random.Random) -> bool:
    """Return at a moment while it saves; False where it has ended."""
    number = draws.randint(1, 3)
    is_saving = command.wait_until(lambda: len(command.updates()) >= number) and command.wait_until(
        lambda: bool(partial_files(trajectory.folder, command.pid))
    )
    time.sleep(draws.uniform(0, trajectory.reference.save_seconds))
    return is_saving


def kill_one(trajectory: Trajectory, draws: random.Random) -> Optional[list[str]]:
    """Kill one of two processes."""
    commands = trajectory.start()
    _let_train(commands[0], draws)
    victim = draws.choice(commands)
    was_killed = victim.kill()
    found = _end_of_others([command for command in commands if command is not victim])
    return found if was_killed else None


def _end_of_others(commands: list[Command]) -> list[str]:
    found = []
    for command in commands:
        try:
            command.wait(ENDS_SECONDS)
        except TimeoutError:
            command.end()
            found.append(f"{command.log}: still running {ENDS_SECONDS:.0f} s after another process was killed")
        else:
            found += _one_line(command, LOST)
    return found


def send(number: signal.Signals) -> Blow:
    """Return a blow that asks a run, or one of its processes, to end."""

    def blow(trajectory: Trajectory, draws: random.Random) -> Optional[list[str]]:
        commands = trajectory.start()
        _let_train(commands[0], draws)
        draws.choice(commands).send(number, to_group=number == signal.SIGINT and len(commands) == 1)
        codes = [command.wait() for command in commands]
        if not any(codes):
            return None
        found = [f"{command.log}: a traceback" for command in commands if "Traceback" in command.text()]
        if set(codes) != {EXIT_SAVED}:
            return [*found, f"{commands[0].log}: exit codes {codes} after {number.name}"]
        num_done, num_saved = commands[0].updates()[-1][0] + 1, num_updates_in(trajectory.last)
        trajectory.left_saved = num_saved
        return found if num_saved == num_done else [*found, f"{num_done} updates were done, {num_saved} saved"]

    return blow


def send_twice(trajectory: Trajectory, draws: random.Random) -> Optional[list[str]]:
    """Ask it to end in the middle of a long update, and then again."""
    update = trajectory.num_saved + draws.randint(0, MAX_UPDATES)
    [command] = trajectory.start(Stall(update, seconds=60))
    if not command.wait_until(lambda: any(number == update for number, _ in command.updates())):
        return None
    first, second = (draws.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]) for _ in range(2))
    command.send(first)
    command.wait_until(lambda: f"{first.name}: saving" in command.text(), ENDS_SECONDS)
    found = [] if command.is_running() else [f"{command.log}: {first.name} ended it at once"]
    command.send(second)
    if command.wait(ENDS_SECONDS) != -second:
        found.append(f"{command.log}: exit code {command.code} after {second.name}, the second signal")
    return found


def fill_disk(trajectory: Trajectory, draws: random.Random) -> Optional[list[str]]:
    """Let a checkpoint find no room on its disk, for good."""
    [command] = trajectory.start()
    if not _fill_while_saving(command, trajectory, draws):
        return None
    command.wait()
    return _one_line(command, "this checkpoint cannot be written") + [
        f"{path}: left behind" for path in partial_files(trajectory.folder, command.pid)
    ]


def fill_disk_for_a_moment(trajectory: Trajectory, draws: random.Random) -> Optional[list[str]]:
    """Let a checkpoint find no room on its disk once."""
    [command] = trajectory.start()
    if not _fill_while_saving(command, trajectory, draws):
        return None
    command.limit_files(-1)
    number = len(command.updates())
    if command.wait_until(lambda: len(command.updates()) >= number + 2):
        command.kill()
    return [] if command.code in (0, -signal.SIGKILL) else [f"{command.log}: exit code {command.code}"]


def _fill_while_saving(command: Command, trajectory: Trajectory, draws: random.Random) -> bool:
    """Let it have no room beyond a part of a checkpoint, and return whether it has said so."""
    if draws.random() < 0.5:
        wait_for_save(command, trajectory, draws)
    else:
        _let_train(command, draws)
    command.limit_files(int(draws.uniform(0.4, 0.95) * trajectory.reference.num_bytes))
    return command.wait_until(lambda: UNWRITTEN in command.text())


def spoil_last(trajectory: Trajectory, draws: random.Random) -> Optional[list[str]]:
    """Kill it, and delete, cut off, or flip a bit of its last checkpoint."""
    if kill(trajectory, draws) is None:
        return None
    last, siblings = trajectory.last, sorted(saved_in(trajectory.folder).glob("checkpoint_*.pt"))
    others = [path for path in siblings if path != last and path.resolve() != last.resolve()]
    if not last.is_file() or not others:
        return None
    content = bytearray(last.read_bytes())
    match draws.choice(["delete", "cut", "flip"]):
        case "delete":
            last.unlink()
        case "cut":
            last.write_bytes(content[: draws.randrange(len(content))])
        case "flip":
            content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
            last.write_bytes(content)
    trajectory.left_saved = max(map(num_updates_in, others))
    return []


def hide_audio(trajectory: Trajectory, draws: random.Random) -> Optional[list[str]]:
    """Rename a file of the corpus, or their folder, where the run has no tolerance for it; and then back."""
    [command] = trajectory.start()
    _let_train(command, draws)
    audio = trajectory.folder.parent / "data" / "audio"
    hidden = draws.choice([audio, *sorted(audio.glob("train*.wav"))[:: 1 + draws.randrange(9)]])
    with renamed_away(hidden):
        code = command.wait()
    return None if code == 0 else _one_line(command, "files (")


def _let_train(command: Command, draws: random.Random, least: int = 1) -> None:
    """Return a random moment after some updates; with `least=0`, perhaps before the first."""
    number = draws.randint(least, MAX_UPDATES)
    command.wait_until(lambda: len(command.updates()) >= number)
    time.sleep(draws.uniform(0, 0.05 if number else 1.0))


def _one_line(command: Command, message: str) -> list[str]:
    """Say where it did not end by a code other than 0 and one line with a message."""
    text = command.text()
    lines = [line for line in text.splitlines() if message in line and "[WARNING]" not in line]
    found = [f"{command.log}: {len(lines)} lines of {message!r}"] if len(lines) != 1 else []
    if command.code == 0 or "Traceback" in text:
        found.append(f"{command.log}: exit code {command.code}, {text.count('Traceback')} tracebacks")
    return found
