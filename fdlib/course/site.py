"""The course as one searchable web site: executed lessons, exercises, pages of docs/, and the library's reference.

    python -m fdlib.course site                          # executes what it has not executed yet: an hour, then seconds
    python -m fdlib.course site --execute 00 01          # these lessons with their pictures, the others without
    python -m http.server --directory build/site         # … or open build/site/index.html as a file

nbconvert makes the pages, pdoc the reference. The rest is here: one frame around them all, links between them in place of
links between files, and a search through everything that needs no server. Lessons run with FDLIB_EXPORT=1, so that their
sliders become players of pictures that move without a kernel.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import pkgutil
import re
import shutil
import sys
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from fdlib.course.first_cell import REPOSITORY

CELL_TIMEOUT_S = 3600
GROUPS = {"Lessons": "notebooks/[0-9]*.ipynb", "Exercises": "exercises/[0-9]*.ipynb", "To look up": "docs/*.md"}
MATHJAX = "https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-chtml.js"


@dataclass(frozen=True)
class Page:
    """One page: the file of the project it is made from, and where it goes in the site (both with forward slashes)."""

    source: str
    target: str
    group: str
    title: str


def pages(root: Path) -> list[Page]:
    """All pages of the site but the reference's, in the order of its table of contents."""
    found = [Page("README.md", "index.html", "", "The course")]
    for group, pattern in GROUPS.items():
        for file in sorted(root.glob(pattern)):
            source = file.relative_to(root).as_posix()
            found.append(Page(source, str(PurePosixPath(source).with_suffix(".html")), group, _title(file)))
    return found


def build(
    root: Path,
    out: Path,
    execute: Collection[str] | None = None,
    profile: str | None = None,
    modules: Collection[str] | None = None,
) -> Path:
    """Write the site into ``out``, whose earlier content is replaced; returns its first page.

    Args:
        root: of the checkout.
        execute: numbers of the lessons to execute ("00", "01", …); all by default. An executed lesson is kept in
            build/executed and used again while its text stays the same.
        profile: in which to execute them; by default what `FDLIB_PROFILE` says, or what fits the machine.
        modules: of which to write the reference; all of fdlib's by default.

    Raises:
        RuntimeError: a cell failed; the message says which. ValueError: ``out`` holds something that is no site of ours.
    """
    from fdlib.course.profiles import Profile
    from fdlib.course.profiles import profile as default

    profile = str(Profile(profile) if profile else default())
    _clear(out)
    everything = pages(root)
    for page in everything:
        if page.source.endswith(".md"):
            body = _markdown((root / page.source).read_text(encoding="utf-8"))
        else:
            wanted = page.group == "Lessons" and (execute is None or Path(page.source).name[:2] in execute)
            body = _notebook(root / page.source, root / "build" / "executed" / profile if wanted else None, profile)
        target = out / page.target
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_frame(_relink(body, page, everything, root), page, everything), encoding="utf-8")
    shutil.copytree(root / "docs" / "pictures", out / "docs" / "pictures", dirs_exist_ok=True)
    _reference(out / "api", modules)
    for name in ("site.css", "site.js"):
        shutil.copy(Path(__file__).parent / "web" / name, out / name)
    entries = [entry for page in sorted(out.rglob("*.html")) for entry in _entries(page, out)]
    (out / "search-index.js").write_text(
        f"const INDEX = {json.dumps(entries, ensure_ascii=False)};\n", encoding="utf-8"
    )
    return out / "index.html"


# ---------------------------------------------------------------------- from sources to HTML


