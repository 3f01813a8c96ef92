"""``moto report``: one HTML page that says how a run went, and opens without a network."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from moto_pl.errors import SettingError
from moto_pl.files import write_whole
from moto_pl.reading import is_inside, parse_json, read_bytes
from moto_pl.report.charts import METRIC_LABELS, Curve, comparison_figure, line_chart, thin
from moto_pl.report.compare import comparison_section
from moto_pl.report.comparison import Comparison, Metric, compare_runs
from moto_pl.report.html import figure_block, html_page, number
from moto_pl.report.output import DIRECTORY as ANALYSES
from moto_pl.report.records import Evaluation, RunRecord, Series, read_run
from moto_pl.report.results import PHASES, evaluation_curves, results_section
from moto_pl.report.statistics import running_mean

FILE = "report.html"
MAX_VIDEOS = 8
MAX_VIDEO_BYTES = 30_000_000  # of all videos together, as they stand in the page
WINDOW = 10  # online episodes that a running mean covers


class Plot(NamedTuple):
    """Metrics that share a chart."""

    title: str
    metrics: tuple[str, ...]
    caption: str


PLOTS = (
    Plot(
        "Image loss",
        ("model/image", "held_out/model/image"),
        "Negative log-likelihood of the frames, without its constant.",
    ),
    Plot(
        "Reward loss",
        ("model/reward", "held_out/model/reward"),
        "Negative log-likelihood of the rewards, without its constant.",
    ),
    Plot(
        "Latent KL",
        ("model/kl", "model/kl_nats", "held_out/model/kl"),
        "model/kl is the loss, which stops at the free nats; model/kl_nats is the divergence itself.",
    ),
    Plot("Critic losses", ("critic/model", "critic/real"), "Squared errors on imagined and on real transitions."),
    Plot(
        "Values",
        ("critic/value", "critic/target", "actor/return"),
        "What critics and imagination expect, the penalty included.",
    ),
    Plot(
        "Actor losses",
        ("actor/value", "actor/clone"),
        "actor/value falls as the expected value grows; actor/clone is the weighted imitation of good data.",
    ),
    Plot(
        "Policy",
        ("actor/entropy", "actor/clone_log_prob", "actor/clone_share"),
        "Entropy of the policy, and its log-density of the cloned actions.",
    ),
    Plot(
        "Imagined reward and penalty",
        ("imagined/reward", "imagined/penalty"),
        "Means per imagined step. A penalty far above the reward keeps the policy where the model's heads agree.",
    ),
    Plot("Gradient norms", ("grad_norm/model", "grad_norm/actor", "grad_norm/critic"), "Before clipping."),
)
SPEED_PLOTS = (
    Plot("Gradient steps per second", ("speed/updates_per_s",), "Training time alone."),
    Plot("Environment steps per second", ("speed/env_steps_per_s",), "Collecting time alone."),
    Plot("Time spent waiting for data", ("speed/data_wait",), "Share of the training time, 0 to 1."),
)
# Metrics of these families that no plot above names (another agent's, say) are drawn in one chart a family.
FAMILIES = ("model", "critic", "actor", "imagined", "held_out")
IN_NO_CHART = ("model/data_disagreement", "model/posterior_entropy", "imagined/disagreement")


def write_report(run: Path, against: Sequence[Path] = ()) -> Path:
    """Writes ``<run>/report.html``, whole under another name first, and returns its path.

    Args:
        run: directory of a run, finished or in progress; what is missing is said in the page.
        against: runs to compare it with, in a section of its own.

    Raises:
        SettingError: where a directory holds no run, the runs cannot be compared, or the page cannot be written.
    """
    run = Path(run)
    comparison = compare_runs([(None, path) for path in (run, *against)]) if against else None
    page = render(read_run(run), comparison)
    path = run / FILE
    try:
        write_whole(path, page.encode())
    except OSError as error:
        found = f"{path}, which could not be written ({error.strerror})"
        raise SettingError("run", found, "Free disk space, or allow writing there.") from None
    return path


def render(record: RunRecord, comparison: Comparison | None = None) -> str:
    """The page as a string; with a ``comparison``, that is a section of it."""
    sections = [
        ("Results", results_section(record)),
        ("Learning curves", _curves(record)),
        *([("Comparison", comparison_section(comparison, comparison_figure(comparison)))] if comparison else []),
        ("Training", _training(record)),
        *([("Analyses", analyses)] if (analyses := _analyses(record)) else []),
        ("Videos", _videos(record)),
        ("Data", _data(record)),
        ("Throughput", _throughput(record)),
        ("Configuration", _configuration(record)),
        ("Files", _files(record)),
    ]
    names = [(title.lower().replace(" ", "-"), title, body) for title, body in sections]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in names)
    body = "".join(
        f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{title}</h2>{body}</section>'
        for name, title, body in names
    )
    title = _title(record)
    header = (
        f"<header><h1>{escape(title)}</h1>{_subtitle(record)}"
        f'<p class="verdict">{escape(verdict(record))}</p>{_missing(record)}'
        f'<nav aria-label="Sections">{links}</nav></header>'
    )
    return html_page(title, header + body)


# Head of the page.


def verdict(record: RunRecord) -> str:
    """The run in one line: successes now, after pre-training and untrained."""
    steps = record.steps
    progress = ""
    if record.schedule is not None and steps < record.schedule.total_steps:
        progress = f" The run stands at {steps:,} of {record.schedule.total_steps:,} gradient steps."
    evaluations = [e for e in record.evaluations if e.stage == "eval"]
    tests = [e for e in record.evaluations if e.stage == "test"]
    parts = []
    if evaluations:
        last = evaluations[-1]
        when = PHASES.get(last.phase, last.phase)
        if last.phase in ("offline", "online"):
            when += f" ({last.step:,} gradient steps)"
        parts.append(f"Success {last.successes} of {last.episodes} {when}{_staying(last)}")
        for phase in ("pretrained", "untrained"):
            earlier = [e for e in evaluations[:-1] if e.phase == phase]
            parts += [f"{e.successes} of {e.episodes} {PHASES[phase]}" for e in earlier]
    if tests:
        last = tests[-1]
        when = f"on the test seeds after {last.step:,} gradient steps"
        parts.append(f"{last.successes} of {last.episodes} {when}{_staying(last)}")
    return ("; ".join(parts) + "." if parts else "Nothing has been evaluated yet.") + progress


def _staying(evaluation: Evaluation) -> str:
    """Whether the policy stayed in success; nothing where that was not recorded."""
    if not evaluation.success_last or not evaluation.success_steps:
        return ""
    steps = number(float(np.mean(evaluation.success_steps)))
    return f" (at the last step {sum(evaluation.success_last)}; {steps} steps in success an episode)"


def _agent(record: RunRecord) -> str:
    path = record.setting("model", "class_path")
    return path.rsplit(".", 1)[-1] if isinstance(path, str) else ""


def _title(record: RunRecord) -> str:
    env = record.setting("data", "env")
    name = record.root.resolve().name
    return f"{_agent(record) or 'Run'} on {env}" if env else f"{_agent(record) or 'Run'} {name}".strip()


def _subtitle(record: RunRecord) -> str:
    times = [path.stat().st_mtime for path in record.root.rglob("*") if path.is_file() and path.name != FILE]
    first, last = (datetime.fromtimestamp(of(times, default=0)).strftime("%Y-%m-%d %H:%M") for of in (min, max))
    written = last if first == last else f"{first} to {last.removeprefix(first[:11])}"
    seed = record.setting("seed_everything")
    parts = [f"<code>{escape(str(record.root.resolve()))}</code>", f"files of {escape(written)}"]
    if seed is not None:
        parts.append(f"seed {escape(str(seed))}")
    return f'<p class="meta">{" · ".join(parts)}</p>'


def _missing(record: RunRecord) -> str:
    notes = list(record.missing)
    for name, series in record.metrics.items():
        bad = ~np.isfinite(series.value)
        if bad.any():
            first = series.step[bad][0]
            notes.append(f"{name} is not finite in {bad.sum():,} rows, first after {first:,} gradient steps.")
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<aside class="note" aria-label="Missing parts"><strong>Missing or broken</strong><ul>{items}</ul></aside>'


# Curves.


def _curves(record: RunRecord) -> str:
    charts = evaluation_curves(record) + _online_charts(record)
    return f"<div class='charts wide'>{''.join(charts)}</div>" if charts else "<p>There is nothing to draw yet.</p>"


def _online_charts(record: RunRecord) -> list[str]:
    charts = []
    envs = _envs(record)
    bounds: tuple[float, float] | None
    name: Metric
    for name, bounds in (
        ("success", (0.0, 1.0)),
        ("success_last", (0.0, 1.0)),
        ("success_steps", None),
        ("return", None),
        ("objects", None),
    ):
        series = record.metrics.get(f"online/{name}")
        if series is None:
            continue
        label = METRIC_LABELS[name]
        title = "Online success" if name == "success" else f"Online {label}"
        episode = envs * np.arange(1, len(series.value) + 1)
        rounds = math.ceil(WINDOW / envs)
        smooth = running_mean(series.value, rounds)
        curves = [
            Curve("single episodes" if envs == 1 else f"means of {envs} episodes", episode, series.value, True),
            Curve(f"running mean over {rounds * envs}", episode, smooth),
        ]
        charts.append(
            figure_block(
                title,
                line_chart(curves, "online episode", label, f"online-{name}", None, bounds),
                "Episodes that the policy collected while exploring; each is trained on afterwards.",
                f"{title} over {episode[-1]:,} episodes; the running mean ends at {number(float(smooth[-1]))}.",
            )
        )
    return charts


def _envs(record: RunRecord) -> int:
    envs = record.setting("data", "num_envs")
    return envs if isinstance(envs, int) and envs > 0 else 1


def _training(record: RunRecord) -> str:
    charts = _plots(record, PLOTS)
    named = {name for plot in (*PLOTS, *SPEED_PLOTS) for name in plot.metrics} | set(IN_NO_CHART)
    for family in FAMILIES:
        rest = tuple(name for name in record.metrics if name.startswith(f"{family}/") and name not in named)
        charts += _plots(record, (Plot(f"Other of {family}/", rest, "As logged."),))
    if not charts:
        return "<p>No training step has been logged yet.</p>"
    return f"<div class='charts'>{''.join(charts)}</div>"


def _plots(record: RunRecord, plots: Iterable[Plot]) -> list[str]:
    charts = []
    for plot in plots:
        found = [(name, record.metrics[name]) for name in plot.metrics if name in record.metrics]
        found = [(name, series) for name, series in found if np.isfinite(series.value).any()]
        if not found:
            continue
        curves = [Curve(name, *thin(series)) for name, series in found]
        slug = re.sub(r"[^a-z]+", "-", plot.title.lower()).strip("-")
        label = found[0][0] if len(found) == 1 else ""
        said = "; ".join(f"{name} {_course(series)}" for name, series in found)
        svg = line_chart(curves, "gradient steps", label, slug, record.offline_steps)
        charts.append(figure_block(plot.title, svg, plot.caption, f"{plot.title} against gradient steps: {said}."))
    return charts


def _course(series: Series) -> str:
    return f"from {number(series.value[0])} to {number(series.value[-1])}"


# Analyses.


def _analyses(record: RunRecord) -> str:
    """What ``moto analyze`` left in the run: pictures with their captions; nothing where there is none."""
    figures = []
    for path in sorted((record.root / ANALYSES).glob("*.json")):
        picture = path.with_suffix(".png")
        try:
            said = parse_json(read_bytes(path, MAX_VIDEO_BYTES, record.root), dict)
            title, caption, date = (str(said[name]) for name in ("title", "caption", "date"))
            image = read_bytes(picture, MAX_VIDEO_BYTES, record.root)
        except (OSError, ValueError, KeyError, TypeError):
            record.missing.append(f"{path.relative_to(record.root)} is not whole and was left out.")
            continue
        source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        figures.append(
            f"<figure><h3>{escape(title)}</h3><img src='{source}' alt='{escape(caption, quote=True)}'>"
            f"<figcaption>{escape(caption)} ({escape(date)})</figcaption></figure>"
        )
    return "".join(figures)


# Videos.


def _videos(record: RunRecord) -> str:
    found = sorted((record.root / "videos").glob("[!.]*.mp4"))
    paths = [path for path in found if is_inside(path, record.root)]
    record.missing.extend(f"videos/{p.name} is a link, or no file." for p in found if p not in paths)
    if not paths:
        return "<p>There are no videos yet.</p>"
    shown: set[Path] = set()
    room = float(MAX_VIDEO_BYTES)
    for path in _by_interest(record, paths):
        inlined = path.stat().st_size * 4 / 3
        if len(shown) < MAX_VIDEOS and inlined <= room:
            shown.add(path)
            room -= inlined
    order = sorted(shown, key=lambda path: (_step_of(path)[0] == "open_loop", _step_of(path)[1] or 0, path.name))
    figures = "".join(_video(record, path) for path in order)
    left_out = [path for path in paths if path not in shown]
    note = ""
    if left_out:
        links = ", ".join(_link(record, path) for path in left_out)
        note = (
            f"<details><summary>{len(left_out)} more not in this page (at most {MAX_VIDEOS} videos and "
            f"{MAX_VIDEO_BYTES // 1_000_000} MB are)</summary><p>They lie in the run's directory: {links}</p></details>"
        )
    return f"<div class='videos'>{figures}</div>{note}"


def _by_interest(record: RunRecord, paths: Sequence[Path]) -> list[Path]:
    """What tells most first: newest and first evaluation, end of pre-training, newest predictions, tests."""
    kinds: dict[str, list[Path]] = {"eval": [], "open_loop": [], "test": [], "": []}
    for path in sorted(paths, key=lambda path: _step_of(path)[1] or 0, reverse=True):
        kinds[_step_of(path)[0]].append(path)
    evaluations, predictions = kinds["eval"], kinds["open_loop"]
    pretrained = [path for path in evaluations + predictions if _step_of(path)[1] == record.offline_steps]
    first = [*evaluations[:1], *predictions[:1], *evaluations[-1:], *kinds["test"][:1], *pretrained]
    # Then as they come, the kinds in turn.
    rest = [path for pair in zip(evaluations[1:], predictions[1:], strict=False) for path in pair]
    return list(dict.fromkeys([*first, *rest, *evaluations, *predictions, *kinds["test"], *kinds[""]]))


def _step_of(path: Path) -> tuple[str, int | None]:
    match = re.fullmatch(r"(eval|test|open_loop)_(\d+)", path.stem)
    return (match[1], int(match[2])) if match else ("", None)


def _video(record: RunRecord, path: Path) -> str:
    kind, step = _step_of(path)
    if step is None:
        heading, caption = path.stem, "A video that the run did not name."
    else:
        heading = f"{'World model' if kind == 'open_loop' else 'Policy'} after {step:,} gradient steps"
        phase = _phase_at(record, step)
        heading += f", {phase}" if phase else ""
        caption = _caption(record, kind, step)
    data = base64.b64encode(read_bytes(path, MAX_VIDEO_BYTES, record.root)).decode()
    alt = escape(f"{heading}. {caption}", quote=True)
    return (
        f"<figure class='video'><video controls loop muted playsinline preload='metadata' aria-label='{alt}' "
        f"src='data:video/mp4;base64,{data}'></video><figcaption><b>{escape(heading)}</b><br>{escape(caption)} "
        f"{_link(record, path)}</figcaption></figure>"
    )


def _caption(record: RunRecord, kind: str, step: int) -> str:
    if kind == "open_loop":
        return (
            "The world model's predictions: recorded frames above, the model in the middle, its error below (grey is "
            "none). It sees the first frames and then only the recorded actions. One sequence a column."
        )
    seeds = "test" if kind == "test" else "evaluation"
    found = [e for e in record.evaluations if e.stage == kind and e.step == step]
    of = f" Of all {found[0].episodes}, {found[0].successes} succeed{_staying(found[0])}." if found else ""
    return f"The first episodes on the {seeds} seeds, side by side; one that ends early holds its last frame.{of}"


def _phase_at(record: RunRecord, step: int) -> str:
    phase = record.schedule.phase(step) if record.schedule is not None else ""
    phase = phase or next((e.phase for e in record.evaluations if e.step == step), "")
    return PHASES.get(phase, phase)


# Data, throughput, settings, files.


def _data(record: RunRecord) -> str:
    episodes = list((record.root / "replay").glob("*.safetensors"))
    held_out = list((record.root / "replay" / "held_out").glob("*.safetensors"))
    size = sum(path.stat().st_size for path in episodes)
    demonstrations = record.dataset.get("episodes")
    online = max((e.online_episodes for e in record.evaluations), default=0)
    rounds = record.metrics.get("online/success")
    if rounds is not None:
        online = max(online, len(rounds.value) * _envs(record))
    rows = [
        ("Environment", record.setting("data", "env") or "unknown"),
        ("Demonstrations from", record.dataset.get("dataset") or record.setting("data", "dataset") or "no dataset"),
        ("Demonstrations trained on", demonstrations if demonstrations is not None else "not taken in"),
        ("Demonstrations held out", len(held_out)),
        ("Online episodes", f"{online:,}"),
    ]
    if rounds is not None:
        last = rounds.value[-math.ceil(WINDOW / _envs(record)) :]
        text = f"{rounds.value.mean():.0%} of all, {last.mean():.0%} of the last {len(last) * _envs(record)}"
        rows.append(("Online success", text))
    at_last = record.metrics.get("online/success_last")
    if at_last is not None:
        rows.append(("Online success at the last step", f"{at_last.value.mean():.0%} of all"))
    rows.append(("Replay", f"{len(episodes):,} episodes, {_bytes(size)}"))
    return _facts(rows)


def _throughput(record: RunRecord) -> str:
    rows = []
    for name, label, form in (
        ("updates_per_s", "Gradient steps per second", number),
        ("env_steps_per_s", "Environment steps per second", number),
        ("data_wait", "Waiting for data", lambda value: f"{value:.1%}"),
    ):
        series = record.metrics.get(f"speed/{name}")
        if series is not None:
            values = series.value
            rows.append(
                f"<tr><th scope='row'>{label}</th><td>{form(float(np.median(values)))}</td>"
                f"<td>{form(float(values.min()))}</td><td>{form(float(values.max()))}</td><td>{len(values):,}</td></tr>"
            )
    if not rows:
        return "<p>No round has ended yet.</p>"
    head = "".join(f"<th scope='col'>{text}</th>" for text in ("", "Median", "Least", "Most", "Rounds"))
    table = f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    return f"{table}<div class='charts'>{''.join(_plots(record, SPEED_PLOTS))}</div>"


def _configuration(record: RunRecord) -> str:
    if not record.config_text:
        return "<p>There is no config.yaml.</p>"
    text = escape(record.config_text)
    return f"<details><summary>config.yaml</summary><pre tabindex='0'><code>{text}</code></pre></details>"


def _files(record: RunRecord) -> str:
    root = record.root
    rows = []
    for path in sorted((root / "checkpoints").glob("*.ckpt")):
        text = {
            "last.ckpt": "newest checkpoint; the run goes on from it",
            "previous.ckpt": "the one before it",
            "pretrained.ckpt": "end of pre-training",
        }.get(path.name, "checkpoint")
        rows.append((path, text, path.stat().st_size))
    for name, text in (
        ("config.yaml", "all settings"),
        ("evaluations.jsonl", "each evaluation, episode by episode"),
        ("csv", "training metrics as tables"),
        ("tensorboard", "the same for TensorBoard"),
        ("replay", "all episodes"),
        ("videos", "all videos"),
    ):
        path = root / name
        if path.exists():
            inside = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
            rows.append((path, text, sum(p.stat().st_size for p in inside)))
    note = "" if any(path.suffix == ".ckpt" for path, _, _ in rows) else "<p>There is no checkpoint yet.</p>"
    body = "".join(
        f"<tr><th scope='row'>{_link(record, path)}</th><td class='text'>{text}</td><td>{_bytes(size)}</td></tr>"
        for path, text, size in rows
    )
    head = "<tr><th scope='col'>File</th><th scope='col' class='text'>What</th><th scope='col'>Size</th></tr>"
    return f"{note}<div class='scroll'><table><thead>{head}</thead><tbody>{body}</tbody></table></div>"


def _facts(rows: Iterable[tuple[str, object]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in rows) + "</dl>"


def _link(record: RunRecord, path: Path) -> str:
    relative = path.relative_to(record.root).as_posix()
    return f'<a href="{quote(relative)}"><code>{escape(relative)}</code></a>'


def _bytes(size: float) -> str:
    if size < 1000:
        return f"{size:.0f} B"
    power = min(4, int(np.log10(size) / 3))
    return f"{size / 1000**power:.1f} {('', 'kB', 'MB', 'GB', 'TB')[power]}"
