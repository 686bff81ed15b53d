#!/usr/bin/env python3
"""Checks a built site.

    check.py FOLDER       status 1 when a link or an anchor leads nowhere, or a page asks a network for something
"""
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {('script', 'src'), ('link', 'href'), ('img', 'src'), ('iframe', 'src'), ('source', 'src')}


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loads = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.anchors.update(named[key] for key in ('id', 'name') if named.get(key))
        if tag == 'a' and named.get('href'):
            self.links.append(named['href'])
        for key in ('src', 'href'):
            if (tag, key) in LOADS and named.get(key) and named.get('rel') != 'canonical':
                self.loads.append(named[key])


def problems(folder):
    folder = Path(folder).resolve()
    pages = {path: Page(path.read_text(encoding='utf-8', errors='replace')) for path in folder.rglob('*.html')}
    for path, page in sorted(pages.items()):
        name = path.relative_to(folder)
        if name.name == '404.html':  # served from any depth, so its links are from the top
            continue
        for link in page.loads + page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loads and parts.scheme not in ('data', 'javascript'):
                    yield f'{name}: loads {link}'
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target = target / 'index.html'
            if not target.exists():
                yield f'{name}: {link} is not there'
            elif name.parts[0] != 'api' and parts.fragment and target in pages and \
                    unquote(parts.fragment) not in pages[target].anchors:  # inside the reference they are Doxygen's
                yield f'{name}: {link} has no such anchor'


if __name__ == '__main__':
    found = sorted(set(problems(sys.argv[1])))
    for line in found:
        print('docs: ' + line, file=sys.stderr)
    sys.exit(1 if found else 0)
