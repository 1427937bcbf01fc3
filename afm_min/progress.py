"""The line that shows how far a stage is: redrawn on a terminal, printed every 5 seconds in a log.

    [16/35] mdloo1 ====>---- 92/160  reward 0.981  truth 71%  KL 0.312  0:12 left (all 3:40)
"""
import shutil
import sys
import time

# Set by lab/runner.py:
plain = False  # True: print plain lines, even on a terminal
place = ""  # the current stage's position in the run, such as "[16/35] "
rest = 0.0  # expected seconds of all later stages

# The line shows the first group that a step reports in full: rewards before the loss, as a policy's
# loss shows no progress, and the nll before the loss, as a weighted loss is not in nats per token.
FIGURES = [["reward", "truth %", "KL"], ["nll"], ["loss"], []]


def clock(seconds):
    """Format seconds as minutes and seconds: 75.4 -> '1:15'"""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02}"


def is_live():
    """Return True if lines can be redrawn: on a terminal that no other process prints to."""
    return sys.stdout.isatty() and not plain


def show(text, stays=True):
    """Print a line. With stays=False, a terminal shows it until the next line overwrites it."""
    if is_live():  # pad with spaces, which overwrite the rest of a longer line
        text = text.ljust(shutil.get_terminal_size().columns - 1)
    print(text, end="\r" if is_live() and not stays else "\n", flush=True)


class Progress:
    """The progress line of a loop. unit: the unit of the metric "count", such as "tokens"."""

    def __init__(self, name, steps, unit=""):
        self.name, self.steps, self.unit = name, steps, unit
        self.started = self.shown = time.perf_counter()  # shown: when the line was last printed
        self.done = self.count = 0  # steps and units since this process started or resumed the loop
        self.figures = {}  # name -> moving average of the metric

    def update(self, step, metrics):
        """Count a step, and show the line if it is due. metrics: those of the step, or {}."""
        self.done += 1
        self.count += metrics.get("count", 0)
        for name in next(group for group in FIGURES if all(name in metrics for name in group)):
            average = self.figures.get(name, metrics[name])
            self.figures[name] = 0.9 * average + 0.1 * metrics[name]
        now = time.perf_counter()
        has_last_figures = metrics and step == self.steps  # always shown, so that a log has them
        if has_last_figures or now - self.shown >= (0.1 if is_live() else 5):
            self.shown = now
            show(self.line(step, now - self.started), stays=False)

    def line(self, step, seconds):
        """Return the line. In a narrow terminal it has no bar, and as many figures as fit."""
        columns = shutil.get_terminal_size().columns
        left = seconds / self.done * (self.steps - step)
        parts = [f"{step}/{self.steps}"]
        parts += [f"{name[:-2]} {value:.0f}%" if name.endswith(" %") else f"{name} {value:.3f}"
                  for name, value in self.figures.items()]
        if self.count:
            parts.append(f"{self.count / seconds:,.0f} {self.unit}/s")
        of_run = f" (all {clock(left + rest)})" if place else ""
        parts.append(f"{clock(left)} left{of_run}")
        head = f"{place}{self.name} "
        while len(head + "  ".join(parts)) >= columns and len(parts) > 2:
            parts.pop(-2)  # the last figure: parts are the step, figures and the time left
        text = "  ".join(parts)
        width = min(20, columns - 2 - len(head) - len(text))  # of the bar, which a space follows
        if is_live() and width >= 5:
            bar = "=" * (width * step // self.steps) + ">"
            head += bar.ljust(width, "-")[:width] + " "  # a full bar has no ">"
        return (head + text)[:columns - 1]


def track(items, name):
    """Iterate over items, and show how many are done. With the name "evaluation: models", it shows
    "[33/33] evaluation: models 2/6  0:40 left"."""
    items = list(items)
    progress = Progress(name, len(items))
    for number, item in enumerate(items, 1):
        yield item
        progress.update(number, {})
