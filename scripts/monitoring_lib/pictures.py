"""Draws dashboards as SVG from the data of a Prometheus.

A picture shows the panels at the places that they have in Grafana, each with its title, its largest
value and the eight series with the largest values. It is a substitute for a rendering by Grafana, and
its caption names that.
"""

import html
import math

WIDTH, ROW, GAP, HEAD = 1200, 26, 10, 44
COLOURS = ["#3465a4", "#d9822b", "#4e9a06", "#a40000", "#75507b", "#c4a000", "#06989a", "#555753"]
MOST_SERIES = 8
# Width of a letter of a legend, on average.
LETTER = 5.4
CAPTION = "Drawn by scripts/prometheus-test from the data of its Prometheus, not by Grafana."


def short(value, unit):
    """Returns a number as short text, in its unit."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit in ("bytes", "mbytes"):
        value *= 1 << 20 if unit == "mbytes" else 1
        for prefix in ("B", "KiB", "MiB", "GiB", "TiB"):
            if value < 1024 or prefix == "TiB":
                return f"{value:.3g} {prefix}"
            value /= 1024
    if unit == "s" and 0 < value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.4g}" + {"s": " s", "ops": "/s"}.get(unit, "")


def legend(template, labels):
    text = template
    for name, value in labels.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def line(points, box, start, end, most):
    """Returns the parts of a line; a gap in the data is a gap in the line."""
    left, top, width, height = box
    parts, last = [], None
    for at, value in points:
        x = left + (at - start) / max(end - start, 1) * width
        y = top + height - value / most * height
        if last is None or at - last > 3:
            parts.append(f"M{x:.1f} {y:.1f}")
        else:
            parts.append(f"L{x:.1f} {y:.1f}")
        last = at
    return "".join(parts)


def legends(names, width, more):
    """Returns two lines of names, as many as fit, and how many series have none."""
    lines, left = ["", ""], [width, width]
    for number, name in enumerate(names):
        needed = (len(name) + 2) * LETTER
        line = next((at for at in (0, 1) if needed <= left[at] - (12 * LETTER if at else 0)), None)
        if line is None:
            more += len(names) - number
            break
        left[line] -= needed
        lines[line] += f'<tspan fill="{COLOURS[number % len(COLOURS)]}">{html.escape(name)}</tspan>  '
    if more:
        lines[1] += f"<tspan>and {more} more</tspan>"
    return [line.rstrip() for line in lines]


def stat_text(panel, value):
    """Returns the text of a single number: a mapped one, if it has a mapping."""
    defaults = panel["fieldConfig"]["defaults"]
    for mapping in defaults["mappings"]:
        if (text := mapping["options"].get(f"{value:.0f}")) is not None:
            return text["text"]
    return short(value, defaults["unit"])


def drawn_panel(panel, series, start, end):
    at, unit = panel["gridPos"], panel["fieldConfig"]["defaults"]["unit"]
    left, top = at["x"] * WIDTH / 24 + GAP / 2, HEAD + at["y"] * ROW
    width, height = at["w"] * WIDTH / 24 - GAP, at["h"] * ROW - GAP
    out = [f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{height}" class="panel"/>',
           f'<text x="{left + 8:.0f}" y="{top + 18}" class="title">{html.escape(panel["title"])}</text>']
    series = sorted(series, key=lambda one: -max(value for _, value in one[1]))
    largest = max((value for _, points in series for _, value in points), default=0)
    if panel["type"] == "stat":
        last = series[0][1][-1][1] if series else math.nan
        out.append(f'<text x="{left + width / 2:.0f}" y="{top + height / 2 + 18:.0f}" class="stat">'
                   f'{html.escape(stat_text(panel, last))}</text>')
        return out
    box = (left + 8, top + 28, width - 16, height - 62)
    out.append(f'<text x="{left + width - 8:.0f}" y="{top + 18}" class="most">{short(largest, unit)}</text>')
    out.append(f'<path d="M{box[0]:.0f} {box[1] + box[3]:.0f}h{box[2]:.0f}" class="axis"/>')
    for number, (_, points) in enumerate(series[:MOST_SERIES]):
        colour = COLOURS[number % len(COLOURS)]
        out.append(f'<path d="{line(points, box, start, end, largest or 1)}" stroke="{colour}" class="line"/>')
    names = [name[:40] for name, _ in series[:MOST_SERIES]]
    for number, text in enumerate(legends(names, width - 16, len(series) - len(names))):
        out.append(f'<text x="{left + 8:.0f}" y="{top + height - 20 + 14 * number}" class="legend">{text}</text>')
    return out


def picture(dashboard, data, start, end):
    """Returns a dashboard as SVG. `data` has the series of each panel, by its id."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    height = HEAD + rows * ROW + 24
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        "<style>.panel{fill:#fff;stroke:#ccc}.title{font-size:13px;font-weight:bold}.most{font-size:11px;fill:#666;"
        "text-anchor:end}.stat{font-size:34px;text-anchor:middle;fill:#3465a4}.legend{font-size:10px;"
        "white-space:pre}.axis{stroke:#ccc}.line{fill:none;stroke-width:1.3}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#f4f5f7"/>',
        f'<text x="10" y="28" font-size="19">{html.escape(dashboard["title"])}</text>',
    ]
    for panel in dashboard["panels"]:
        out += drawn_panel(panel, data[panel["id"]], start, end)
    out += [f'<text x="10" y="{height - 8}" font-size="11" fill="#666">{CAPTION}</text>', "</svg>"]
    return "\n".join(out) + "\n"
