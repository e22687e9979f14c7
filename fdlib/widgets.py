"""The parts of a notebook that a reader can move.

    slider_gallery(frames, labels)           # a slider through pictures that are there already
    noise_slider(images, noise_fn, T=1000)   # a slider over t whose pictures are computed when they are first needed
    live_picture()                           # one picture in a cell's output that training replaces as it goes on
    photo_upload(draw, size=32)              # a button that takes a picture of the reader's own, and what `draw` makes of it

The sliders send finished PNG pictures, so moving one costs no drawing. Exported to HTML without a running kernel they
cannot compute, so each leaves a still picture in the page, which hides itself wherever the slider is shown. With FDLIB_EXPORT=1
in the environment (as `make site` has it) a slider is not a widget at all but a player of pictures drawn beforehand, which
moves without a kernel.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from fdlib.images import Images, check_texts, image_grid, png_bytes

try:
    import ipywidgets
    from IPython import get_ipython
    from IPython.display import HTML, display
except ImportError as error:
    raise ImportError("fdlib.widgets needs ipywidgets: pip install 'fdlib[course]'") from error

WIDEST = 1080  # pixels on the screen
EXPORTED = 32  # pictures of a slider that has to do without a kernel

# Pages without widgets keep the still; where the slider itself was drawn after it, it hides. The outputs of a cell are
# siblings in JupyterLab, Notebook 7 and exported pages alike.
_HIDE = """<style>
.jp-OutputArea-child:has(.fdlib-still):has(+ .jp-OutputArea-child .fdlib-picture) { display: none }
</style>"""


def display_still(body: str) -> None:
    """Put HTML into the page that hides itself wherever the widget drawn next is shown."""
    display(HTML(f'{_HIDE}<figure class="fdlib-still" style="margin:0">{body}</figure>'), metadata={"fdlib": "still"})


class PictureSlider(ipywidgets.VBox):
    """A slider below a picture that follows it; made by `slider_gallery` and `noise_slider`.

    Attributes:
        value: the slider's position, an index of the pictures (0 for the first); set it to move the slider.
        slider, picture, play: the widgets it is made of; ``play`` is None without play button.
    """

    def __init__(
        self,
        render: Callable[[int], bytes],
        count: int,
        labels: Sequence[str] | None,
        description: str,
        value: int,
        width: int,
        play: bool,
        interval: int,
        caption: Callable[[int], str] | None = None,
    ):
        _check_value(value, count)
        self._render, self._caption, self._labels, self._description = render, caption, labels, description
        self.picture = ipywidgets.Image(value=render(value), format="png", width=width)
        self.picture.layout.max_width = "calc(100% - 4px)"  # its margins, or the page would scroll sideways
        self.picture.layout.object_fit = "contain"
        self.picture.add_class("fdlib-picture")
        common = {"description": description, "continuous_update": True, "layout": {"width": "min(100%, 480px)"}}
        if labels is None:
            self.slider = ipywidgets.IntSlider(value=value, min=0, max=count - 1, **common)
            self._position = "value"
        else:
            options = [(str(label), i) for i, label in enumerate(labels)]
            self.slider = ipywidgets.SelectionSlider(options=options, value=value, **common)
            self._position = "index"
        self._note = ipywidgets.HTML(layout={"display": "none"})
        controls = [self.slider]
        self.play = None
        if play:
            self.play = ipywidgets.Play(value=value, min=0, max=count - 1, interval=interval)
            # Through the kernel, which draws the picture anyway: a link between the browser's widgets would run ahead.
            self._link = ipywidgets.link((self.play, "value"), (self.slider, self._position))
            controls.insert(0, self.play)
        self.slider.observe(self._move, names=self._position)
        self._write_note(value)
        row = ipywidgets.HBox(controls, layout={"align_items": "center"})
        super().__init__([self.picture, row, self._note])

    @property
    def value(self) -> int:
        return getattr(self.slider, self._position)

    @value.setter
    def value(self, index: int) -> None:
        setattr(self.slider, self._position, index)

    def _move(self, change: dict[str, Any]) -> None:
        try:
            self.picture.value = self._render(change["new"])
        except Exception as error:  # raised while the page, not a cell, is being served: shown nowhere but here
            hint = "Does a later cell give another meaning to a name that the slider's function uses?"
            self._note.value = f"<b>{html.escape(f'{type(error).__name__}: {error}')}</b><br>{hint}"
            self._note.layout.display = None
            raise
        self._write_note(change["new"])

    def _write_note(self, index: int) -> None:
        self._note.value = html.escape(self._caption(index)) if self._caption else ""
        self._note.layout.display = None if self._caption else "none"

    def _ipython_display_(self, **kwargs) -> None:
        """Show a still for pages without widgets, then the widget itself; in an export, a player in their place."""
        if os.environ.get("FDLIB_EXPORT", "") not in ("", "0"):
            display(self._player())
            return
        if "google.colab" not in sys.modules:  # Colab puts outputs together in another way: both would be seen
            where = self._labels[self.value] if self._labels is not None else self.value
            text = html.escape(f"{self._description} = {where}")
            still = embedded(self.picture.value, text, int(self.picture.width))
            display_still(f"{still}<figcaption>{text} (The slider needs a running notebook.)</figcaption>")
        if hasattr(super(), "_ipython_display_"):  # ipywidgets 7, which Colab has
            super()._ipython_display_(**kwargs)
        else:
            display(self._repr_mimebundle_(**kwargs), raw=True)

    def _player(self) -> HTML:
        """The same, for a page without a kernel: some of the pictures, drawn now."""
        from fdlib.player import evenly, player

        count = len(self.slider.options) if self._labels is not None else self.slider.max + 1
        chosen = evenly(count, EXPORTED)
        pictures = [np.asarray(Image.open(io.BytesIO(self._render(i))).convert("RGB")) for i in chosen]
        labels = [f"{self._description} = {self._labels[i] if self._labels is not None else i}" for i in chosen]
        zoom = max(1, round(int(self.picture.width) / pictures[0].shape[1]))
        return player(pictures, labels, self._description, zoom=zoom)


def slider_gallery(
    frames: Sequence[Any] | Tensor | np.ndarray,
    labels: Sequence[Any] | None = None,
    description: str = "t",
    value: int = 0,
    columns: int = 8,
    scale: int | None = None,
    play: bool = False,
    interval: int = 150,
) -> PictureSlider:
    """A slider through pictures that are there already.

    Args:
        frames: S pictures: a tensor (S, C, H, W) of images or (S, B, C, H, W) of grids in [-1, 1], or a list whose
            entries are such images, RGB arrays uint8 (H, W, 3), or matplotlib figures; all of one size.
        labels: one a frame, shown beside the slider ("999", "DDIM", …); by default the index.
        description: what the slider moves.
        value: the frame to begin with.
        columns: images a row, where a frame is a batch.
        scale: screen pixels an image pixel; by default as fits.
        play: add a play button that shows a frame every `interval` milliseconds.

    Raises:
        ValueError: no frames, frames of different sizes, or not one label for each.
    """
    if len(frames) == 0:
        raise ValueError("frames is empty")
    check_texts(labels, len(frames), "frames")
    pictures = [_pixels(frame, columns) for frame in frames]
    if len({pixels.shape for pixels in pictures}) > 1:
        raise ValueError(f"frames must have one size, got {sorted({pixels.shape[:2] for pixels in pictures})}")
    encoded = [png_bytes(pixels) for pixels in pictures]
    texts = [str(label) for label in labels] if labels is not None else None
    width = _width(pictures[0], scale, frames[0])
    return PictureSlider(encoded.__getitem__, len(encoded), texts, description, value, width, play, interval)


def noise_slider(
    images: Images | None,
    noise_fn: Callable[[int], Images],
    T: int = 1000,
    description: str = "t",
    value: int = 0,
    columns: int = 8,
    scale: int | None = None,
    caption: Callable[[int], str] | None = None,
    play: bool = False,
    interval: int = 100,
) -> PictureSlider:
    """A slider over t = 0 .. T-1 that shows what `noise_fn` makes of t.

    Args:
        images: shown unchanged above, to compare with; None for none.
        noise_fn: t -> images, e.g. ``lambda t: add_noise(schedule, images, t, noise)``. Called once for each t that
            is looked at. Draw the noise beforehand: if it were new at each t, the picture would flicker.
        T: number of times.
        description: what the slider moves.
        value: the t to begin with.
        columns: images a row.
        scale: screen pixels an image pixel; by default as fits.
        caption: t -> a line of text below the slider.
        play: add a play button that advances t every `interval` milliseconds.
    """
    above = _pixels(images, columns) if images is not None else None

    def picture(t: int) -> np.ndarray:
        pixels = _pixels(noise_fn(t), columns)
        if above is None:
            return pixels
        if above.shape[1] != pixels.shape[1]:
            raise ValueError(
                f"noise_fn({t}) must give as many images, as wide, as images; its row is {pixels.shape[1]} "
                f"pixels wide instead of {above.shape[1]}"
            )
        return np.concatenate([above, np.full_like(above[:4], 255), pixels])

    @functools.lru_cache(maxsize=256)
    def drawn(t: int) -> tuple[bytes, int]:
        pixels = picture(t)
        return png_bytes(pixels), _width(pixels, scale, None)

    def render(t: int) -> bytes:
        return drawn(t)[0]

    _check_value(value, T)  # before noise_fn is asked for it
    return PictureSlider(render, T, None, description, value, drawn(value)[1], play, interval, caption)


class LivePicture:
    """One picture in a cell's output that is replaced again and again; see `live_picture`.

    Attributes:
        pixels: what was shown last, uint8 (H, W, 3), or None; caption: its text.
    """

    def __init__(self, draw: Callable[[Any], Any] | None = None, columns: int = 8, scale: int | None = None):
        self.pixels: np.ndarray | None = None
        self.caption = ""
        self._draw, self._columns, self._scale = draw, columns, scale
        self._handle = None

    def update(self, picture: Any, caption: str = "") -> None:
        """Show images (see `slider_gallery` for what is accepted) in place of the last ones, with a line of text."""
        self.pixels, self.caption = _pixels(picture, self._columns), caption
        if not _in_notebook():
            return
        text = html.escape(caption)
        image = embedded(png_bytes(self.pixels), text, _width(self.pixels, self._scale, picture))
        figure = HTML(f'<figure style="margin:0">{image}<figcaption>{text}</figcaption></figure>')
        if self._handle is None:
            self._handle = display(figure, display_id=True)
        else:
            self._handle.update(figure)

    def __call__(self, state: Any) -> None:
        """As a callback: draw from `state` and show it, with the step it was at."""
        if self._draw is None:
            raise TypeError("to be used as a callback, live_picture needs a function: live_picture(draw)")
        result = self._draw(state)
        picture, caption = result if isinstance(result, tuple) else (result, "")
        self.update(picture, caption or (f"step {state.step}" if hasattr(state, "step") else ""))


def live_picture(draw: Callable[[Any], Any] | None = None, columns: int = 8, scale: int | None = None) -> LivePicture:
    """A picture that training replaces as it goes on; the last one stays in the notebook and in exports of it.

        train(..., callbacks=[live_picture(lambda state: sample(state.ema))])

    Outside a notebook it shows nothing, so scripts and tests may use the same callback.

    Args:
        draw: state -> images, or (images, caption), when it is used as a callback; else call ``.update``.
        columns: images a row.
        scale: screen pixels an image pixel; by default as fits.
    """
    return LivePicture(draw, columns, scale)


class PhotoUpload(ipywidgets.VBox):
    """A button for a picture of the reader's own; made by `photo_upload`.

    Attributes:
        button, picture, note: the widgets it is made of.
        image: the last picture, float (1, 3, size, size) in [-1, 1], or None.
    """

    def __init__(self, draw: Callable[[Tensor], Any], size: int):
        self._draw, self._size, self.image = draw, size, None
        self.button = ipywidgets.FileUpload(accept="image/*", multiple=False, description="a photo")
        self.picture = ipywidgets.Image(format="png", layout={"display": "none"})
        self.picture.add_class("fdlib-picture")
        self.note = ipywidgets.HTML()
        self.button.observe(lambda change: self._uploaded(change["new"]), names="value")
        super().__init__([self.button, self.picture, self.note])

    def _uploaded(self, value: Any) -> None:
        files = list(value.values()) if isinstance(value, dict) else list(value)  # ipywidgets 7 has a dict, 8 a tuple
        if files:
            name = files[0].get("name") or files[0]["metadata"]["name"]
            self.show(bytes(files[0]["content"]), name)

    def show(self, content: bytes, name: str = "the file") -> None:
        """Read a picture's bytes and draw it; what is no picture is said below the button."""
        from fdlib.data.photos import open_picture
        from fdlib.images import from_uint8

        try:
            self.image = from_uint8(open_picture(io.BytesIO(content), self._size)[None])
        except Exception as error:  # Pillow raises many kinds for what is no picture
            self.note.value = html.escape(
                f"{name} cannot be read as a picture ({type(error).__name__}). Choose a PNG or JPEG file."
            )
            return
        made = self._draw(self.image)
        pixels = _pixels(made, 8)
        self.picture.value, self.picture.width = png_bytes(pixels), _width(pixels, None, made)
        self.picture.layout.display = None
        self.note.value = html.escape(f"{name}, cut to {self._size} x {self._size} pixels")


