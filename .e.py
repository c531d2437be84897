def sub(path, *pairs):
    text = open(path).read()
    for old, new in pairs:
        assert text.count(old) == 1, (path, text.count(old), old)
        text = text.replace(old, new)
    open(path, "w").write(text)
sub("src/llmtwin_data/prompts/__init__.py",
("as asked for, else 120 an instruction, 40 an opening, 40 the frame.", "as asked for, else 120 an instruction, 40 an opening and the frame."))
sub("tests/scripted.py",
('''            item["opening"] = opening_of(text.partition("\\nContent:\\n")[2] if prompt.asks == "verdicts" else text)
''', '''            item["opening"] = opening_of(text.partition("\\nContent:\\n")[2] or text)
'''),
('''    """Copy the first six words of a text, of a script without spaces 24 characters."""
    found = re.match(r"\\s*(?:[^\\w\\s]*\\w\\S*\\s+|\\S+\\s+){0,9}\\S+", text[:400])
    first = found.group(0) if found else text
    return first[:24] if PIECE.search(first) and not WORD.search(first[:24]) else first
''', '''    """Copy the first words of a text, of a script without spaces 24 characters."""
    first = " ".join(text[:400].split()[:9])
    return first[:24] if PIECE.search(first[:24]) else first
'''))
