"""The line that shows how far a stage is: redrawn on a terminal, printed every 5 seconds in a log.

    [16/33] mdloo1 ====>---- 92/160  reward 0.981  truth 71%  KL 0.312  0:12 left (all 3:40)
"""
import shutil
import sys
import time

# Set by lab/runner.py:
plain = False  # True: print as in a log, on a terminal too
place = ""  # of the current stage among those of the run, such as "[16/33] "
rest = 0.0  # about how many seconds the stages after it take

# The first of these groups that a step's metrics have is shown. A policy's loss means nothing, and
# a loss with weights is not in nats a token, but the nll is.
FIGURES = [["reward", "truth %", "KL"], ["nll"], ["loss"], []]


def clock(seconds):
    """75.4 -> '1:15'"""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02}"


def is_live():
    """Return whether a line can be redrawn: on a terminal that no other process prints to."""
    return sys.stdout.isatty() and not plain


def show(text, stays=True):
    """Print a line. On a terminal, the next line replaces one that does not stay."""
    if is_live():  # "\r": any other output replaces the line, too
        text = text.ljust(shutil.get_terminal_size().columns - 1)
    print(text, end="\r" if is_live() and not stays else "\n", flush=True)


class Progress:
    """The progress line of a loop. unit: what the metric "count" of a step counts."""

    def __init__(self, name, steps, unit=""):
        self.name, self.steps, self.unit = name, steps, unit
        self.started = self.shown = time.perf_counter()
        self.done = self.count = 0  # steps and units of this process, without those before a resume
        self.figures = {}  # moving averages

    def update(self, step, metrics):
        """Count a step, and show the line if it is time to. metrics: of the step, or {}."""
        self.done, self.count = self.done + 1, self.count + metrics.get("count", 0)
        for name in next(names for names in FIGURES if metrics.keys() >= set(names)):
            average = self.figures.get(name, metrics[name])
            self.figures[name] = 0.9 * average + 0.1 * metrics[name]
        now = time.perf_counter()
        is_last = step == self.steps and metrics  # a log has the last figures
        if is_last or now - self.shown >= (0.1 if is_live() else 5):
            self.shown = now
            show(self.line(step, now - self.started), stays=False)

    def line(self, step, seconds):
        """Return the line, without its last figures and the bar if the terminal is narrow."""
        columns = shutil.get_terminal_size().columns
        left = seconds / self.done * (self.steps - step)
        parts = [f"{step}/{self.steps}"]
        parts += [f"{name[:-2]} {value:.0f}%" if name.endswith(" %") else f"{name} {value:.3f}"
                  for name, value in self.figures.items()]
        if self.count:
            parts.append(f"{self.count / seconds:,.0f} {self.unit}/s")
        parts.append(f"{clock(left)} left" + (f" (all {clock(left + rest)})" if place else ""))
        head = f"{place}{self.name} "
        while len(head + "  ".join(parts)) >= columns and len(parts) > 2:
            parts.pop(-2)
        text = "  ".join(parts)
        size = min(20, columns - 2 - len(head) - len(text))  # of the bar
        if is_live() and size >= 5:
            head += ("=" * (size * step // self.steps) + ">").ljust(size, "-")[:size] + " "
        return (head + text)[:columns - 1]


def track(items, name):
    """Iterate over items, and show how many are done: "[33/33] evaluation: models 2/6  0:40 left".

    name: of the stage, and of what is counted."""
    items = list(items)
    progress = Progress(name, len(items))
    for number, item in enumerate(items, 1):
        yield item
        progress.update(number, {})
