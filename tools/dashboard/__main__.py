"""Draws docs/assets/dashboard.svg: the template's dashboard, from the metrics of a soak.

    python -m tools.dashboard [metrics of a run, one line of EMF each] [picture]

A soak leaves its lines in `.local/soak-metrics.jsonl`. Its periods are shorter than the template's,
for a run is short; everything else is as the template says. What the local AWS does not measure,
AWS's own metrics of it, is said to be missing.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tools.dashboard.dashboard import Json, Shown, expressions_of, metrics_of, widgets
from tools.local.logs import METRICS
from tools.local.paths import ROOT

PICTURE = ROOT / "docs" / "assets" / "dashboard.svg"
OURS = "CobaltRelay"
SCALE = 0.62
"""Inches of a cell of the grid."""
PERIODS = {60: 20, 300: 20, 1800: 600}
"""Seconds of the run for those of the template's periods."""
NO_DATA = "not measured locally"
GREY = "#7f8c8d"

type Points = dict[str, list[tuple[float, float]]]


def read(lines: Iterable[str]) -> Points:
    """Read the values of each metric, by the seconds since the first."""
    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in lines:
        fields: Any = json.loads(line)
        at = fields["_aws"]["Timestamp"] / 1000
        for group in fields["_aws"]["CloudWatchMetrics"]:
            for metric in group["Metrics"]:
                values = fields[metric["Name"]]
                found[metric["Name"]] += [(at, value) for value in _listed(values)]
    began = min((at for points in found.values() for at, _ in points), default=0.0)
    return {
        name: sorted((at - began, each) for at, each in points) for name, points in found.items()
    }


def series(shown: Shown, points: Points) -> list[tuple[float, float]]:
    """Put values together as CloudWatch does, by the statistic and the period of the widget."""
    period = PERIODS[shown.options["period"]]
    buckets: defaultdict[int, list[float]] = defaultdict(list)
    for at, value in points.get(shown.name, ()):
        buckets[int(at // period)].append(value)
    return [
        (number * period, of(shown.options["stat"], buckets[number])) for number in sorted(buckets)
    ]


def of(statistic: str, values: list[float]) -> float:
    """Give a statistic of values."""
    if statistic == "Sum":
        return sum(values)
    if statistic == "Maximum":
        return max(values)
    ordered, share = sorted(values), float(statistic.removeprefix("p")) / 100
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def draw(points: Points, picture: Path) -> None:
    """Draw every widget where it stands."""
    every = widgets()
    rows = max(each["y"] + each["height"] for each in every)
    figure = Figure(figsize=(24 * SCALE, rows * SCALE), facecolor="#f2f3f3")
    for each in every:
        box = (
            (each["x"] + 0.15) / 24,
            1 - (each["y"] + each["height"] - 0.12) / rows,
            (each["width"] - 0.3) / 24,
            (each["height"] - 0.24) / rows,
        )
        _widget(figure, each, box, points)
    picture.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "dashboard"}):  # the same numbers give the same picture
        figure.savefig(picture, metadata={"Date": None}, facecolor=figure.get_facecolor())


def _widget(figure: Figure, widget: Json, box: tuple[float, ...], points: Points) -> None:
    x, y, width, height = box
    frame = figure.add_axes((x, y, width, height), facecolor="white")
    frame.set_xticks([])
    frame.set_yticks([])
    for spine in frame.spines.values():
        spine.set_color("#d5dbdb")
    if widget["type"] == "text":
        title, _, rest = widget["properties"]["markdown"].partition("\n")
        plain = rest.replace("**", "").replace("`", "")
        frame.text(0.01, 0.68, title.lstrip("# "), fontsize=17, weight="bold", va="center")
        frame.text(0.01, 0.27, plain, fontsize=10.5, va="center")
        return
    properties = widget["properties"]
    inches = widget["height"] * SCALE
    frame.text(
        0.02, 1 - 0.22 / inches, properties["title"], fontsize=10.5, weight="bold", va="center"
    )
    if properties["view"] == "singleValue":
        _single(frame, widget, points)
        return
    low, high = 0.75 / inches, 0.42 / inches
    plot = figure.add_axes(
        (x + width * 0.075, y + height * low, width * 0.85, height * (1 - low - high))
    )
    _lines(plot, widget, points)


def _single(frame: Axes, widget: Json, points: Points) -> None:
    [shown] = metrics_of(widget)
    values = series(shown, points)
    value = values[-1][1] if values else None
    expression = next(iter(expressions_of(widget)), None)
    colour, size = (expression or shown.options).get("color", "#16191f"), 44
    if value is None:
        said, colour, size = NO_DATA, GREY, 14
    elif expression:
        said = f"{value / 3600:,.1f}"  # the one expression that there is
    else:
        said, colour = f"{value:,.0f}", colour if value else GREY
    frame.text(0.5, 0.45, said, fontsize=size, ha="center", va="center", color=colour)


def _lines(plot: Axes, widget: Json, points: Points) -> None:
    plot.tick_params(labelsize=7.5, length=2)
    plot.spines[["top", "right"]].set_visible(False)
    drawn = [(shown, series(shown, points)) for shown in metrics_of(widget)]
    if all(shown.namespace != OURS for shown, _ in drawn):
        plot.text(0.5, 0.5, NO_DATA, transform=plot.transAxes, ha="center", fontsize=11, color=GREY)
        plot.set_xticks([])
        plot.set_yticks([])
        return
    right = plot.twinx() if any(s.options.get("yAxis") == "right" for s, _ in drawn) else None
    if right:
        right.tick_params(labelsize=7.5, length=2)
        right.spines["top"].set_visible(False)
    ends = [at for each in points.values() for at, _ in each]
    span = range(0, int(max(ends, default=0)) + 1, PERIODS[300])
    floor = [0.0] * len(span)
    for shown, values in drawn:
        known = dict(values)
        is_sum = shown.options["stat"] == "Sum"
        minutes = [at / 60 for at in span]
        heights = [known.get(at, 0.0 if is_sum else float("nan")) for at in span]
        options: Json = {"label": shown.label}
        if colour := shown.options.get("color"):
            options["color"] = colour
        if widget["properties"].get("stacked"):
            top = [a + b for a, b in zip(floor, heights, strict=True)]
            plot.fill_between(minutes, floor, top, step="post", alpha=0.75, **options)
            floor = top
        else:
            axes = right if right and shown.options.get("yAxis") == "right" else plot
            axes.plot(minutes, heights, linewidth=1.4, marker=".", markersize=3, **options)
    for axes in filter(None, (plot, right)):
        axes.set_ylim(0, max(axes.get_ylim()[1], 1))
    plot.set_xlabel("minutes of the run", fontsize=7.5, labelpad=1)
    handles = [
        pair
        for axes in filter(None, (plot, right))
        for pair in zip(*axes.get_legend_handles_labels(), strict=True)
    ]
    plot.legend(*zip(*handles, strict=True), fontsize=7, loc="upper center", ncols=4, frameon=False,
                bbox_to_anchor=(0.5, -0.16), columnspacing=1.0, handlelength=1.2)  # fmt: skip


def _listed(value: Any) -> list[float]:  # noqa: ANN401 - a number or several
    return value if isinstance(value, list) else [value]


def main(arguments: list[str]) -> int:
    """Draw."""
    source = Path(arguments[0]) if arguments else METRICS
    picture = Path(arguments[1]) if len(arguments) > 1 else PICTURE
    if not source.exists():
        print("There are no metrics of a run: make soak leaves some.", file=sys.stderr)
        return 1
    draw(read(source.read_text(encoding="utf-8").splitlines()), picture)
    print(f"Drawn: {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
