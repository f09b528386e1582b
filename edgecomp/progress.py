"""What a waiting person sees: stage lines and bars, on stderr, so that stdout stays data."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)


@contextlib.contextmanager
def stage(name: str, detail: str = "") -> Iterator[None]:
    """Prints the stage's name when it begins and its duration when it ends."""
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
