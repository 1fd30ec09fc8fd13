"""compile.py SOURCE PYC: compile one module as python's recipe compiles its standard library."""
import importlib._bootstrap_external
import importlib.util
import os
import sys

with open(sys.argv[1], "rb") as file:
    source = file.read()
code = compile(source, os.path.basename(sys.argv[1]), "exec", dont_inherit=True, optimize=2)
with open(sys.argv[2], "wb") as file:
    file.write(importlib._bootstrap_external._code_to_hash_pyc(
        code, importlib.util.source_hash(source), checked=False))