def photo_upload(draw: Callable[[Tensor], Any], size: int = 32) -> PhotoUpload:
    """A button that takes a picture from the reader's disk and shows what `draw` makes of it.

    Args:
        draw: an image (1, 3, size, size) in [-1, 1] -> images, an RGB array or a matplotlib figure.
        size: the middle square of the picture is reduced to this many pixels a side.

    A file that is no picture is named in a line below the button. In an exported page, without a kernel, nothing can be read.
    """
    return PhotoUpload(draw, size)


def _check_value(value: int, count: int) -> None:
    if not 0 <= value < count:
        raise ValueError(f"value must be one of 0 .. {count - 1}, got {value}")


def _is_drawing(frame: Any) -> bool:
    """Whether a frame is a finished picture, an RGB array or a matplotlib figure, rather than images."""
    is_array = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[-1] == 3
    return is_array or hasattr(frame, "savefig")


def _pixels(frame: Any, columns: int) -> np.ndarray:
    """One picture, uint8 (H, W, 3), of an RGB array, of a matplotlib figure, or of images."""
    if hasattr(frame, "savefig"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(frame)  # pyplot takes a closed figure's own canvas away
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return frame if _is_drawing(frame) else image_grid(frame, columns)


def _width(pixels: np.ndarray, scale: int | None, frame: Any) -> int:
    """The width on the screen: images are enlarged by a whole number as fits the page, finished drawings are not."""
    width = pixels.shape[1]
    if scale:
        return width * scale
    return min(WIDEST, width if _is_drawing(frame) else width * max(1, min(4, WIDEST // width)))


def embedded(png: bytes, text: str, width: int) -> str:
    """An image element that carries its picture with it."""
    data = base64.b64encode(png).decode()
    style = "image-rendering:pixelated;max-width:100%"
    return f'<img alt="{text}" width="{width}" style="{style}" src="data:image/png;base64,{data}">'


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code; a plain or an IPython terminal shows no pictures."""
    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")
