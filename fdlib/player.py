"""A small animation for notebooks: pictures, a play button and a slider in one piece of HTML.

matplotlib's own (``to_jshtml``) loads its buttons from the network and has no bound on its size. This one needs nothing
but itself, works in exported pages, and shows its last picture where scripts are not allowed.
"""

from __future__ import annotations

import base64
import html
import io
import json
import uuid
from collections.abc import Sequence

import numpy as np
from IPython.display import HTML
from PIL import Image

WIDEST = 1080  # pixels on the screen

_PLAYER = """
<div id="{id}" style="display:inline-block;font:14px system-ui,sans-serif;color:#262626;max-width:100%">
<img alt="{alt}" src="{last}" width="{width}" style="image-rendering:pixelated;display:block;max-width:100%">
<div style="display:flex;align-items:center;gap:.6em;padding:.3em 0;max-width:{width}px">
<button aria-label="play or pause" style="width:2.6em;padding:.2em 0">&#9654;</button>
<input aria-label="frame" type="range" min="0" max="{end}" value="{end}" style="flex:1;min-width:4em">
<output style="min-width:{label_width}ch">{label}</output></div></div>
<script>(function () {{
const root = document.getElementById("{id}"), frames = {frames}, labels = {labels};
const image = root.querySelector("img"), button = root.querySelector("button");
const slider = root.querySelector("input"), text = root.querySelector("output");
let timer = null;
function show(i) {{ slider.value = i; image.src = frames[i]; text.textContent = labels[i]; }}
function stop() {{ clearInterval(timer); timer = null; button.innerHTML = "&#9654;"; }}
function step() {{ if (+slider.value < frames.length - 1) show(+slider.value + 1); else stop(); }}
button.onclick = function () {{
  if (timer) return stop();
  if (+slider.value === frames.length - 1) show(0);
  button.innerHTML = "&#10074;&#10074;"; timer = setInterval(step, {interval});
}};
slider.oninput = function () {{ stop(); show(+slider.value); }};
}})();</script>
"""


def player(
    pictures: list[np.ndarray], labels: list[str], alt: str, fps: int = 8, zoom: int = 1, max_bytes: int = 2_000_000
) -> HTML:
    """A self-contained player of pictures that starts on the last one.

    Args:
        pictures: S pictures of one size, uint8 (H, W, 3).
        labels: one for each, shown beside the slider.
        alt: what is to be seen, for those who cannot see it.
        fps: pictures a second.
        zoom: screen pixels for each pixel.
        max_bytes: size of the HTML. Pictures are stored exactly (PNG) if they fit, else as JPEG, and as a last resort
            some of them are left out.
    """
    uris = _encode_within(pictures, max_bytes - 4000 - 40 * len(labels))
    labels = [labels[i] for i in uris]
    width = pictures[0].shape[1] * zoom
    return HTML(
        _PLAYER.format(
            id=f"fdlib-{uuid.uuid4().hex[:12]}",
            alt=html.escape(f"Animation: {alt}, from {labels[0]} to {labels[-1]}"),
            last=list(uris.values())[-1],
            width=min(width, WIDEST),
            end=len(labels) - 1,
            label=html.escape(labels[-1]),
            label_width=max(len(label) for label in labels),
            frames=json.dumps(list(uris.values())),
            labels=json.dumps(labels).replace("</", "<\\/"),  # a label must not end the script
            interval=round(1000 / fps),
        )
    )


def _encode_within(pictures: list[np.ndarray], max_bytes: int) -> dict[int, str]:
    """Index -> data URI of as many pictures as fit: exact PNG first, then JPEG, then JPEG of fewer pictures."""

    def encode(indices: Sequence[int], kind: str, **options) -> dict[int, str]:
        result = {}
        for i in indices:
            buffer = io.BytesIO()
            Image.fromarray(pictures[i]).save(buffer, kind, **options)
            result[i] = f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return result

    def size(uris: dict[int, str]) -> int:
        return sum(len(uri) for uri in uris.values()) + len(list(uris.values())[-1])  # the last one is there twice

    everything = range(len(pictures))
    best = encode(everything, "PNG", optimize=True)
    for quality in (90, 75):
        if size(best) <= max_bytes:
            return best
        best = encode(everything, "JPEG", quality=quality, subsampling=0)
    while size(best) > max_bytes:
        if len(best) <= 2:
            raise ValueError(f"not even two pictures fit in max_bytes={max_bytes}: show fewer or smaller images")
        kept = list(best)
        best = {kept[i]: best[kept[i]] for i in evenly(len(kept), max(2, len(kept) * 3 // 4))}
    return best


def evenly(count: int, most: int) -> list[int]:
    """At most `most` indices below count, evenly spaced, first and last among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})
