"""Give every algorithm's page a place in the site's navigation: those that `mkdocs.yml` does not list are
appended.

A page `docs/algorithms/NAME.md` of an algorithm in `bellgrad/tabular` goes to "Tabular learning", any other
one to "Algorithms on networks".
"""

from pathlib import Path
from typing import Any

from bellgrad.core.registry import ALGORITHMS

SECTIONS = {"tabular": "Tabular learning", "algos": "Algorithms on networks"}


def on_config(config: Any) -> Any:
    """Called by MkDocs before it reads the pages."""
    sections = {title: pages for entry in config["nav"] for title, pages in entry.items()}
    listed = {
        page
        for pages in sections.values()
        if isinstance(pages, list)
        for entry in pages
        for page in entry.values()
    }
    for path in sorted(Path(config["docs_dir"]).glob("algorithms/*.md")):
        page = f"algorithms/{path.name}"
        if page not in listed:
            room = ALGORITHMS.own.get(path.stem, "bellgrad.algos").split(".")[1]
            title = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            sections[SECTIONS[room]].append({title: page})
    return config
