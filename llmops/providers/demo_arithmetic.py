"""Sums in plain English: "what is 12 times 7?" gives 84. Nothing is evaluated but numbers and operators."""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping

_MAX_CHARACTERS = 80
_MAX_BASE, _MAX_EXPONENT = 10**6, 64

_SUM = re.compile(
    r"\s*(?:please\s+)?(?:what(?:'s| is)|how much (?:is|makes)|calculate|compute|evaluate|solve|work out)?\s*"
    r"(?P<sum>[\d.()+\-*/%\s]*\d[\d.()+\-*/%\s]*?)\s*(?:=\s*)?\??\.?\s*(?:please)?[?.!\s]*",
    re.IGNORECASE,
)
_SPOKEN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(spoken, re.IGNORECASE), symbol)
    for spoken, symbol in (
        (r"(?<=\d),(?=\d{3}\b)", ""),
        (r"\bplus\b", "+"),
        (r"\bminus\b|−", "-"),
        (r"\btimes\b|\bmultiplied by\b|[×·]|(?<=[\d\s])x(?=[\d\s])", "*"),
        (r"\bdivided by\b|\bover\b|÷", "/"),
        (r"\bto the power of\b|\^", "**"),
        (r"’", "'"),
    )
)
_OPERATORS: Mapping[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def calculate(text: str) -> tuple[str, str] | None:
    """Work out the sum a text asks for.

    Returns:
        The sum as it was read and its value, to ten digits where it is no integer; None where the text is not a sum,
        or is one without a value (a division by zero) or with one too large to be of use.
    """
    if len(text) > _MAX_CHARACTERS:
        return None
    for spoken, symbol in _SPOKEN:
        text = spoken.sub(symbol, text)
    asked = _SUM.fullmatch(text)
    if asked is None:
        return None
    read = " ".join(asked["sum"].split())
    try:
        tree = ast.parse(read, mode="eval").body
        value = _value(tree)
    except (SyntaxError, ValueError, ArithmeticError):
        return None
    return None if isinstance(tree, ast.Constant) else (read, _written(value))


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=kind, right=right):
            return _OPERATORS[type(kind)](_value(left), _value(right))
    raise ValueError("not a sum")


def _power(base: float, exponent: float) -> float:
    if abs(base) > _MAX_BASE or abs(exponent) > _MAX_EXPONENT:
        raise ValueError("too large to be of use")
    power = base**exponent
    if isinstance(power, complex):
        raise ValueError("not a real number")
    return float(power) if isinstance(power, float) else int(power)


def _written(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e15 else f"{value:.10g}"
