"""What the pictures of the page have in common."""

import io

INK, QUIET, GRID = "#1f2933", "#7b8794", "#e4e7eb"
OURS, OURS_LIGHT, EIGEN, PEER, LIMIT = "#d9480f", "#f4a261", "#94a3b8", "#2b6cb0", "#2f855a"


def picture(figure):
    """The figure as SVG text, to stand in the page itself."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", transparent=True)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def axes_style(axes):
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.set_axisbelow(True)
