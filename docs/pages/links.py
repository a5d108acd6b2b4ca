"""A hook of MkDocs: what links and shows rightly in the repository does so on the site.

Documents link to what lies around them in the repository. Of that, documents at the top become pages of the site, and
so does every other file outside of docs/ that a document links to: its page shows it. A picture that has a twin for
dark pages follows the site's switch.
"""

import re
from collections.abc import Iterator
from os.path import relpath
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parents[2]
DOCS: Final = ROOT / "docs"
TOP: Final = {name: name.lower() for name in ("SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md")}
"""Pages that are made of documents at the top."""

_LINK: Final = re.compile(r"(?<=\]\()[^)\s#:]+")
_TWINS: Final = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="([^"]+)">\s*'
    r'<img alt="([^"]+)" src="([^"]+)">\s*</picture>'
)
_LEXERS: Final = {".py": "python", ".c": "c", ".h": "c", ".json": "json", ".yaml": "yaml", ".toml": "toml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of what lies outside of docs/."""
    for name, page in TOP.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    documents = [ROOT / origin_of(file.src_uri) for file in files.documentation_pages()]
    shown = {path for document in documents for path in linked(document) if page_of(path) == page_showing(path)}
    for path in sorted(shown):
        files.append(File.generated(config, page_of(path), content=shown_as_page(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turns each link to a file of the repository into one to its page."""
    here = page.file.src_uri
    document = ROOT / origin_of(here)

    def to_page(link: re.Match[str]) -> str:
        path = (document.parent / link[0]).resolve()
        known = path.is_file() and path.is_relative_to(ROOT)
        return relpath(page_of(path), Path(here).parent) if known else link[0]

    return _TWINS.sub(r"![\2](\3#only-light)\n![\2](\1#only-dark)", _LINK.sub(to_page, markdown))


def origin_of(page: str) -> str:
    """The file, from the top of the repository, of which a page is made."""
    return next((name for name, top in TOP.items() if top == page), f"docs/{page}")


def page_of(path: Path) -> str:
    """The page, from the top of the site, that is made of a file."""
    if path.is_relative_to(DOCS):
        return str(path.relative_to(DOCS))
    return TOP.get(str(path.relative_to(ROOT)), page_showing(path))


def page_showing(path: Path) -> str:
    return f"repository/{path.relative_to(ROOT)}.md"


def linked(document: Path) -> Iterator[Path]:
    """Files of the repository that a document links to."""
    for link in _LINK.findall(document.read_text()):
        path = (document.parent / link).resolve()
        if path.is_file() and path.is_relative_to(ROOT):
            yield path


def shown_as_page(path: Path) -> str:
    """Not found by the search, which is for documents."""
    lexer = _LEXERS.get(path.suffix, "text")
    name = path.relative_to(ROOT)
    return (
        f"---\ntitle: {path.name}\nsearch: {{exclude: true}}\n---\n# {name}\n``````{lexer}\n{path.read_text()}``````\n"
    )
