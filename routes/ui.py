"""The page at ``/ui``: one document with its styles and scripts in it, so that nothing else is ever fetched.

Where tokens are asked for, a browser's first request carries none. It is answered 401 like everybody's, with the page
as the body: it asks for a token and sends it with every request it makes. There is nothing in the page but its code.
"""

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Response

PATH = "/ui"
router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent / "page"
_STYLE = re.compile(r'<link rel="stylesheet" href="(\w+\.css)">')
_SCRIPT = re.compile(r'<script src="(\w+\.js)"></script>')


def _inlined(text: str, mention: re.Pattern[str], tag: str) -> tuple[str, list[str]]:
    """A text with the files it mentions in their places, and what the policy of the page calls each one."""
    sources: list[str] = []

    def put(match: re.Match[str]) -> str:
        content = (_FOLDER / match[1]).read_text("utf-8")
        sources.append(f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'")
        return f"<{tag}>{content}</{tag}>"

    return mention.sub(put, text), sources


_text, _styles = _inlined((_FOLDER / "page.html").read_text("utf-8"), _STYLE, "style")
_text, _scripts = _inlined(_text, _SCRIPT, "script")
#: Nothing runs that is not in the page, nothing is asked of another server, and no text becomes markup.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {' '.join(_scripts)}",
        f"style-src {' '.join(_styles)}",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
PAGE = _text.encode()
#: The same page for who came without a token.
SIGN_IN = PAGE.replace(b'<html lang="en">', b'<html lang="en" data-sign-in>')
HEADERS = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


@router.get(PATH)
async def page() -> Response:
    """The page."""
    return Response(PAGE, headers={name.decode(): value.decode() for name, value in HEADERS})
