"""Draws dashboards as SVG from the data of a Prometheus.

A picture shows the panels at the places that they have in Grafana, each with its title, its unit and
at most eight series. It is a substitute for a rendering by Grafana, and its caption names that.
"""

import html
import math

WIDTH, ROW, GAP, HEAD = 1200, 26, 10, 44
COLOURS = ["#3465a4", "#d9822b", "#4e9a06", "#a40000", "#75507b", "#c4a000", "#06989a", "#555753"]
MOST_SERIES = 8
CAPTION = "Drawn by scripts/prometheus-test from the data of its Prometheus, not by Grafana."


def short(value, unit):
    """Returns a number as short text, in its unit."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "bytes":
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


def drawn_panel(panel, series, start, end):
    at, unit = panel["gridPos"], panel["fieldConfig"]["defaults"]["unit"]
    left, top = at["x"] * WIDTH / 24 + GAP / 2, HEAD + at["y"] * ROW
    width, height = at["w"] * WIDTH / 24 - GAP, at["h"] * ROW - GAP
    out = [f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{height}" class="panel"/>',
           f'<text x="{left + 8:.0f}" y="{top + 18}" class="title">{html.escape(panel["title"])}</text>']
    values = [value for _, points in series for _, value in points]
    most = max(values, default=0) or 1
    if panel["type"] == "stat":
        last = series[0][1][-1][1] if series else math.nan
        out.append(f'<text x="{left + width / 2:.0f}" y="{top + height / 2 + 18:.0f}" class="stat">{short(last, unit)}</text>')
        return out
    box = (left + 8, top + 28, width - 16, height - 62)
    out.append(f'<text x="{left + width - 8:.0f}" y="{top + 18}" class="most">{short(most, unit)}</text>')
    out.append(f'<path d="M{box[0]:.0f} {box[1] + box[3]:.0f}h{box[2]:.0f}" class="axis"/>')
    names = []
    for number, (name, points) in enumerate(series[:MOST_SERIES]):
        colour = COLOURS[number % len(COLOURS)]
        out.append(f'<path d="{line(points, box, start, end, most)}" stroke="{colour}" class="line"/>')
        names.append(f'<tspan fill="{colour}">{html.escape(name[:26])}</tspan>')
    if len(series) > MOST_SERIES:
        names.append(f"<tspan>and {len(series) - MOST_SERIES} more</tspan>")
    half = (len(names) + 1) // 2
    for number, part in enumerate((names[:half], names[half:])):
        out.append(f'<text x="{left + 8:.0f}" y="{top + height - 20 + 14 * number}" class="legend">{"  ".join(part)}</text>')
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
