"""What a waiting person sees: stage lines and bars, on stderr, so that stdout stays data."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

from rich.console import Console

console = Console(stderr=True, highlight=False)

_interrupts: list[int] = []


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
    console.print(f"[bold cyan]▸ {name}[/] {detail}")
    start = time.monotonic()
    yield
    console.print(f"  [dim]{name} done in {time.monotonic() - start:.1f} s[/]")


def note(text: str) -> None:
    """One line under the current stage."""
    console.print(f"  {text}")


@contextlib.contextmanager
def bar(title: str, total: int) -> Iterator[Callable[..., None]]:
    """A progress bar; call what it yields with the number of steps done, and `text=` to show beside it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total, text="")

        def advance(steps: int = 1, text: str | None = None) -> None:
            progress.update(task, advance=steps, **({} if text is None else {"text": text}))

        yield advance
