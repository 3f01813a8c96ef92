"""Writes docs/results.md and its picture from the rows that campaigns kept: MOTO on MetaWorld's tasks.

python scripts/results.py            # after moto campaign benchmarks/campaigns/ten.yaml, or another of them
python scripts/results.py --check    # only says whether the page is what would be written
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean as mean
from typing import NamedTuple

from written_page import write_or_compare

from moto_pl.campaigns.results import read_rows as rows_of
from moto_pl.datasets.info import PAPER_RETURNS
from moto_pl.report.charts import COLOURS
from moto_pl.report.statistics import wilson_interval

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
PICTURE = ROOT / "docs" / "results.png"
RESULTS = ROOT / "benchmarks" / "results"
TASKS = tuple(PAPER_RETURNS)
#: Rows of the table: their name in the campaign and on the page.
AGENTS = {"MOTO": "MOTO", "cloning_only": "its cloning alone"}
#: Agents of the campaign `three`, beside those.
OTHERS = {
    "BC": "BC",
    "IQL": "IQL",
    "DreamerV2": "DreamerV2",
    "no_penalty": "MOTO without its penalty",
    "no_cloning": "MOTO without its cloning",
}
EPISODES = (0, 30, 90, 150)
#: After so many episodes the campaign `ten500` evaluates.
LONG_EPISODES = (0, 70, 170, 270, 370, 470, 500)
#: Settings of the campaign `observation`, and how many episodes its runs collect.
SEEN = {"image": "image", "image_hand": "image, hand's position", "image_gripper": "image, camera in the hand"}
SEEN_EPISODES = (0, 40)
#: Settings of the campaign `initial_weights`, and the gradient steps after which it evaluates.
BEGUN = {"scratch": "random weights", "window_open": "those of window-open"}
BEGUN_STEPS = (0, 50, 100, 150, 200, 250, 300)

HEAD = """# Results

What the methods come to, from rows that are kept in [benchmarks/results](../benchmarks/results): one for each
evaluation and seed. `scripts/results.py` writes this page from them; a test fails where it is stale. What was tried on
the way, and what did not work, is in the [lab notebook](experiments.md).

## Ten MetaWorld tasks

```bash
moto campaign benchmarks/campaigns/ten.yaml    # half an hour of one core a run; goes on where it was
python scripts/results.py
```

Each run begins with ten demonstrations of its task, recorded with noise on the script's actions, takes 300 gradient
steps on them, then collects 150 episodes with 10 gradient steps each. All tasks have one configuration,
[configs/demo.yaml](../configs/demo.yaml), and nothing in it is set for a task; box-close's script alone gets less noise
(0.3 in place of 0.5, with which it never closes the box). The last policy is judged, on 20 episodes with seeds that are
never trained on. *Success* is at any step of an episode, *last* at its last one, *steps*
is how many of its 101 steps are in success. Figures are means over the seeds. The interval is Wilson's at 95 % over all
their episodes; it does not say how seeds vary.
"""

LONG = """
## 500 episodes

```bash
moto campaign benchmarks/campaigns/ten500.yaml    # 37 minutes of one core a run, two side by side; goes on where it was
```

The same settings and demonstrations, gone on with for as many episodes as MOTO's authors and TD-MPC2's collect.

{table}
{lacks}
""".rstrip()

BESIDE = """
## Beside other methods

```bash
moto campaign benchmarks/campaigns/three.yaml    # the others; MOTO and its cloning alone are the table's above
```

The same demonstrations, episodes and gradient steps. Of the episodes that it collects, BC clones those that succeed.
The last two are the paper's ablations.

{table}
"""

PUBLIC = """
## Beside what others have published

| task | MOTO here, 150 episodes | MOTO here, 500 | TD-MPC2, 500 | TD-MPC2, 1,000 | DreamerV3, 500 |
|---|---:|---:|---:|---:|---:|
{rows}