def _title(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        text = "".join(json.loads(text)["cells"][0]["source"])
    found = re.search(r"^# (.+)$", text, re.M)
    return found[1].strip() if found else file.stem


def _markdown(text: str) -> str:
    from nbformat.v4 import new_markdown_cell, new_notebook

    return _to_html(new_notebook(cells=[new_markdown_cell(_fenced_doctest(text))]))


def _fenced_doctest(text: str) -> str:
    return text.replace("```pycon", "```python")  # the same colours, and no lexer that stumbles over our comments


def _notebook(file: Path, executed: Path | None, profile: str) -> str:
    import nbformat

    notebook = nbformat.read(file, as_version=4)
    if executed is not None:
        notebook = _execute(notebook, file, executed, profile)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:  # widgets live in a kernel: what they left for pages without one stays
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "application/vnd.jupyter.widget-view+json" in data:
                data.clear()
                data["text/plain"] = ""
    return _to_html(notebook)


def _execute(notebook, file: Path, folder: Path, profile: str):
    """The notebook with its outputs, from ``folder`` where the very same text was executed before."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    kept = folder / f"{file.stem}-{digest}.ipynb"
    if kept.exists():
        return nbformat.read(kept, as_version=4)
    print(f"executing {file.name} in profile {profile} …", flush=True)
    client = NotebookClient(
        notebook, timeout=CELL_TIMEOUT_S, kernel_name="python3", resources={"metadata": {"path": str(file.parent)}}
    )
    try:
        client.execute(env=os.environ | {"FDLIB_PROFILE": profile, "FDLIB_EXPORT": "1"})
    except CellExecutionError as error:
        raise RuntimeError(f"{file.name}: a cell failed, so the page was not made:\n{error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{file.stem}-*.ipynb"):
        old.unlink()
    nbformat.write(notebook, kept)
    return notebook


def _to_html(notebook) -> str:
    from nbconvert.exporters import HTMLExporter

    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    return exporter.from_notebook_node(notebook)[0]


def _relink(body: str, page: Page, everything: list[Page], root: Path) -> str:
    """Links to files of the project become links to their pages, or to the repository where they have none."""
    targets = {other.source: other.target for other in everything}
    here = PurePosixPath(page.target).parent

    def attribute(match: re.Match) -> str:
        name, link = match[1], html.unescape(match[2])
        if re.match(r"[a-z]+:|#|//", link):
            return match[0]
        file, _, anchor = link.partition("#")
        source = os.path.normpath(PurePosixPath(page.source).parent / unquote(file)).replace(os.sep, "/")
        if source in targets:
            link = os.path.relpath(targets[source], here).replace(os.sep, "/") + (f"#{anchor}" if anchor else "")
        elif name == "href" and (root / source).exists():
            link = f"{REPOSITORY}/blob/main/{source}"
        return f'{name}="{html.escape(link)}"'

    body = re.sub(r'<a href="[^"]*colab[^"]*"><img[^>]*></a>', lambda badge: _badge(badge[0]), body)
    return re.sub(r'\b(href|src)="([^"]*)"', attribute, body)


def _badge(link: str) -> str:
    """The words of a badge, which needs no picture from elsewhere."""
    return re.sub(r"<img[^>]*>", "Colab", link)


def _frame(body: str, page: Page, everything: list[Page]) -> str:
    up = "../" * page.target.count("/")
    groups: dict[str, list[str]] = {}
    for other in everything:
        current = ' aria-current="page"' if other == page else ""
        groups.setdefault(other.group, []).append(
            f'<li><a href="{up}{other.target}"{current}>{html.escape(other.title)}</a></li>'
        )
    groups["To look up"] = [
        *groups.get("To look up", []),
        f'<li><a href="{up}api/index.html">Reference of the library</a></li>',
    ]
    contents = "".join(
        f"{f'<h2>{group}</h2>' if group else ''}<ul>{''.join(items)}</ul>" for group, items in groups.items()
    )
    return _FRAME.format(title=html.escape(page.title), up=up, contents=contents, body=body, mathjax=MATHJAX)


_FRAME = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="{up}site.css">
<script>MathJax = {{tex: {{inlineMath: [["$", "$"]], displayMath: [["$$", "$$"]], tags: "none", processEscapes: true}}}};</script>
<script defer src="{mathjax}"></script>
</head><body data-up="{up}">
<nav><a class="home" href="{up}index.html">fdlib</a>
<input id="search" type="search" placeholder="Search …" aria-label="Search the course"><ol id="found" hidden></ol>
<details class="contents"><summary>Contents</summary>{contents}</details></nav>
<main>{body}</main>
<script src="{up}search-index.js"></script><script src="{up}site.js"></script>
</body></html>
"""


def _reference(out: Path, modules: Collection[str] | None) -> None:
    import pdoc

    import fdlib

    if modules is None:  # by name, for pdoc takes a package with an __all__ at its word and leaves its modules out
        modules = ["fdlib", *(found.name for found in pkgutil.walk_packages(fdlib.__path__, "fdlib."))]
        modules = [name for name in modules if not name.endswith("__main__")]
    pdoc.render.configure(docformat="google", math=False, show_source=False, include_undocumented=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on annotations that only a type checker can resolve
        pdoc.pdoc(*modules, output_directory=out)
    for page in out.rglob("*.html"):  # a way back, and the width of a phone
        up = "../" * len(page.relative_to(out.parent).parent.parts)
        text = page.read_text(encoding="utf-8")
        back = f'<p style="margin: .5rem 1rem"><a href="{up}index.html">← the course</a></p>'
        style = (
            "main.pdoc { overflow-wrap: anywhere } main.pdoc pre, main.pdoc table { overflow-x: auto; display: block }"
        )
        text = text.replace("</head>", f"<style>{style}</style></head>", 1)
        places = set(re.findall(r'\bid="([^"]+)"', text))  # inherited docstrings link to members that are not shown
        text = re.sub(r'<a href="#([^"]+)">', lambda link, places=places: link[0] if link[1] in places else "<a>", text)
        page.write_text(re.sub(r"(<body[^>]*>)", rf"\1{back}", text, count=1), encoding="utf-8")


def _clear(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        if not (out / "search-index.js").exists():
            raise ValueError(f"--out: {out} holds something that is no site of ours; name another folder")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "search-index.js").write_text(
        "const INDEX = [];\n", encoding="utf-8"
    )  # ours from now on, even if interrupted


# ---------------------------------------------------------------------- search


class _Sections(HTMLParser):
    """The text of a page by section: (anchor, heading, text). A section begins at a heading, or where pdoc begins one."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.title, self.found, self._hidden, self._heading = "", [["", "", []]], 0, ""

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag in ("script", "style", "nav", "title"):
            self._hidden += tag != "title"
            self._heading = "title" if tag == "title" else self._heading
        elif tag in ("h1", "h2", "h3") and not self._hidden:
            self._heading = tag
            self.found.append([values.get("id") or self.found[-1][0], "", []])
        elif tag == "section" and values.get("id"):
            self.found.append([values["id"], values["id"], []])

    def handle_endtag(self, tag):
        if tag in ("script", "style", "nav"):
            self._hidden -= 1
        elif tag == self._heading:
            self._heading = ""

    def handle_data(self, data):
        if self._heading == "title":
            self.title += data
        elif self._heading and not self._hidden:
            self.found[-1][1] += data.replace("¶", "")
        elif not self._hidden:
            self.found[-1][2].append(data)


def _entries(page: Path, out: Path) -> list[list[str]]:
    """What the search knows of a page: [address, title of the page, heading, text] for each section."""
    parser = _Sections()
    parser.feed(page.read_text(encoding="utf-8"))
    here, entries = page.relative_to(out).as_posix(), []
    for anchor, heading, texts in parser.found:
        text = " ".join(" ".join(texts).split())
        if text or heading:
            entries.append(
                [here + (f"#{anchor}" if anchor else ""), parser.title.strip(), heading.strip(), text[:4000]]
            )
    return entries


def main(root: Path, out: Path | None, execute: list[str] | None, profile: str | None) -> int:
    """The command line's part."""
    try:
        first = build(root, out or root / "build" / "site", execute, profile)
    except (RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print("wrote", first)
    return 0
