"""What a waiting person sees: stage lines and bars, on stderr, so that stdout stays data."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

from rich.console import Console
from rich.text import Text

from .text import printable

console = Console(stderr=True, highlight=False)

_interrupts: list[int] = []
_stages: list[str] = []


def remember_interrupts() -> None:
    """Makes Ctrl-C count even where a library swallows the KeyboardInterrupt: the next stage does not begin then. Being
    told to end, or losing the terminal, is the same as Ctrl-C: what lies on a device is removed first."""

    def handler(number: int, frame: FrameType | None) -> None:
        _interrupts.append(number)
        signal.default_int_handler(number, frame)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


@contextlib.contextmanager
def stage(name: str, detail: str = "") -> Iterator[None]:
    """Prints the stage's name when it begins and its duration when it ends."""
    if _interrupts:
        raise KeyboardInterrupt
    console.print(Text.assemble((f"▸ {name}", "bold cyan"), f" {printable(detail)}"))
    start = time.monotonic()
    _stages.append(name)
    yield
    _stages.pop()  # not where it fails: the message tells of the stage
    console.print(Text(f"  {name} done in {time.monotonic() - start:.1f} s", "dim"))


def failed_stage() -> str:
    """The stage that has begun and not ended; empty if there is none."""
    return _stages[-1] if _stages else ""


def note(text: str) -> None:
    """One line under the current stage."""
    console.print(Text(f"  {printable(text, lines=True)}"))


@contextlib.contextmanager
def bar(title: str, total: int) -> Iterator[Callable[..., None]]:
    """A progress bar; call what it yields with the number of steps done, and `text=` to show beside it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("  {task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(printable(title), total=total, text="")

        def advance(steps: int = 1, text: str | None = None) -> None:
            progress.update(task, advance=steps, **({} if text is None else {"text": printable(text)}))

        yield advance