MOTO's authors report a mean of 80 % on these ten tasks after 500 online episodes, and no figure for a task. The other
columns are means of the three seeds that
[TD-MPC2's authors publish](https://github.com/nicklashansen/tdmpc2/tree/main/results), kept in
[benchmarks/results/public](../benchmarks/results/public). **These are not the same experiment**, and a difference says
little about the methods:

- TD-MPC2 sees the simulator's state and MetaWorld's shaped reward, and has no demonstrations. Here, as in MOTO's paper,
  the policy sees one 64 x 64 camera and a reward of 0 or 1, and begins with ten demonstrations.
- Our demonstrations are a script's with noise. Those of MOTO's authors are not public.
- Our models are small (128 units, 16 x 16 latents), so that a run takes half an hour of one core. The paper's have
  200 to 1,024 units, and twice the gradient steps an episode.
- An episode is 100 decisions of two simulator steps in all of them.
"""

OBSERVATION = """
## More than an image

```bash
moto campaign benchmarks/campaigns/observation.yaml    # a few minutes of one core a run
```

The same settings, cut to 40 online episodes, with what an agent sees changed ([observations](observations.md)). One
set of ten demonstrations a task holds all of it, so that all runs of a task learn from the same episodes. The hand's
position comes with the gripper's opening.

{table}
"""

INITIAL_WEIGHTS = """
## Another task's weights

```bash
moto campaign benchmarks/campaigns/initial_weights.yaml    # after observation.yaml, whose policy it begins with
```

Pre-training on ten demonstrations of window-close, from random weights and from those of a policy that opens the window
([`--init`](policy.md#as-the-beginning-of-a-run)). Success after so many gradient steps, 20 episodes an evaluation, as
the mean of the seeds:

{table}
"""


class Row(NamedTuple):
    """A kept evaluation."""

    agent: str
    task: str
    setting: str
    seed: int
    step: int
    online_episodes: int
    phase: str
    episodes: int
    success: float
    last: float
    steps: float

    @property
    def final(self) -> bool:
        """Whether the run ended with it."""
        return self.phase == "final"


def read_rows(campaign: str, untrained: bool = False) -> list[Row]:
    """What a campaign kept (:mod:`moto_pl.campaigns.results`), of untrained policies where they are asked for."""
    found = []
    for path in sorted((RESULTS / campaign).glob("*/*.csv")):
        for row in rows_of(path):
            seed, step, collected = int(row["seed"]), int(row["step"]), int(row["online_episodes"])
            numbers = (float(row[name]) for name in ("success", "success_last", "success_steps"))
            names = path.parent.name, path.stem, row["setting"]
            if untrained or row["phase"] != "untrained":
                found.append(Row(*names, seed, step, collected, row["phase"], int(row["episodes"]), *numbers))
    if not found:
        raise LookupError(f"no rows in {RESULTS / campaign}: moto campaign benchmarks/campaigns/{campaign}.yaml")
    return found


def percent(share: float) -> str:
    """A share as the page writes it."""
    return f"{share:.0%}".replace("%", " %")


def joined(cells: Iterable[str]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def success_at(rows: Iterable[Row], episodes: int) -> float:
    """Mean success where the runs had collected that many episodes; one at least has."""
    return mean(row.success for row in rows if row.online_episodes == episodes)


def cell(rows: Sequence[Row], episodes: int) -> str:
    """:func:`success_at` as the page writes it; a dash where no run got so far."""
    there = any(row.online_episodes == episodes for row in rows)
    return percent(success_at(rows, episodes)) if there else "-"


def line(names: Sequence[str], rows: Sequence[Row], counts: Sequence[int]) -> str:
    """A row of a table: success after so many episodes, and where the runs of it ended."""
    final = [row for row in rows if row.final]
    trials = sum(row.episodes for row in final)
    low, high = wilson_interval(round(sum(row.success * row.episodes for row in final)), trials)
    cells = [*names, str(len(final)), *(cell(rows, episodes) for episodes in counts)]
    cells += [f"{low:.0%} to {high:.0%}".replace("%", " %"), percent(mean(row.last for row in final))]
    return joined([*cells, f"{mean(row.steps for row in final):.1f}"])


def head(names: Sequence[str], counts: Sequence[int]) -> str:
    """The first two lines of a table of :func:`line`."""
    numbers = ["seeds", "pre-trained", *(f"{count} episodes" for count in counts[1:]), "interval", "last", "steps"]
    return f"{joined([*names, *numbers])}\n|{'---|' * len(names)}{'---:|' * len(numbers)}"


def lines_of(rows: Sequence[Row], column: str, names: Mapping[str, str], counts: Sequence[int]) -> list[str]:
    """A line for each task and each of these names of which a run has ended; ``column`` is what they name."""
    lines = []
    for task in sorted({row.task for row in rows}):
        for value, name in names.items():
            mine = [row for row in rows if (row.task, getattr(row, column)) == (task, value)]
            if any(row.final for row in mine):
                lines.append(line((task, name), mine, counts))
    return lines


def lacking(rows: Sequence[Row]) -> str:
    """Says which of the ten tasks have not been run to their end."""
    missing = [task for task in TASKS if not any(row.task == task and row.final for row in rows)]
    return f"\nNot run yet: {', '.join(missing)}.\n" if missing else ""


def table(rows: Sequence[Row], counts: Sequence[int] = EPISODES) -> str:
    """The tasks that were run, and the mean over them where all ten were."""
    cells: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        cells[row.task, row.agent].append(row)
    cells = {key: some for key, some in cells.items() if any(row.final for row in some)}
    lines = [head(("task", "agent"), counts), *lines_of(rows, "agent", AGENTS, counts)]
    for agent, name in AGENTS.items():
        mine = {task: cells[task, agent] for task in TASKS if (task, agent) in cells}
        if len(mine) < len(TASKS):
            continue
        final = [[row for row in some if row.final] for some in mine.values()]
        means = [
            f"**mean of {len(TASKS)}**",
            name,
            "",
            *(percent(mean(success_at(some, count) for some in mine.values())) for count in counts),
        ]
        means += ["", percent(mean(mean(row.last for row in some) for some in final))]
        means.append(f"{mean(mean(row.steps for row in some) for some in final):.1f}")
        lines.append(joined(means))
    return "\n".join(lines)


def ended(rows: Sequence[Row]) -> list[str]:
    """A column of the table of public figures: MOTO's success at the end on each task, and their mean."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.agent == "MOTO" and row.final:
            values[row.task].append(row.success)
    whole = len(values) == len(TASKS)
    cells = [percent(mean(values[task])) if task in values else "-" for task in TASKS]
    return [*cells, percent(mean(mean(some) for some in values.values())) if whole else "-"]


def published(rows: Sequence[Row], longer: Sequence[Row]) -> str:
    """The section that puts our figures beside public ones."""
    with (RESULTS / "public" / "tdmpc2.csv").open() as file:
        others = {
            (row["task"], row["agent"], int(row["episodes"])): float(row["success"]) for row in csv.DictReader(file)
        }
    columns = (("TD-MPC2", 500), ("TD-MPC2", 1000), ("DreamerV3", 500))
    lines = [[task, *(f"{others[task, agent, count]:.0f} %" for agent, count in columns)] for task in TASKS]
    means = (mean(others[task, agent, count] for task in TASKS) for agent, count in columns)
    lines.append(["**mean**", *(f"{value:.0f} %" for value in means)])
    cells = zip(lines, ended(rows), ended(longer), strict=True)
    text = "\n".join(joined([task, short, long, *public]) for (task, *public), short, long in cells)
    return PUBLIC.format(rows=text)


def beside(rows: Sequence[Row], others: Sequence[Row]) -> str:
    """Other methods on those of the tasks that they were run on."""
    tasks = {row.task for row in others}
    both = [*(row for row in rows if row.task in tasks), *others]
    lines = [head(("task", "agent"), EPISODES), *lines_of(both, "agent", {**AGENTS, **OTHERS}, EPISODES)]
    return BESIDE.format(table="\n".join(lines))


def seen(rows: Sequence[Row]) -> str:
    """What MOTO comes to where it sees more than an image."""
    lines = [head(("task", "sees"), SEEN_EPISODES), *lines_of(rows, "setting", SEEN, SEEN_EPISODES)]
    return OBSERVATION.format(table="\n".join(lines))


def begun(rows: Sequence[Row]) -> str:
    """How soon MOTO succeeds that begins with another task's weights."""
    titles = ["begins with", "seeds", *(f"{step}" for step in BEGUN_STEPS)]
    lines = [joined(titles), f"|---|{'---:|' * (len(titles) - 1)}"]
    for setting, name in BEGUN.items():
        mine = [row for row in rows if row.setting == setting]
        means = [[row.success for row in mine if row.step == step] for step in BEGUN_STEPS]
        cells = [name, str(len({row.seed for row in mine})), *(percent(mean(some)) if some else "-" for some in means)]
        lines.append(joined(cells))
    return INITIAL_WEIGHTS.format(table="\n".join(lines))


def page() -> str:
    """All of docs/results.md."""
    rows, longer = read_rows("ten"), read_rows("ten500")
    curves = "\n![Success of each task over the episodes that were collected](results.png)\n"
    others = seen(read_rows("observation")) + begun(read_rows("initial_weights", untrained=True))
    more = LONG.format(table=table(longer, LONG_EPISODES), lacks=lacking(longer))
    compared = beside(rows, read_rows("three")) + published(rows, longer)
    return f"{HEAD}\n{table(rows)}\n{lacking(rows)}{curves}{more}{compared}{others}"


def draw() -> None:
    """Learning curves, a panel a task: a line a seed, a thick one for their mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_rows("ten")
    curves = [(label, [row for row in rows if row.agent == agent]) for agent, label in AGENTS.items()]
    curves.append(("MOTO, 500 episodes", read_rows("ten500")))
    tasks = [task for task in TASKS if any(row.task == task for row in rows)]
    columns = min(5, len(tasks))
    lines = -(-len(tasks) // columns)
    figure = Figure(figsize=(max(5, 2.2 * columns), 0.8 + 1.9 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    for task, axes in zip(tasks, panels, strict=False):
        for (label, all_rows), colour in zip(curves, COLOURS, strict=False):
            mine = [row for row in all_rows if row.task == task]
            for seed in sorted({row.seed for row in mine}):
                curve = sorted((row.online_episodes, row.success) for row in mine if row.seed == seed)
                axes.plot(*zip(*curve, strict=True), color=colour, alpha=0.3, linewidth=1)
            counts = sorted({row.online_episodes for row in mine})
            means = [success_at(mine, count) for count in counts]
            if counts:
                axes.plot(counts, means, color=colour, linewidth=2, label=label)
        axes.set_title(task, fontsize=10)
        axes.set_ylim(-0.03, 1.03)
        axes.grid(alpha=0.2)
    for axes in panels:
        axes.remove()
    figure.supxlabel("online episodes", fontsize=10)
    figure.supylabel("success", fontsize=10)
    handles = {
        text: handle for axes in figure.axes for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=3, frameon=False)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    status = write_or_compare("results", PAGE, page)
    if not status and "--check" not in sys.argv[1:]:
        draw()
    sys.exit(status)
