"""Codes of languages, and which of a model's own a caller means.

Models call German "de" (M2M100), "__de__", "de_DE" (mBART) or "deu_Latn" (NLLB); callers say what
they are used to. Codes are those of ISO 639-1 and 639-3, scripts those of ISO 15924.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from lmaas.errors import InvalidInput

SHOWN: Final = 250
_CODES: Final = (
    "aa:aar ab:abk af:afr ak:aka/twi am:amh an:arg ar:arb/ara as:asm av:ava ay:ayr/aym "
    "az:azj/aze ba:bak be:bel bg:bul bi:bis bm:bam bn:ben bo:bod br:bre bs:bos ca:cat ce:che "
    "ch:cha co:cos cs:ces cv:chv cy:cym da:dan de:deu dv:div dz:dzo ee:ewe el:ell en:eng "
    "eo:epo es:spa et:est/ekk eu:eus fa:pes/fas ff:fuv/ful fi:fin fj:fij fo:fao fr:fra fy:fry "
    "ga:gle gd:gla gl:glg gn:grn/gug gu:guj gv:glv ha:hau he:heb hi:hin hr:hrv ht:hat hu:hun "
    "hy:hye ia:ina id:ind ig:ibo ii:iii ik:ipk io:ido is:isl it:ita iu:iku ja:jpn jv:jav "
    "ka:kat kg:kon ki:kik kk:kaz kl:kal km:khm kn:kan ko:kor ks:kas ku:kmr/kur kv:kom kw:cor "
    "ky:kir la:lat lb:ltz lg:lug li:lim ln:lin lo:lao lt:lit lu:lub lv:lvs/lav mg:plt/mlg "
    "mh:mah mi:mri mk:mkd ml:mal mn:khk/mon mr:mar ms:zsm/msa mt:mlt my:mya na:nau nb:nob "
    "nd:nde ne:npi/nep ng:ndo nl:nld nn:nno no:nob/nor nr:nbl nv:nav ny:nya oc:oci oj:oji "
    "om:gaz/orm or:ory/ori os:oss pa:pan pi:pli pl:pol ps:pbt/pus pt:por qu:quy/que rm:roh "
    "rn:run ro:ron ru:rus rw:kin sa:san sc:srd sd:snd se:sme sg:sag si:sin sk:slk sl:slv "
    "sm:smo sn:sna so:som sq:als/sqi sr:srp ss:ssw st:sot su:sun sv:swe sw:swh/swa ta:tam "
    "te:tel tg:tgk th:tha ti:tir tk:tuk tl:tgl/fil tn:tsn to:ton tr:tur ts:tso tt:tat tw:twi "
    "ty:tah ug:uig uk:ukr ur:urd uz:uzn/uzb ve:ven vi:vie vo:vol wa:wln wo:wol xh:xho "
    "yi:ydd/yid yo:yor za:zha zh:zho/cmn zu:zul"
)
THREE_LETTERS: Final[Mapping[str, tuple[str, ...]]] = {
    pair[:2]: tuple(pair[3:].split("/")) for pair in _CODES.split()
}
"""What each two-letter code is in three letters; the first is the one that NLLB has."""
TWO_LETTERS: Final = {
    three: two for two, many in reversed(list(THREE_LETTERS.items())) for three in reversed(many)
}
SAME_AS: Final = {
    "zt": "zh-Hant", "zh-tw": "zh-Hant", "zh-hk": "zh-Hant", "zh-mo": "zh-Hant",
    "zh-cn": "zh-Hans", "zh-sg": "zh-Hans", "iw": "he", "in": "id", "ji": "yi", "jw": "jv",
    "pb": "pt-BR", "no": "nb",
}  # fmt: skip
"""LibreTranslate's own codes, regions that are scripts, and codes of the past."""
PREFERRED: Final = ("Latn", "Hans", "Cyrl", "Arab")
"""Of several scripts of one language, which is meant where none is said; the first there is."""
_CODE: Final = re.compile(r"\A_{0,2}([A-Za-z]{2,3})((?:[-_][A-Za-z0-9]{2,8}){0,3})_{0,2}\Z")


def short(code: str) -> str:
    """The two letters of a code, or the three of a language that has no two, in lower case."""
    found = _CODE.match(SAME_AS.get(code.lower(), code))
    if found is None:
        return code.lower()
    letters: str = found.group(1).lower()
    return TWO_LETTERS.get(letters, letters)


def script(code: str) -> str | None:
    """The script that a code names, as "Latn"."""
    found = _CODE.match(SAME_AS.get(code.lower(), code))
    parts = re.split(r"[-_]", found.group(2)) if found else []
    return next((part.title() for part in parts if len(part) == 4 and part.isalpha()), None)


def resolve(code: str, known: Iterable[str]) -> str | None:
    """Which of the `known` codes is meant by `code`; None where it is none of them."""
    return _resolve(code, tuple(known))


@lru_cache(maxsize=1024)
def _resolve(code: str, known: tuple[str, ...]) -> str | None:
    if code in known:
        return code
    plain = code.replace("-", "_").strip("_").lower()
    for each in known:
        if each.strip("_").replace("-", "_").lower() == plain:
            return each
    same = [each for each in known if short(each) == short(code)]
    wanted = script(code)
    if wanted is not None and any(script(each) for each in same):
        same = [each for each in same if script(each) == wanted]
    order = {letters: place for place, letters in enumerate(PREFERRED)}
    same.sort(key=lambda each: (_region(each) is not None and _region(each) != _region(code),
                                order.get(script(each) or "", len(order))))  # fmt: skip
    return same[0] if same else None


def _region(code: str) -> str | None:
    """The region that a code names, as "BR"."""
    found = _CODE.match(SAME_AS.get(code.lower(), code))
    parts = re.split(r"[-_]", found.group(2)) if found else []
    return next((part.upper() for part in parts if len(part) == 2), None)


def require(code: str, known: Iterable[str], param: str) -> str:
    """The model's own code for `code`. Raises InvalidInput listing those that there are."""
    codes = list(known)
    found = resolve(code, codes)
    if found is None:
        more = f" and {len(codes) - SHOWN} more" if len(codes) > SHOWN else ""
        raise InvalidInput(
            f"The model does not know the language {code[:40]!r}; it knows "
            f"{', '.join(codes[:SHOWN])}{more}.",
            param=param,
        )
    return found
