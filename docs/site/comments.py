#!/usr/bin/env python3
"""What Doxygen reads of a header: its plain comments as documentation.

    comments.py HEADER        prints the header as Doxygen is to see it

The comment at the head of the file becomes that of the file, a comment in front of a declaration that of the
declaration, one behind a member that of the member. Comments inside functions stay what they are. Indented lines
(equations, calls, tables) are kept as they stand. The inline namespace of the instruction set goes.
"""
import re
import sys

SPECIAL = re.compile(r'[\\@<>&#%$"]')
# One at a time: strings and characters, comments, and what opens, closes or ends a declaration.
TOKEN = re.compile(r'R"\(.*?\)"|"(?:\\.|[^"\\])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\])+\'|'
                   r'//[^\n]*|/\*.*?\*/|[{};]', re.S)
SCOPE = re.compile(r'\b(namespace|class|struct|union|enum)\b(?![^{]*\()')


def document(lines):
    """The lines of a comment, without their slashes, as Doxygen's markup."""
    out, block = [], []

    def verbatim():
        while block and not block[-1].strip():
            block.pop()
        if block:
            least = min(len(line) - len(line.lstrip()) for line in block if line.strip())
            # Not a command of ours: what ends the block cannot stand in an equation.
            out.extend(['@verbatim', *(line[least:] for line in block), '@endverbatim'])
        block.clear()

    for line in lines:
        if re.match(r' {3,}\S', line) or block and not line.strip():
            block.append(line)
        else:
            verbatim()
            out.append(SPECIAL.sub(lambda m: '\\' + m[0], line.strip()))
    verbatim()
    return out


def comment(lines, file=None):
    body = document(lines)
    if file:
        # The first sentence is what lists show; a paragraph of its own.
        end = next((i for i, line in enumerate(body) if line == '' or line.startswith('@')), len(body))
        first, *rest = re.split(r'(?<=[.:]) +(?=[A-Z])', ' '.join(body[:end]), maxsplit=1)
        body = [f'@file {file}', '@brief ' + first, '', *rest, *body[end:]]
    return ['/**', *body, '*/']


def scopes(text):
    """For each line: does it begin in a namespace or a type, and not in a function?"""
    open_braces, declaration = [], 0
    answer, position = [], 0

    def advance(to):
        while len(answer) < text.count('\n', 0, to) + 1:
            answer.append(all(open_braces))

    for token in TOKEN.finditer(text):
        advance(token.start())
        if token[0] == '{':
            open_braces.append(bool(SCOPE.search(text[declaration:token.start()])) and all(open_braces))
            declaration = token.end()
        elif token[0] == '}':
            if open_braces:
                open_braces.pop()
            declaration = token.end()
        elif token[0] == ';':
            declaration = token.end()
    while len(answer) < text.count('\n') + 1:
        answer.append(all(open_braces))
    return answer


def convert(text, file):
    text = re.sub(r'namespace fovea::inline FOVEA_ISA', 'namespace fovea', text)
    lines = text.split('\n')
    documented = scopes(text)
    out, i = [], 0

    def run(first):
        last = first
        while last < len(lines) and lines[last].lstrip().startswith('//'):
            last += 1
        return last, [line.lstrip()[2:] for line in lines[first:last]]

    if lines[0].startswith('//'):
        i, head = run(0)
        out += comment(head, file)
    while i < len(lines):
        line = lines[i]
        if documented[i] and line.lstrip().startswith('//'):
            end, block = run(i)
            before_declaration = end < len(lines) and lines[end].strip() not in ('', '}') and \
                not lines[end].lstrip().startswith(('#', '}', 'public:', 'private:', 'protected:'))
            out += comment(block) if before_declaration else lines[i:end]
            i = end
            continue
        behind = re.match(r'( *[^ #}/].*[;,\w]) *// (.*)$', line) if documented[i] else None
        if behind:
            column, text_behind = line.rindex('// '), [behind[2]]
            while i + 1 < len(lines) and lines[i + 1].strip().startswith('//') and \
                    lines[i + 1].index('//') == column and column > 8:
                i += 1
                text_behind.append(lines[i].strip()[2:].strip())
            out.append(f'{behind[1]}  /**< {" ".join(document(text_behind))} */')
        else:
            out.append(line)
        i += 1
    return '\n'.join(out)


if __name__ == '__main__':
    path = sys.argv[1]
    with open(path, encoding='utf-8') as header:
        name = path.split('include/', 1)[-1]
        sys.stdout.write(convert(header.read(), name))
