"""Numbers of people in text: cards, bank accounts, telephones, social security.

A number is looked for only where a text has seven characters in a row that a number could be made of. What carries
a check digit is believed only if it is right; what does not must be written as people write it, or follow a word that
says what it is. Times, dates, UUIDs, fractions, and ids that are only digits are no numbers of people.

Source: https://en.wikipedia.org/wiki/Payment_card_number (first digits and lengths),
https://www.swift.com/resource/iban-registry-pdf (lengths), https://www.ssa.gov/employer/randomization.html
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

Place = tuple[int, int]

#: What typesetting and models put in place of spaces and dashes; one character for one, so that places stay.
_PLAIN = str.maketrans({"\u00a0": " ", "\u2007": " ", "\u2009": " ", "\u202f": " "} | dict.fromkeys("‐‑‒–−", "-"))
_RUN = re.compile(r"[0-9+(][0-9 ()+./-]{6,}+")
_NOT_DIGIT = re.compile(r"[^0-9]+")
_FEWEST_PHONE, _FEWEST_SSN, _FEWEST_CARD = 7, 9, 13

_BEFORE, _AFTER = r"(?<!\w)(?<![0-9]\.)", r"(?!\w)(?!\.[0-9])"
#: Looked for at every place (a lookahead takes no text), so that what is no card cannot hide one that overlaps it.
_CARDS = [
    re.compile(f"{_BEFORE}(?=({form}){_AFTER})")
    for form in (
        r"[2-6][0-9]{12,18}",
        r"[2-6][0-9]{3}( |-)[0-9]{4}\2[0-9]{4}\2[0-9]{4}\2[0-9]{3}",
        r"[2-6][0-9]{3}( |-)[0-9]{4}\2[0-9]{4}\2[0-9]{4}",
        r"3[0-9]{3}( |-)[0-9]{6}\2[0-9]{4,5}",
    )
]
_SSN = re.compile(
    r"(?<![\w-])(?<![0-9] )(?!000|666|9)[0-9]{3}([ -])(?!00)[0-9]{2}\1(?!0000)[0-9]{4}(?![\w-])(?!\.[0-9])"
)

_DATE_FORM = r"(?:19|20)[0-9]{2}[ ./-][0-9]{1,2}[ ./-][0-9]{1,2}|[0-9]{1,2}[ ./-][0-9]{1,2}[ ./-](?:19|20)[0-9]{2}"
_DATE = re.compile(rf"\(?(?:{_DATE_FORM})")
#: What most runs are: a date, perhaps with its hour, or a fraction.
_HARMLESS = re.compile(rf"[( ]*(?:(?:{_DATE_FORM})(?: +[0-9]{{1,2}})?|[0-9]*\.[0-9]+)[ )./-]*")
_INTERNATIONAL = re.compile(
    r"(?<![\w+])(?:\+\(?|00(?=[1-9][0-9]{0,2}[ /-]))[1-9](?:[ ()./-]{0,3}+[0-9]){7,14}+(?![0-9])"
)
_AMERICAN = re.compile(
    r"(?<![\w.+-])(?<![0-9] )(?:1[ .-])?"
    r"(?:\([2-9][0-9]{2}\)[ .-]?[0-9]{3}[ .-]?|(?![2-7]00)[2-9][0-9]{2}([ .-])[0-9]{3}\1)[0-9]{4}(?![\w-])(?!\.[0-9])"
)
_NATIONAL = re.compile(
    r"(?<![\w.+/:-])(?<![0-9] )(?!(?:[0-9]{2} ){5}[0-9]{2}(?![0-9]))"
    r"(?:\(0[1-9][0-9]{0,4}\)|0[1-9][0-9]{0,4})(?:[ /-]{1,3}[0-9]{2,8}+){1,5}+(?![\w-])(?!\.[0-9])"
)
#: After a word that says so, any way of writing it will do.
_ANNOUNCED = re.compile(r"[0-9](?:[ ()./-]{0,2}+[0-9]){6,14}+(?!\w)(?!\.[0-9])")
_ANNOUNCEMENT = re.compile(
    r"\b(?:(?:tele)?(?:phone|fon)|(?:tel|mobile?|cell|handy|fax|whatsapp|sms|call (?:me|us|him|her|them))\b)[^\d\n]*\Z",
    re.IGNORECASE,
)
_LOOK_BACK = 40

_IBAN_START = re.compile(r"[0-9]{2}(?<=[A-Za-z]{2}[0-9]{2})(?<!\w[A-Za-z]{2}[0-9]{2})")
_IBAN_LENGTHS = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
_IBANS = {
    country: re.compile(rf"[A-Za-z]{{2}}[0-9]{{2}}(?:[ -]?[A-Za-z0-9]){{{length - 4}}}(?![A-Za-z0-9])")
    for length, countries in _IBAN_LENGTHS.items()
    for country in countries.split()
}

#: Twice a digit, and the sum of the digits of that.
_DOUBLED = str.maketrans("0123456789", "0246813579")


@dataclass(frozen=True, slots=True)
class Numbers:
    """A text in which numbers are looked for.

    Attributes:
        runs: Where it has seven digits and more, with what people write between them; start, end, how many digits.
    """

    text: str
    runs: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, text: str) -> "Numbers":
        """Read a text."""
        plain = text if text.isascii() else text.translate(_PLAIN)
        found = ((run, len(_digits(run[0]))) for run in _RUN.finditer(plain) if not _HARMLESS.fullmatch(run[0]))
        return cls(plain, tuple((*run.span(), count) for run, count in found if count >= _FEWEST_PHONE))

    def cards(self) -> Iterator[Place]:
        """Find numbers of payment cards."""
        for start, end, count in self.runs:
            for form in _CARDS if count >= _FEWEST_CARD else ():
                # Two more characters than the run, for the boundary.
                for found in form.finditer(self.text, start, end + 2):
                    if _is_card(_digits(found[1])):
                        yield found.span(1)

    def social_security(self) -> Iterator[Place]:
        """Find numbers of the social security of the United States."""
        for start, end, count in self.runs:
            if count >= _FEWEST_SSN:
                yield from (found.span() for found in _SSN.finditer(self.text, start, end + 2))

    def phones(self) -> Iterator[Place]:
        """Find telephone numbers."""
        for start, end, _ in self.runs:
            announced = _ANNOUNCEMENT.search(self.text, max(0, start - _LOOK_BACK), start)
            forms = (_INTERNATIONAL, _AMERICAN, _NATIONAL, *([_ANNOUNCED] if announced else []))
            for form in forms:
                for found in form.finditer(self.text, start, end + 2):
                    if _is_phone(found[0]):
                        yield found.span()

    def accounts(self) -> Iterator[Place]:
        """Find numbers of bank accounts (IBAN)."""
        for digits in _IBAN_START.finditer(self.text):
            start = digits.start() - 2
            form = _IBANS.get(self.text[start : start + 2].upper())
            found = form.match(self.text, start) if form else None
            if found and _is_iban(found[0]):
                yield found.span()


def _digits(written: str) -> str:
    return _NOT_DIGIT.sub("", written)


def _is_card(number: str) -> bool:
    return _has_issuer(number) and _luhn(number)


def _has_issuer(number: str) -> bool:
    length, two, three, four = len(number), int(number[:2]), int(number[:3]), int(number[:4])
    if number[0] == "4":
        return length in (13, 16, 19)
    if two in (34, 37):
        return length == 15
    if two in (36, 38, 39) or 300 <= three <= 305:
        return 14 <= length <= 19
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        return length == 16
    return length >= 16 and (3528 <= four <= 3589 or two in (50, 56, 57, 58) or number[0] == "6")


def _luhn(number: str) -> bool:
    """Source: ISO/IEC 7812-1 annex B"""
    return sum(map(int, number[-1::-2] + number[-2::-2].translate(_DOUBLED))) % 10 == 0


def _is_iban(written: str) -> bool:
    """Source: ISO 13616, ISO 7064 mod 97-10"""
    plain = written.replace(" ", "").replace("-", "")
    return int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97 == 1


def _is_phone(written: str) -> bool:
    marks = _NOT_DIGIT.findall(written.lstrip("+"))
    # ``+1.2345678`` is a fraction.
    return not _DATE.match(written) and marks != ["."] and _FEWEST_PHONE <= len(_digits(written)) <= 15
