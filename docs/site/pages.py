#!/usr/bin/env python3
"""The pages of the site, from those of the repository.

    pages.py TAGFILE FOLDER       writes them to FOLDER; TAGFILE is what Doxygen says of the headers

In the repository a page links to files where they lie. Here they lie in one folder, README.md is index.md, and a
header is its page in the API reference. api.md is the list of all headers.
"""
import os
import re
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import comments

ROOT = Path(__file__).resolve().parents[2]
NAMES = {'README.md': 'index.md', 'CHANGELOG.md': 'changelog.md', 'CONTRIBUTING.md': 'contributing.md',
         'SECURITY.md': 'security.md'}
FOLDERS = [
    ('Methods', ['dense', 'window', 'block_sparse', 'top_k', 'hierarchical', 'sink', 'linear', 'low_rank', 'agent']),
    ('Caches', ['cache']),
    ('Arrays, shapes, errors', ['', 'core']),
    ('Executors', ['exec']),
    ('Engines', ['engine']),
    ('Parts', None),  # every folder below parts
]


def api_pages(tagfile):
    """The page of every header, by its path in the repository."""
    pages = {}
    for file in xml.parse(tagfile).iterfind("compound[@kind='file']"):
        path = Path(file.findtext('path')) / file.findtext('name')
        pages[path.resolve().relative_to(ROOT).as_posix()] = 'api/' + file.findtext('filename')
    return pages


def convert(page, api):
    """The text of a page with its links as they have to be in the site."""
    def target(match):
        link, _, anchor = match[1].partition('#')
        if not link or '://' in link or link.startswith('mailto:'):
            return match[0]
        path = Path(os.path.normpath((page.parent / link).as_posix())).relative_to(ROOT).as_posix()
        anchor = anchor and '#' + anchor
        if path in api:
            return f']({api[path]}{anchor})'
        if path.endswith('.md') and '/' not in path:
            return f']({NAMES[path]}{anchor})'
        if path.startswith('docs/') and path.endswith('.md'):
            return f']({path[len("docs/"):]}{anchor})'
        if (ROOT / path).is_file():
            return '](' + plain_copy(path) + ')'
        raise SystemExit(f'{page.relative_to(ROOT)}: a link to {link}, which is not there')

    out, code = [], False
    for line in page.read_text(encoding='utf-8').split('\n'):
        if re.match(r' *```', line):
            code = not code
        elif not code:
            line = re.sub(r'\]\(([^)\s]+)\)', target, line)
            if line.startswith('|'):
                # In code, tables of Markdown know two ways to write a bar; this one is shown as it is meant.
                line = re.sub(r'`[^`]*`', lambda m: code_with_bars(m[0]), line)
        out.append(line)
    return '\n'.join(out)


def code_with_bars(text):
    if '\\|' not in text:
        return text
    inside = text.strip('`').replace('&', '&amp;').replace('<', '&lt;').replace('\\|', '&#124;')
    return f'<code>{inside}</code>'


copies = set()


def plain_copy(path):
    """A file of the repository that a page links to: a copy of its text."""
    copies.add(path)
    return 'files/' + path + ('' if '.' in Path(path).name else '.txt')


def list_of_headers(api):
    lines = ['# API reference', '',
             'Every header with what it says of itself. A header opens with the definition, the paper and the cost of '
             'what is in it; its page lists what it declares. [All names](api/globals.html), '
             '[all types](api/annotated.html), [concepts](api/concepts.html).', '']
    parts = sorted({path.split('/')[3] for path in api if path.startswith('include/fovea/parts/')})
    for title, folders in FOLDERS:
        lines += [f'## {title}', '']
        for folder in folders or [f'parts/{part}' for part in parts]:
            if len(folders or parts) > 1 and title != 'Arrays, shapes, errors':
                lines += [f'### {folder}', '']
            if lines[-1] == '':
                lines += ['| header | what it is |', '| --- | --- |']
            for path in sorted(api):
                if os.path.dirname(path) != f'include/fovea/{folder}'.rstrip('/'):
                    continue
                with open(ROOT / path, encoding='utf-8') as header:
                    text = comments.convert(header.read(), path)
                brief = re.search(r'^@brief (.*)$', text, re.M)
                first = re.sub(r'\\([\\@<>&#%$"])', r'\1', brief[1]) if brief else ''
                first = first.replace('&', '&amp;').replace('<', '&lt;').replace('|', '&#124;').replace('*', '&#42;')
                lines.append(f'| [{os.path.basename(path)}]({api[path]}) | {first.rstrip(":")} |')
            if len(folders or parts) > 1 and title != 'Arrays, shapes, errors':
                lines.append('')
        lines.append('')
    return '\n'.join(lines)


def main(tagfile, folder):
    api = api_pages(tagfile)
    folder = Path(folder)
    pages = {ROOT / name: made for name, made in NAMES.items()}
    pages.update({page: page.name for page in sorted((ROOT / 'docs').glob('*.md'))})
    for page, name in pages.items():
        if page.exists():
            (folder / name).write_text(convert(page, api), encoding='utf-8')
    (folder / 'api.md').write_text(list_of_headers(api), encoding='utf-8')
    for path in copies:
        copy = folder / 'files' / (path + ('' if '.' in Path(path).name else '.txt'))
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text((ROOT / path).read_text(encoding='utf-8'), encoding='utf-8')


if __name__ == '__main__':
    main(*sys.argv[1:])
