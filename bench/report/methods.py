"""What the repository says of a method: the opening comment of its header, and its row in docs/methods.md."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]


class About:
    """title; words and equations in the order of the comment, as (kind, text); row: {column: text}."""

    def __init__(self, header, paragraphs, row):
        self.header, self.paragraphs, self.row = header, paragraphs, row

    @property
    def title(self):
        return self.paragraphs[0][1] if self.paragraphs else ""


def opening_comment(text):
    """[(kind, text)] of the comment that a file begins with; kind is "words", or "equation" where it is indented."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("//"):
            break
        lines.append(line[2:][1:] if line.startswith("// ") else line[2:])
    paragraphs, kind = [], None
    for line in lines:
        now = None if not line.strip() else "equation" if line.startswith("  ") else "words"
        if now is None:
            kind = None
        elif now == kind:
            paragraphs[-1][1].append(line)
        else:
            paragraphs.append((now, [line]))
            kind = now
    return [(kind, "\n".join(lines) if kind == "equation" else " ".join(lines)) for kind, lines in paragraphs]


def sources(root=ROOT):
    """{path: text} of the files that register benches, and of what they share."""
    return {
        path: path.read_text()
        for folder in sorted((root / "bench").iterdir())
        if folder.is_dir() and folder.name not in ("support", "report", "peers", "data")
        for path in sorted([*folder.glob("*.cpp"), *folder.glob("*.hpp")])
    }


def included(path, files):
    """The headers of fovea that a bench includes, itself and through what stands beside it."""
    found = re.findall(r"#include <(fovea/[^>]+)>", files[path])
    for name in re.findall(r'#include "([^"]+)"', files[path]):
        beside = path.parent / name
        if beside in files:
            found += included(beside, files)
    return found


def header_of(method, files):
    """The public header of the method, by the bench that has its name: the family's own, else one that no part is."""
    family, name = method.split("/")
    for path, text in files.items():
        if f'"{method}"' not in text:
            continue
        public = [h for h in included(path, files) if h.split("/")[1] not in ("parts", "exec", "core", "simd")]
        own = [h for h in public if h.startswith(f"fovea/{family}/")]
        public.sort(key=lambda h: "/engine/" in h)
        exact = [h for h in own if pathlib.Path(h).stem == name]
        return next(iter([*exact, *own, *public]), None)
    return None


def rows(text):
    """[{column: text}] of the first table of a page in Markdown."""
    table = []
    for line in text.splitlines():
        if line.startswith("|"):
            table.append([cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))])
        elif table:
            break
    return [dict(zip(table[0], cells)) for cells in table[2:]] if table else []


def row_of(method, header, table):
    """The row of the method's header; where there are several, the one that names it."""
    own = [row for row in table if f"`{header.removeprefix('fovea/')}`" in row.get("header", "")] if header else []
    name = method.partition("/")[2]
    exact = [row for row in own if f"`{name}`" in row["method"]]
    part = [row for row in own if any(word in name for word in re.findall(r"`(\w+)`", row["method"]))]
    return next(iter([*exact, *part, *own]), {})


class Repository:
    """Read once; a report without the sources beside it knows nothing and says so."""

    def __init__(self, root=ROOT):
        self.root, self.files, self.table = root, {}, []
        try:
            self.files = sources(root)
            self.table = rows((root / "docs" / "methods.md").read_text())
        except OSError:
            pass

    def about(self, method):
        header = "fovea/dense/cached_attention.hpp" if method.startswith("cache/") else header_of(method, self.files)
        paragraphs = []
        if header and (self.root / "include" / header).exists():
            paragraphs = opening_comment((self.root / "include" / header).read_text())
        elif not header:
            own = next((text for text in self.files.values() if f'"{method}"' in text), "")
            paragraphs = opening_comment(re.sub(r"\A(?!//).*?(?=^//)", "", own, flags=re.S | re.M))
        return About(header, paragraphs, row_of(method, header, self.table))
