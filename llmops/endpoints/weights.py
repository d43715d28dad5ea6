"""Sources of weights as documents name them: a path of a GGUF file, or ``hf://org/repo/file.gguf[@revision]``."""

import re

SCHEME = "hf://"
SUFFIX = ".gguf"

_NAME = r"[A-Za-z0-9][\w.-]*"
_HUB = re.compile(
    rf"{SCHEME}(?P<repo>{_NAME}/{_NAME})/(?P<path>{_NAME}(/{_NAME})*\.gguf)(@(?P<revision>{_NAME}(/{_NAME})*))?",
    re.ASCII,
)


def parse(source: str) -> tuple[str, str, str] | None:
    """Split a source of the Hugging Face hub.

    Returns:
        Repository, path inside it, and revision (branch, tag or commit); None for a path of this machine.

    Raises:
        ValueError: It is neither, or a part of it would lead out of the model directory.
    """
    if not source.startswith(SCHEME) and source.endswith(SUFFIX):
        return None
    found = _HUB.fullmatch(source)
    if found is None or ".." in source or "--" in found["repo"]:
        raise ValueError(f"model source '{source}': write hf://org/repo/file.gguf, or a path that ends in .gguf")
    return found["repo"], found["path"], found["revision"] or "main"
